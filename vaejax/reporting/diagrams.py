"""Figures 2, 9 and 10: schematic drawings of a model, with the sizes that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from vaejax.evaluation.layers import Coupling, Decoupling, LayerTable
from vaejax.reporting.figures import BLUE, INK, ORANGE, WIDTH, style
from vaejax.reporting.panels import NOTE, axes_at, text_at, titled

_NET, _LATENT, _DATA, _FLOW = "#dcebf5", "#ffffff", "#f1f1f1", "#fbe5d6"
_TRAIN: Any = {"color": BLUE, "linestyle": "solid"}
_SAMPLE: Any = {"color": ORANGE, "linestyle": (0, (4, 1.5))}
_SCALE = "Bars: how many numbers a layer gives out, on a logarithmic scale that begins at 1."


@style()
def decoupling(runs: Mapping[str, Decoupling]) -> Figure:
    """How training and sampling pass through a model, with or without a generation space."""
    title = "Training and sampling: $z$ represents the data; what generates is $z$ or $z_0 = g(z)$"
    heights = [2.1 if run.is_decoupled else 1.15 for run in runs.values()]
    figure, top = titled(WIDTH, sum(heights) + 0.35 * len(runs) + 0.3, title)
    for (label, run), height in zip(runs.items(), heights, strict=True):
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        _passes(_canvas(figure, top + 0.3, height), run)
        top += height + 0.35
    keys = _canvas(figure, figure.get_figheight() - 0.3, 0.28)
    for x, how, name in ((0.1, _TRAIN, "training"), (1.4, _SAMPLE, "sampling")):
        _arrow(keys, (x, 0.14), (x + 0.4, 0.14), **how)
        keys.text(x + 0.47, 0.14, name, va="center", fontsize=8)
    return figure


def _passes(axes: Axes, run: Decoupling) -> None:
    dim, shape = int(run.layers.latent_dim), _event(run.layers.input_shape)
    high = axes.get_ylim()[1] - 0.35
    kind = "representation, " if run.is_decoupled else "latent, "
    spots = {"x": 0.55, "encoder": 1.75, "z": 3.4, "decoder": 5.0, "out": 6.25}
    _box(axes, spots["x"], high, 0.75, 0.55, f"$x$\n{shape}", _DATA)
    _box(axes, spots["encoder"], high, 0.9, 0.55, "encoder\n$q(z|x)$", _NET)
    _box(axes, spots["z"], high, 1.25, 0.6, f"$z$\n{kind}{dim}-D", _LATENT)
    _box(axes, spots["decoder"], high, 0.9, 0.55, "decoder\n$p(x|z)$", _NET)
    _box(axes, spots["out"], high, 0.75, 0.55, f"$\\hat x$\n{shape}", _DATA)
    for start, end in ((0.95, 1.28), (2.22, 2.75), (4.05, 4.53), (5.47, 5.85)):
        _arrow(axes, (start, high), (end, high), **_TRAIN)
    for start, end in ((4.05, 4.53), (5.47, 5.85)):
        _arrow(axes, (start, high - 0.13), (end, high - 0.13), **_SAMPLE)
    if run.is_decoupled:
        _flow(axes, run, spots["z"], high)
    else:
        _prior(axes, run, spots["z"], high)


def _prior(axes: Axes, run: Decoupling, z: float, high: float) -> None:
    """Where z comes from where it is all there is."""
    how = ", fitted to codes afterwards" if run.is_fitted else "$ = N(0, I)$"
    axes.text(z + 0.12, high - 0.68, f"$z \\sim p(z)${how}", fontsize=8, color=ORANGE)
    _arrow(axes, (z, high - 0.72), (z, high - 0.32), **_SAMPLE)
    if not run.is_fitted:
        axes.text(
            z - 0.12, high - 0.68, "KL to the same $p(z)$", fontsize=8, color=BLUE, ha="right"
        )


def _flow(axes: Axes, run: Decoupling, z: float, high: float) -> None:
    """The way to generation space and back."""
    low, dim = 0.34, int(run.layers.latent_dim)
    name = f"flow $g$, {run.num_blocks} coupling blocks" if run.num_blocks else "flow $g$"
    middle = (high + low) / 2
    _box(axes, z, middle, 2.3, 0.28, name, _FLOW)
    _box(axes, z, low, 1.25, 0.6, f"$z_0$\ngeneration, {dim}-D", _LATENT)
    ways = ((0.35, (low, high), _SAMPLE), (-0.35, (high, low), _TRAIN))
    for offset, ends, how in ways[:1] if run.is_fitted else ways:
        step = 0.3 if ends[0] < ends[1] else -0.3
        half = np.sign(step) * 0.15
        _arrow(axes, (z + offset, ends[0] + step), (z + offset, middle - half), **how)
        _arrow(axes, (z + offset, middle + half), (z + offset, ends[1] - step), **how)
    name, color = "KL: $N(g(z); 0, I)\\,|\\det dg/dz|$", BLUE
    if run.is_fitted:
        name, color = "$g$ is fitted to codes afterwards", NOTE
    axes.text(z - 0.75, low, name, fontsize=8, color=color, ha="right", va="center")
    axes.text(z + 1.2, low, "$z_0 \\sim N(0, I)$,  $z = g^{-1}(z_0)$", fontsize=8, color=ORANGE,
              va="center")  # fmt: skip
    _arrow(axes, (z + 1.15, low), (z + 0.66, low), **_SAMPLE)


@style()
def coupling_layer(runs: Mapping[str, Coupling]) -> Figure:
    """The chain of coupling blocks with what passes through each, and one block in detail."""
    title = "The flow between generation space $z_0$ and representation space $z$"
    figure, top = titled(WIDTH, 3.9 * len(runs), title)
    for label, run in runs.items():
        note = f"{label}: {len(run.masks)} blocks, {int(run.parameters):,} parameters"
        text_at(figure, 0.1, top, note, fontsize=8.5, weight="bold")
        _chain(_canvas(figure, top + 0.25, 1.15), run.masks)
        _block(_canvas(figure, top + 1.5, 2.3), run)
        top += 3.9
    return figure


def _chain(axes: Axes, masks: np.ndarray) -> None:
    """Blocks from z0 to z, each with its mask: filled dimensions pass, open ones change."""
    count, dim = masks.shape
    shown = min(count, 8)
    places = np.linspace(1.0, WIDTH - 1.2, shown)
    for k, x in enumerate(places):
        _box(axes, x, 0.55, 0.48, 0.62, "", _FLOW)
        for d in range(min(dim, 8)):
            y = 0.78 - 0.46 * (d + 0.5) / min(dim, 8)
            passes = bool(masks[k, d])
            face = INK if passes else "white"
            axes.plot([x], [y], marker="o", markersize=5 if dim <= 4 else 3, color=INK,
                      markerfacecolor=face, markeredgewidth=0.8)  # fmt: skip
        axes.text(x, 0.98, f"$T_{{{k + 1}}}$", ha="center", fontsize=8)
    edges = [0.42, *places, WIDTH - 0.62]
    for k in range(len(edges) - 1):
        start = edges[k] + (0.26 if k else 0.0)
        end = edges[k + 1] - (0.26 if k < shown else 0.0)
        _arrow(axes, (start, 0.55), (end, 0.55), color=INK)
    axes.text(0.25, 0.55, "$z_0$", va="center", ha="center", fontsize=10)
    axes.text(WIDTH - 0.45, 0.55, "$z$", va="center", ha="center", fontsize=10)
    more = f", the first {shown} of {count} blocks" if shown < count else ""
    more += f", the first 8 of {dim} dimensions" if dim > 8 else ""
    note = f"filled: dimensions that pass; open: dimensions that change{more}"
    axes.text(0.1, 0.06, note, fontsize=7.5, color=NOTE)


def _block(axes: Axes, run: Coupling) -> None:
    """u = (what passes, the rest) -> (the same, rest * exp(s) + t)."""
    up, down, nets = 1.95, 0.42, 1.2
    axes.text(0.1, up, "$b\\,u$", va="center", fontsize=10)
    axes.text(0.1, down, "$(1-b)\\,u$", va="center", fontsize=10)
    axes.text(0.1, 2.2, "one block", fontsize=7.5, color=NOTE)
    layers = " - ".join(str(width) for width in run.widths)
    for x, name, is_bounded in ((2.2, "s", run.bounded[0]), (4.5, "t", run.bounded[1])):
        ending = ", tanh" if is_bounded else ""
        _box(axes, x, nets, 1.75, 0.5, f"network ${name}$\n{layers}{ending}", _NET)
        _arrow(axes, (x, up), (x, nets + 0.26), color=INK)
    for x, sign in ((2.2, "$\\times$"), (4.5, "$+$")):
        axes.plot([x], [down], marker="o", markersize=15, color=INK, markerfacecolor="white",
                  markeredgewidth=0.8, zorder=3)  # fmt: skip
        axes.text(x, down, sign, ha="center", va="center", zorder=4, fontsize=9)
    _arrow(axes, (2.2, nets - 0.26), (2.2, down + 0.13), color=INK)
    _arrow(axes, (4.5, nets - 0.26), (4.5, down + 0.13), color=INK)
    axes.text(2.27, (nets + down) / 2 - 0.05, "exp", fontsize=8)
    _arrow(axes, (0.5, up), (WIDTH - 1.05, up), color=INK)
    for start, end in ((0.85, 2.07), (2.33, 4.37), (4.63, WIDTH - 1.9)):
        _arrow(axes, (start, down), (end, down), color=INK)
    axes.text(WIDTH - 0.98, up, "$b\\,T(u)$", va="center", fontsize=10)
    axes.text(WIDTH - 1.83, down, "$(1-b)\\,(u\\,e^{s(bu)} + t(bu))$", va="center", fontsize=8.5)


@style()
def architecture(runs: Mapping[str, LayerTable]) -> Figure:
    """Encoder and decoder layer by layer, with what each gives out and how many parameters."""
    groups: dict[str, list[str]] = {}
    for label, table in runs.items():
        groups.setdefault(repr([field.tolist() for field in table]), []).append(label)
    tables = [(" and ".join(labels), runs[labels[0]]) for labels in groups.values()]
    rows = [max(np.sum(table.part == "decoder"), np.sum(table.part != "decoder"))
            for _, table in tables]  # fmt: skip
    room = sum(0.3 * row + 0.8 for row in rows) + 0.15
    figure, top = titled(WIDTH, room, "Layers: what each gives out, and its number of parameters")
    text_at(figure, 0.1, top + room - 0.3, _SCALE, fontsize=7.5, color=NOTE)
    for (label, table), row in zip(tables, rows, strict=True):
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        axes = _canvas(figure, top + 0.2, 0.3 * row + 0.55)
        shape, dim = _event(table.input_shape), int(table.latent_dim)
        encodes = table.part != "decoder"
        names = (
            f"Encoder: $x$, {shape}, to $q(z|x)$",
            f"Decoder: $z$, {dim}-D, to $\\hat x$, {shape}",
        )
        _column(axes, 0.1, names[0], table, encodes)
        _column(axes, WIDTH / 2 + 0.1, names[1], table, ~encodes)
        top += 0.3 * row + 0.8
    return figure


def _column(axes: Axes, left: float, name: str, table: LayerTable, rows: np.ndarray) -> None:
    """A bar for each layer, as long as the logarithm of how many numbers it gives out."""
    height, full = axes.get_ylim()[1], WIDTH / 2 - 0.2
    axes.text(left, height - 0.16, name, fontsize=8)
    total = f"{int(table.parameters[rows].sum()):,}"
    axes.text(left + full, height - 0.16, total, fontsize=8, ha="right")
    sizes = np.maximum(table.shape, 1).prod(axis=1)
    widest = np.log(max(sizes.max(), 2))
    for k, row in enumerate(np.flatnonzero(rows)):
        y, width = height - 0.4 - 0.3 * k, (full - 0.6) * max(np.log(sizes[row]) / widest, 0.02)
        color = _FLOW if table.part[row] == "posterior" else _NET
        axes.add_patch(Rectangle((left, y - 0.12), width, 0.24, color=color, linewidth=0))
        given = _sizes(table.shape[row][table.shape[row] > 0])
        text = f"{table.layer[row]}  →  {given}"
        axes.text(left + 0.06, y - 0.01, text, va="center", fontsize=7.5)
        count = f"{int(table.parameters[row]):,}"
        axes.text(left + full, y - 0.01, count, va="center", ha="right", fontsize=7.5, color=NOTE)


def _sizes(shape: np.ndarray) -> str:
    return " x ".join(str(int(size)) for size in shape)


def _event(shape: np.ndarray) -> str:
    return _sizes(shape) if len(shape) > 1 else f"{_sizes(shape)}-D"


def _canvas(figure: Figure, top: float, height: float) -> Axes:
    """Axes as wide as the page whose units are inches."""
    axes = axes_at(figure, 0, top, WIDTH, height)
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    return axes


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str
) -> None:
    """A box with its center there."""
    style_of_box = "round,pad=0,rounding_size=0.06"
    corner = (x - width / 2, y - height / 2)
    box = FancyBboxPatch(corner, width, height, boxstyle=style_of_box, linewidth=0.7)
    box.set(facecolor=color, edgecolor="#777777")
    axes.add_patch(box)
    axes.text(x, y, text, ha="center", va="center", fontsize=8, linespacing=1.25)


def _arrow(axes: Axes, start: tuple, end: tuple, **line: Any) -> None:
    given = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "lw": 1.1, "mutation_scale": 8}
    axes.annotate("", end, start, arrowprops={**given, **line})
