"""Parts that several figures are made of, each placed by hand, in inches from the top left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vaejax.evaluation.landscapes import Landscape
from vaejax.reporting.figures import (
    DPI,
    GRAY,
    INK,
    ORANGE,
    displayed,
    point_size,
    tiled,
    wrapped,
)
from vaejax.reporting.latent import Grid, mass_levels

SHARES = (0.99, 0.9, 0.75, 0.5)  # of the mass of q(z), from the palest blue on
BLUES = ("#dcebf5", "#b3d3e9", "#7fb5d8", "#4291c4")
PRIOR_SHARE = 0.95  # of the prior's mass inside its outline
NOTE = "#555555"


def axes_at(
    figure: Figure, left: float, top: float, width: float, height: float, **settings: Any
) -> Axes:
    """Axes of this size in inches, whose top left corner is there."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - height
    box = (left / full_width, bottom / full_height, width / full_width, height / full_height)
    return figure.add_axes(box, **settings)


def text_at(figure: Figure, left: float, top: float, text: str, **settings: Any) -> None:
    """Text whose top left corner is there, in inches."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **{"va": "top", **settings})


def titled(width: float, height: float, title: str) -> tuple[Figure, float]:
    """A figure with a title above `height` inches of room, and where that room begins."""
    title, lines = wrapped(title, width - 0.2)
    top = 0.12 + 0.17 * lines
    figure = Figure(figsize=(width, top + height))
    text_at(figure, 0.1, 0.07, title, fontsize=9.5)
    return figure, top


def block_size(images: np.ndarray, columns: int, width: float) -> tuple[int, int, float, float]:
    """How (N, H, W, C) images fill `width` inches: scale, gutter, and the inches they take.

    Whole pixels of the file for every pixel of an image, where that fills nearly all the width.
    """
    height, side = images.shape[1:3]
    scale = max(1, int(0.96 * width * DPI / columns / side))
    if 1.04 * scale * side * columns < 0.9 * width * DPI:
        scale = 4 * (scale + 1)  # more pixels than the file has, and resampled
    gutter = max(2, round(0.04 * scale * side))
    rows = -(-len(images) // columns)
    across, down = (n * (scale * pixels + gutter) - gutter for n, pixels in
                    ((columns, side), (rows, height)))  # fmt: skip
    shrink = min(1.0, width * DPI / across)
    return scale, gutter, shrink * across / DPI, shrink * down / DPI


def image_block(
    figure: Figure, left: float, top: float, width: float, images: np.ndarray, columns: int
) -> Axes:
    """Images row by row, at most `width` inches wide."""
    images = displayed(images)
    scale, gutter, across, down = block_size(images, columns, width)
    canvas = tiled(images, columns, scale, gutter)
    left, top = (round(side * DPI) / DPI for side in (left, top))
    axes = axes_at(figure, left, top, across, down)
    pixels = canvas[..., 0] if canvas.shape[-1] == 1 else canvas
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
    axes.set_axis_off()
    return axes


def point_cloud(axes: Axes, points: np.ndarray, color: str = GRAY, **settings: Any) -> None:
    """Points (N, 2), rasterized in vector files."""
    size = point_size(len(points))
    given = {"s": size, "color": color, "alpha": 0.7, "linewidths": 0, "rasterized": True}
    axes.scatter(*points.T, **{**given, **settings})


def low_marks(axes: Axes, points: np.ndarray) -> None:
    """Low-posterior samples (N, 2): black stars."""
    given: Any = {"marker": "*", "linewidths": 0.3, "edgecolors": "white", "zorder": 4}
    axes.scatter(*points.T, s=20, color=INK, **given)


def high_marks(axes: Axes, points: np.ndarray) -> None:
    """High-posterior samples (N, 2): orange triangles."""
    given: Any = {"marker": "^", "linewidths": 0.3, "edgecolors": "white", "zorder": 3}
    axes.scatter(*points.T, s=14, color=ORANGE, **given)


def landscape_panel(axes: Axes, scene: Landscape, plane: int) -> None:
    """q as blue areas that hold SHARES of its mass; an outline of the prior where it is known."""
    x, y = scene.x[plane], scene.y[plane]
    log_q, log_p = (np.asarray(log[plane], np.float64) for log in (scene.log_q, scene.log_p))
    # Above the highest level anywhere, so that no area ends where the density peaks.
    levels = [*mass_levels(Grid(x, y, log_q), SHARES), log_q.max() + 1]
    steps = np.maximum.accumulate(levels + 1e-6 * np.arange(len(levels)))
    axes.contourf(x, y, np.maximum(log_q, steps[0] - 50), steps, colors=BLUES, zorder=1)
    if np.isfinite(log_p).any():
        level = mass_levels(Grid(x, y, log_p), (PRIOR_SHARE,))
        axes.contour(x, y, np.maximum(log_p, level - 50), level, colors=[INK], linewidths=0.8,
                     linestyles=[(0, (4, 1.5))], zorder=2)  # fmt: skip
    few_ticks(axes)


def few_ticks(axes: Axes) -> None:
    """At most four whole numbers on each side, for small panels."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 3, 4, 5, 10]))


