"""The central figure: does the prior cover the aggregate posterior, in both latent spaces?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from vaejax.reporting.figures import BLUE, GRAY, INK, ORANGE, WIDTH, point_size, style

# Okabe-Ito without its two palest colors, and four more: of the sets tried, the one whose two nearest
# colors are farthest apart (OKLab) to normal, deuteranope and protanope eyes.
PALETTE = (BLUE, "#E69F00", "#009E73", "#CC79A7", ORANGE)
PALETTE += ("#000000", "#DDCC77", "#661100", "#B2182B", "#7A0177")
MASSES = (0.5, 0.9, 0.99)
_LINES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)))
_HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#dde1e6", "#a3abb6"])


class Grid(NamedTuple):
    """A log density on a rectangular grid; row i of `log_density` lies at y[i], column j at x[j]."""

    x: np.ndarray  # (G,) increasing
    y: np.ndarray  # (G,) increasing
    log_density: np.ndarray  # (G, G) nats; -inf is allowed


def mass_levels(grid: Grid, masses: tuple[float, ...] = MASSES) -> np.ndarray:
    """Log densities above which the given shares of the grid's mass lie.  -> (len(masses),) nats.

    What the grid leaves out is not counted: it must hold nearly all the mass.
    """
    log_density = np.asarray(grid.log_density, dtype=np.float64)
    cells = np.outer(np.gradient(grid.y), np.gradient(grid.x))
    order = np.argsort(log_density, axis=None)[::-1]
    sorted_log_density = log_density.ravel()[order]
    mass = np.exp(sorted_log_density - sorted_log_density[0]) * cells.ravel()[order]
    enclosed = np.cumsum(mass) / mass.sum()
    first = np.searchsorted(enclosed, masses).clip(max=len(enclosed) - 1)
    return sorted_log_density[first]


@style()
def latent_spaces(
    codes: np.ndarray,
    base_codes: np.ndarray | None,
    labels: np.ndarray | None,
    density: Grid,
    base_density: Grid | None = None,
    title: str = "",
) -> Figure:
    """Codes over the log density of the prior, in representation space and in generation space.

    codes, base_codes: (N, 2) samples of the aggregate posterior, z and z0 = g(z).  labels: (N,), shown
    by color when there are 2 to 10 of them.  density, base_density: log p(z) and the base's log density.
    Without `base_density` (a standard normal prior: the spaces coincide) there is one panel.
    """
    panels = [(np.asarray(codes), density, "Representation space $z$")]
    if base_density is None:
        panels[0] = (*panels[0][:2], "Latent space $z$")
    else:
        panels.append((np.asarray(base_codes), base_density, "Generation space $z_0 = g(z)$"))
    figure, axes, bar_axes = _laid_out([grid for _, grid, _ in panels], title)
    levels = [mass_levels(grid, (0.01, *MASSES)) for _, grid, _ in panels]
    # One range for both panels: down to 10 nats, further where that would cut the last contour.
    depth = max(10.0, *(2.0 + level[0] - level[-1] for level in levels))
    colors, names = _colors(labels, len(codes))
    for panel, (points, grid, name), level in zip(axes, panels, levels, strict=True):
        mesh = _density(panel, grid, level, depth)
        _codes(panel, points, colors, grid)
        panel.set_title(name, pad=17)
        note = _coverage(points, grid, level[1:])
        panel.text(0, 1.02, note, transform=panel.transAxes, fontsize=7.5, color="#555555")
        panel.set(xlabel="dimension 1", ylabel="dimension 2")
        if names:
            _class_names(panel, points, np.asarray(labels), names)
    bar = figure.colorbar(mesh, cax=bar_axes)
    bar.set_label("log density of the prior, nats below its peak", fontsize=7.5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    _legends(figure, names)
    return figure


def _laid_out(grids: list[Grid], title: str) -> tuple[Figure, list[Axes], Axes]:
    """Panels of one height and equal units on both axes, and the color bar: by hand, in inches.

    Automatic layouts shrink panels of fixed aspect.
    """
    left, right, bottom, top = 0.5, 0.75, 1.0, 0.75 if title else 0.5
    aspects = [np.ptp(grid.x) / np.ptp(grid.y) for grid in grids]
    height = min((WIDTH - left * len(grids) - right) / sum(aspects), 4.0)
    # The legends need 5 inches.
    width = max(left * len(grids) + height * sum(aspects) + right, 5.0)
    figure = Figure(figsize=(width, bottom + height + top))
    boxes, start = [], 0.0
    for aspect in aspects:
        boxes.append((start + left, bottom, height * aspect, height))
        start += left + height * aspect
    boxes.append((start + 0.12, bottom, 0.1, height))
    scale = np.tile(figure.get_size_inches(), 2)
    *axes, bar_axes = [figure.add_axes(tuple(box / scale)) for box in boxes]
    figure.text(left / width, 1 - 0.08 / scale[1], title, va="top", fontsize=10.5)
    return figure, axes, bar_axes


def _density(axes: Axes, grid: Grid, levels: np.ndarray, depth: float) -> QuadMesh:
    """Heat of the log density below its peak, contours at the levels of MASSES."""
    # The peak is the 1 % level: a spike of the log-determinant must not push all else off the scale.
    relative = np.maximum(grid.log_density - levels[0], -2 * depth)
    mesh = axes.pcolormesh(grid.x, grid.y, relative, cmap=_HEAT, vmin=-depth, vmax=0,
                           shading="gouraud", rasterized=True)  # fmt: skip
    # matplotlib wants increasing levels.
    axes.contour(grid.x, grid.y, relative, levels[:0:-1] - levels[0], colors=INK,
                 linewidths=0.9, linestyles=_LINES[::-1], zorder=3)  # fmt: skip
    axes.set_aspect("equal", adjustable="box")
    return mesh


def _codes(axes: Axes, points: np.ndarray, colors: np.ndarray, grid: Grid) -> None:
    # In random order, so that no class hides the others.
    order = np.random.default_rng(0).permutation(len(points))
    axes.scatter(*points[order].T, c=colors[order], s=point_size(len(points)), alpha=0.75, linewidths=0,
                 zorder=2)  # fmt: skip
    axes.set(xlim=grid.x[[0, -1]], ylim=grid.y[[0, -1]])


def _colors(labels: np.ndarray | None, num_codes: int) -> tuple[np.ndarray, list]:
    """A color for each code, and the classes in the order of the palette (none: one color)."""
    names = [] if labels is None else list(np.unique(labels))
    if not 2 <= len(names) <= len(PALETTE):
        return np.full(num_codes, BLUE), []
    return np.array(PALETTE)[np.searchsorted(names, labels)], names


def _class_names(axes: Axes, points: np.ndarray, labels: np.ndarray, names: list) -> None:
    """Each class's name at its code nearest the median, because ten colors are too many to tell."""
    for name in names:
        members = points[labels == name]
        center = members[np.argmin(np.sum((members - np.median(members, axis=0)) ** 2, axis=1))]
        text = axes.text(*center, str(name), ha="center", va="center", weight="bold", zorder=4)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _coverage(points: np.ndarray, grid: Grid, levels: np.ndarray) -> str:
    """Which share of the codes lies within each contour; equal to its mass where p(z) = q(z)."""
    column = np.abs(points[:, :1] - grid.x).argmin(axis=1)
    row = np.abs(points[:, 1:] - grid.y).argmin(axis=1)
    low, high = (np.array([grid.x[end], grid.y[end]]) for end in (0, -1))
    framed = ((points >= low) & (points <= high)).all(axis=1)
    at_codes = np.where(framed, np.asarray(grid.log_density)[row, column], -np.inf)
    shares = " / ".join(f"{100 * np.mean(at_codes >= level):.0f}" for level in levels)
    outside = f"; {(~framed).sum():,} off frame" if not framed.all() else ""
    return f"contours hold {shares} % of the codes{outside}"


def _legends(figure: Figure, names: list) -> None:
    width, height = figure.get_size_inches()
    lines = [Line2D([], [], color=INK, linewidth=1, linestyle=line) for line in _LINES]
    texts = [f"{100 * mass:.0f} %" for mass in MASSES]
    texts[-1] += " of the prior's mass"
    lines.append(
        Line2D([], [], color=GRAY if names else BLUE, marker="o", markersize=3, linestyle="")
    )
    texts.append("codes (aggregate posterior)")
    common = {"loc": "lower left", "borderpad": 0, "handletextpad": 0.5}
    figure.legend(lines, texts, bbox_to_anchor=(0.45 / width, 0.33 / height), ncols=4, columnspacing=1.2,
                  **common)  # fmt: skip
    dots = [Line2D([], [], color=c, marker="o", markersize=4, linestyle="") for c in PALETTE]
    if names:
        common["handletextpad"] = 0.0
        figure.legend(dots[: len(names)], [str(name) for name in names], ncols=len(names),
                      bbox_to_anchor=(0.45 / width, 0.1 / height), columnspacing=0.9, **common)  # fmt: skip
