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

from vaejax.reporting.figures import BLUE, GRAY, INK, ORANGE, WIDTH, point_size, style, wrapped

# Okabe-Ito without its two palest colors, and five more: of the sets tried, one whose two nearest
# colors are the farthest apart (OKLab) to normal, deuteranope and protanope eyes.
PALETTE = (BLUE, "#E69F00", "#009E73", "#CC79A7", ORANGE)
PALETTE += ("#000000", "#DDCC77", "#661100", "#B2182B", "#7A0177")
MASSES = (0.5, 0.9, 0.99)
_LINES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)))
_HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#dde1e6", "#a3abb6"])


class Grid(NamedTuple):
    """A log density on a rectangular grid: `log_density[i, j]` is at (x[j], y[i])."""

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

    codes, base_codes: (N, 2) samples of the aggregate posterior, z and z0 = g(z).  labels: (N,),
    shown by color when they are 2 to 10 classes.  density, base_density: log p(z) and the log
    density of the base.  Without `base_density` (standard normal prior: the spaces coincide) there
    is one panel.

    The prior covers the codes where every shaded place holds codes and no code lies outside the
    last contour; then the contours hold about 50, 90 and 99 % of the codes too.
    """
    panels = [(np.asarray(codes), density, "Representation space $z$")]
    if base_density is None:
        panels[0] = (*panels[0][:2], "Latent space $z$")
    else:
        panels.append((np.asarray(base_codes), base_density, "Generation space $z_0 = g(z)$"))
    levels = [mass_levels(grid, (0.01, *MASSES)) for _, grid, _ in panels]
    # One range for both panels: down to 10 nats, further where that would cut the last contour.
    depth = max(10.0, *(2.0 + level[0] - level[-1] for level in levels))
    colors, names = _colors(labels, len(codes))
    notes = [_coverage(*panel[:2], level[1:]) for panel, level in zip(panels, levels, strict=True)]
    num_lines = max(map(len, notes))
    figure, axes, bar_axes = _laid_out(
        [grid for _, grid, _ in panels], title, above=0.4 + 0.15 * num_lines, has_names=bool(names)
    )
    for panel, (points, grid, name), level, note in zip(axes, panels, levels, notes, strict=True):
        mesh = _density(panel, grid, level, depth)
        _codes(panel, points, colors, grid)
        panel.set_title(name, pad=6 + 10 * num_lines)
        text = "\n".join([*note, *[""] * (num_lines - len(note))])
        place = {"xy": (0, 1), "xytext": (0, 4), "textcoords": "offset points"}
        panel.annotate(text, xycoords="axes fraction", fontsize=7, color="#555555", **place)
        panel.set(xlabel="dimension 1", ylabel="dimension 2")
        if names:
            _class_names(panel, points, np.asarray(labels), names)
    bar = figure.colorbar(mesh, cax=bar_axes)
    bar.set_label("log density of the prior, nats below its peak", fontsize=7.5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    _legends(figure, names)
    return figure


def _laid_out(
    grids: list[Grid], title: str, *, above: float, has_names: bool
) -> tuple[Figure, list[Axes], Axes]:
    """Panels of one height with equal units on both axes, and the color bar: by hand, in inches.

    Automatic layouts shrink panels of fixed aspect.
    """
    left, right, bottom, needed = 0.55, 0.75, 1.0 if has_names else 0.75, 2.1
    aspects = [np.ptp(grid.x) / np.ptp(grid.y) for grid in grids]
    room = WIDTH - left * len(grids) - right
    # A panel may be narrower than the text above it needs.
    height = min(room / sum(aspects), (room - needed * (len(grids) - 1)) / max(aspects), 4.3)
    cells = [max(height * aspect, needed) for aspect in aspects]
    width = max(left * len(grids) + sum(cells) + right, 5.6)
    title, num_lines = wrapped(title, width - left)
    figure = Figure(figsize=(width, bottom + height + above + 0.18 * num_lines))
    boxes, start = [], left
    for aspect, cell in zip(aspects, cells, strict=True):
        boxes.append((start, bottom, height * aspect, height))
        start += cell + left
    last = boxes[-1]
    boxes.append((last[0] + last[2] + 0.12, bottom, 0.1, height))
    scale = np.tile(figure.get_size_inches(), 2)
    *axes, bar_axes = [figure.add_axes(tuple(box / scale)) for box in boxes]
    figure.text(left / width, 1 - 0.08 / scale[1], title, va="top", fontsize=9.5)
    return figure, axes, bar_axes


def _density(axes: Axes, grid: Grid, levels: np.ndarray, depth: float) -> QuadMesh:
    """Heat of the log density below its peak, contours at the levels of MASSES."""
    # The peak is the 1 % level: a spike of the log-determinant must not push all else off scale.
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
    size = point_size(len(points))
    axes.scatter(*points[order].T, c=colors[order], s=size, alpha=0.75, linewidths=0, zorder=2)
    axes.set(xlim=grid.x[[0, -1]], ylim=grid.y[[0, -1]])


def _colors(labels: np.ndarray | None, num_codes: int) -> tuple[np.ndarray, list]:
    """A color for each code, and the classes in the order of the palette (none: one color)."""
    names = [] if labels is None else list(np.unique(labels))
    if labels is None or not 2 <= len(names) <= len(PALETTE):
        return np.full(num_codes, BLUE), []
    return np.array(PALETTE)[np.searchsorted(names, labels)], names


def _class_names(axes: Axes, points: np.ndarray, labels: np.ndarray, names: list) -> None:
    """Each class's name at its code nearest the median, because ten colors are too many to tell."""
    for name in names:
        members = points[labels == name]
        center = members[np.argmin(np.sum((members - np.median(members, axis=0)) ** 2, axis=1))]
        text = axes.text(
            center[0], center[1], str(name), ha="center", va="center", weight="bold", zorder=4
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _coverage(points: np.ndarray, grid: Grid, levels: np.ndarray) -> list[str]:
    """Which share of the codes lies within each contour; equal to its mass where p(z) = q(z)."""
    column = np.abs(points[:, :1] - grid.x).argmin(axis=1)
    row = np.abs(points[:, 1:] - grid.y).argmin(axis=1)
    low, high = (np.array([grid.x[end], grid.y[end]]) for end in (0, -1))
    framed = ((points >= low) & (points <= high)).all(axis=1)
    at_codes = np.where(framed, np.asarray(grid.log_density)[row, column], -np.inf)
    shares = " / ".join(f"{100 * np.mean(at_codes >= level):.0f}" for level in levels)
    outside = [] if framed.all() else [f"outside the frame: {(~framed).sum():,}"]
    return [f"contours hold {shares} % of the codes", *outside]


def _legends(figure: Figure, names: list) -> None:
    width, height = figure.get_size_inches()
    lines = [Line2D([], [], color=INK, linewidth=1, linestyle=line) for line in _LINES]
    texts = [f"{100 * mass:.0f} %" for mass in MASSES]
    texts[-1] += " of the prior's mass"
    lines.append(
        Line2D([], [], color=GRAY if names else BLUE, marker="o", markersize=3, linestyle="")
    )
    texts.append("codes (aggregate posterior)")
    row = {"loc": "lower left", "borderpad": 0, "handletextpad": 0.4, "columnspacing": 1.1}
    start, upper, lower = 0.5 / width, 0.33 / height, 0.1 / height
    place = (start, upper if names else lower)
    figure.legend(lines, texts, bbox_to_anchor=place, ncols=4, **row)
    dots = [Line2D([], [], color=c, marker="o", markersize=4, linestyle="") for c in PALETTE]
    if names:
        texts = [str(name) for name in names]
        place = (start, lower)
        figure.legend(dots[: len(names)], texts, bbox_to_anchor=place, ncols=len(names), **row)