def frame_of(
    scenes: Iterable[Landscape], scene: Landscape, plane: int
) -> tuple[np.ndarray, np.ndarray]:
    """A square around all planes of `scenes` that compare with this one: x and y limits, (2,) each.

    Where the prior is N(0, I), in generation space or in the one latent space, planes compare; a
    representation space has a scale of its own, which it shares with others of the kind.
    """
    kind, ends = _is_base(scene, plane), []
    for each in scenes:
        for k in range(len(each.space)):
            if _is_base(each, k) == kind:
                ends.append((each.x[k, [0, -1]], each.y[k, [0, -1]]))
    return square(np.min(ends, axis=(0, 2)), np.max(ends, axis=(0, 2)))


def _is_base(scene: Landscape, plane: int) -> bool:
    is_marginal = not np.isfinite(scene.log_p[plane]).any()
    return scene.space[plane] == "generation" or (len(scene.space) == 1 and not is_marginal)


def data_frame(axes: Axes, data: np.ndarray, share: float = 0.1) -> None:
    """Limits around points (N, 2), alike for all runs on these data."""
    low, high = data.min(axis=0), data.max(axis=0)
    margin = share * (high - low).max()
    x, y = square(low - margin, high + margin)
    axes.set(xlim=x, ylim=y)
    few_ticks(axes)


def square(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits of x and y, (2,) each, of the smallest square around both corners (2,)."""
    center, reach = (low + high) / 2, (high - low).max() / 2
    return (center[0] + reach * np.array([-1, 1])), (center[1] + reach * np.array([-1, 1]))


def space_name(scene: Landscape, plane: int) -> str:
    """What a panel's title calls a plane."""
    if len(scene.x) and not np.isfinite(scene.log_p[plane]).any():
        first, second = scene.dimensions + 1
        return f"$q(z_{{{first}}}, z_{{{second}}})$, marginal"
    if scene.space[plane] == "generation":
        return "$q(z_0)$, generation space"
    return "$q(z)$, representation space" if len(scene.space) > 1 else "$q(z)$, latent space"


def density_key() -> list[tuple[Artist, str]]:
    """Legend entries of `landscape_panel`."""
    shades: list[tuple[Artist, str]] = [
        (Patch(color=color), f"{100 * share:.0f} %")
        for share, color in zip(SHARES[::-1], BLUES[::-1], strict=True)
    ]
    shades[-1] = (shades[-1][0], f"{shades[-1][1]} of $q$")
    line = Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 1.5)))
    return [*shades, (line, f"{100 * PRIOR_SHARE:.0f} % of the prior")]


def dot_key(color: str, name: str, marker: str = "o", size: float = 4) -> tuple[Artist, str]:
    """A legend entry of points."""
    dot = Line2D([], [], color=color, marker=marker, linestyle="", markersize=size)
    return dot, name


def keys_at(
    figure: Figure, left: float, bottom: float, entries: Sequence[tuple[Artist, str]]
) -> None:
    """One row of a legend, `bottom` inches above the figure's end."""
    width, height = figure.get_size_inches()
    figure.legend(
        [artist for artist, _ in entries],
        [name for _, name in entries],
        loc="lower left",
        bbox_to_anchor=(left / width, bottom / height),
        ncols=len(entries),
        borderpad=0,
        handletextpad=0.4,
        columnspacing=1.0,
        handlelength=1.3,
        fontsize=7.5,
    )
