"""Figures 6 to 8: traversals between examples, factors one at a time, and interpolations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vaejax.evaluation.exhibits import Factors, Interpolations, Traversals
from vaejax.evaluation.landscapes import Landscape
from vaejax.reporting.figures import BLUE, GRAY, INK, WIDTH, are_points, style
from vaejax.reporting.panels import (
    NOTE,
    axes_at,
    block_size,
    data_frame,
    density_key,
    dot_key,
    frame_of,
    image_block,
    keys_at,
    landscape_panel,
    point_cloud,
    space_name,
    text_at,
    titled,
)

_TITLE = "Traversals between held-out examples, straight in generation space"
_GAP, _STRIP = 0.36, WIDTH - 0.5
PATH_COLORS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
_BESIDE = 2.5  # images, the room that the examples take beside a grid


@style()
def traversals(runs: Mapping[str, Traversals]) -> Figure:
    """Frames of each walk, and for two latent dimensions the walks over q, in both spaces.

    Points are drawn as a path over the data.  The walks are those of the same examples in all runs.
    """
    if are_points(next(iter(runs.values())).data):
        return _point_traversals(runs)
    scenes = [run.landscape for run in runs.values()]
    planes = [(label, plane) for label, run in runs.items() for plane in run.landscape.space]
    side = min((WIDTH - 0.1 - _GAP * len(planes)) / max(len(planes), 3), 2.0)
    strips = _strips(runs)
    room = 0.38 + sum(height + space for *_, height, space in strips)
    figure, top = titled(WIDTH, room + (side + 0.95 if planes else 0.0), _TITLE)
    top = _draw_strips(figure, top, runs, strips)
    left = _GAP
    for letter, run in zip(_letters(runs), runs.values(), strict=True):
        for plane in range(len(run.landscape.space)):
            axes = axes_at(figure, left, top + 0.3, side, side)
            _draw_plane(axes, run, plane, scenes)
            axes.set_title(f"{letter}  {space_name(run.landscape, plane)}".strip(), fontsize=8)
            left += side + _GAP
    if planes:
        keys_at(figure, 0.1, 0.08, [*density_key(), dot_key(INK, "held-out examples")])
    return figure


def _point_traversals(runs: Mapping[str, Traversals]) -> Figure:
    """A row for each run: the walks over the data, and over q where it has two dimensions."""
    scenes = [run.landscape for run in runs.values()]
    columns = 1 + max(len(run.landscape.space) for run in runs.values())
    side = min((WIDTH - 0.1 - _GAP * columns) / max(columns, 2), 2.3)
    row = 0.42 + side + 0.36
    figure, top = titled(WIDTH, len(runs) * row + 0.25, _TITLE)
    for label, run in runs.items():
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        axes = axes_at(figure, _GAP, top + 0.42, side, side)
        data_frame(axes, run.data)
        point_cloud(axes, run.data, GRAY)
        draw_paths(axes, run.x, run.walk.x)
        axes.set_title("decoded, over held-out data", fontsize=8)
        for plane in range(len(run.landscape.space)):
            left = _GAP + (plane + 1) * (side + _GAP)
            axes = axes_at(figure, left, top + 0.42, side, side)
            _draw_plane(axes, run, plane, scenes)
            axes.set_title(space_name(run.landscape, plane), fontsize=8)
        top += row
    has_planes = any(len(scene.space) for scene in scenes)
    keys_at(
        figure,
        0.1,
        0.08,
        [*(density_key() if has_planes else []), dot_key(INK, "held-out examples")],
    )
    return figure


def _letters(runs: Mapping[str, Traversals]) -> list[str]:
    return [chr(ord("A") + k) for k in range(len(runs))] if len(runs) > 1 else [""]


def _strips(runs: Mapping[str, Traversals]) -> list[tuple[str, np.ndarray, float, float]]:
    """For every walk and run: its mark, ends and frames, its height, and the space below."""
    found = []
    for t in range(len(next(iter(runs.values())).examples)):
        for letter, run in zip(_letters(runs), runs.values(), strict=True):
            images = np.concatenate([run.ends[t, :1], run.walk.x[t], run.ends[t, 1:]])
            height = block_size(images, len(images), _STRIP)[3]
            space = 0.14 if letter == _letters(runs)[-1] else 0.04
            found.append((f"{t + 1} {letter}".strip(), images, height, space))
    return found


def _draw_strips(
    figure: Figure,
    top: float,
    runs: Mapping[str, Traversals],
    strips: list[tuple[str, np.ndarray, float, float]],
) -> float:
    """All strips under one line of names.  -> where they end."""
    names = "     ".join(
        f"{letter}  {label}".strip() for letter, label in zip(_letters(runs), runs, strict=True)
    )
    text_at(figure, 0.1, top, names, fontsize=8.5, weight="bold")
    width = block_size(strips[0][1], len(strips[0][1]), _STRIP)[2]
    one = width / len(strips[0][1])
    last = len(strips[0][1]) - 1
    for place, name in ((0, "example"), (last // 2, "decoded"), (last, "example")):
        text_at(figure, 0.4 + place * one, top + 0.2, name, fontsize=7, color=NOTE)
    top += 0.36
    for mark, images, height, space in strips:
        text_at(figure, 0.1, top + height / 2, mark, va="center", fontsize=8)
        image_block(figure, 0.4, top, _STRIP, images, len(images))
        top += height + space
    return top


def _draw_plane(axes: Axes, run: Traversals, plane: int, scenes: list[Landscape]) -> None:
    landscape_panel(axes, run.landscape, plane)
    x, y = frame_of(scenes, run.landscape, plane)
    axes.set(xlim=x, ylim=y)
    fine, frames = run.landscape.of(run.z, run.z0), run.landscape.of(run.walk.z, run.walk.z0)
    draw_paths(axes, fine[plane], frames[plane])


def draw_paths(axes: Axes, fine: np.ndarray, frames: np.ndarray) -> None:
    """Paths (T, M, 2) with a dot for each of their frames (T, J, 2), numbered at the start."""
    colors = [PATH_COLORS[t % len(PATH_COLORS)] for t in range(len(fine))]
    axes.add_collection(LineCollection(list(fine), zorder=3, linewidths=1.2, colors=colors))
    for t, (path, color) in enumerate(zip(frames, colors, strict=True)):
        axes.scatter(*path[1:-1].T, s=5, color=color, zorder=3.5, linewidths=0)
        axes.scatter(*path[[0, -1]].T, s=16, color=color, zorder=4, edgecolors="white",
                     linewidths=0.5)  # fmt: skip
        text = axes.annotate(str(t + 1), path[0], (4, 2), textcoords="offset points",
                             fontsize=7.5, weight="bold", color=color, zorder=5)  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])


@style()
def factors(runs: Mapping[str, Factors]) -> Figure:
    """A row of images for each dimension, strongest first; the example stands on the left."""
    width, first = 4.9, next(iter(runs.values()))
    sizes = [block_size(_flat(run.walk.x), run.walk.x.shape[1], width) for run in runs.values()]
    room = sum(height for *_, height in sizes) + 0.62 * len(runs)
    title = f"One dimension of {first.space} space changed at a time; the largest KL first"
    figure, top = titled(WIDTH, room, title)
    for (label, run), (*_, across, height) in zip(runs.items(), sizes, strict=True):
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        text_at(figure, 0.1, top + 0.24, "example", fontsize=7.5, color=NOTE)
        one = across / run.walk.x.shape[1]
        image_block(figure, 0.1, top + 0.42, one, run.x[None], 1)
        block = _flat(run.walk.x)
        axes = image_block(figure, one + 1.05, top + 0.42, width, block, run.walk.x.shape[1])
        _factor_names(axes, run)
        top += height + 0.62
    return figure


def _flat(x: np.ndarray) -> np.ndarray:
    """(rows, columns, *X) -> (rows * columns, *X)."""
    return x.reshape(-1, *x.shape[2:])


def _factor_names(axes: Axes, run: Factors) -> None:
    rows, columns = axes.images[0].get_size()
    count, values = run.walk.x.shape[:2]
    letter = "z_{0," if str(run.space) == "generation" else "z_{"
    for k, dimension in enumerate(run.walk.dimensions):
        name, place = f"${letter}{dimension + 1}}}$", (0, rows * (k + 0.5) / count)
        axes.annotate(name, place, (-6, 0), textcoords="offset points", ha="right", va="center")
    for k, offset in enumerate(run.walk.offsets):
        place = (columns * (k + 0.5) / values, 0)
        text = f"{offset:+.3g}" if abs(offset) > 1e-6 else "as it is"
        given: Any = {"ha": "center", "fontsize": 7.5, "color": NOTE}
        axes.annotate(text, place, (0, 3), textcoords="offset points", **given)


@style()
def interpolations(runs: Mapping[str, Interpolations]) -> Figure:
    """Between four examples: a grid of images, with them beside its corners, or of points."""
    is_points = are_points(next(iter(runs.values())).data)
    gap = 0.36 if is_points else 0.2
    side = min((WIDTH - 0.1 - gap * len(runs)) / len(runs), 3.6)
    heights = [side] if is_points else [_grid(run, side)[1] for run in runs.values()]
    where = "corners" if is_points else "outside"
    title = f"Between four held-out examples ({where}), straight in generation space"
    figure, top = titled(max(len(runs) * (side + gap) + 0.1, 4.6), max(heights) + 0.5, title)
    for k, (label, run) in enumerate(runs.items()):
        left = gap + k * (side + gap) if is_points else 0.1 + k * (side + gap)
        text_at(figure, left, top, label, fontsize=8.5, weight="bold")
        if is_points:
            axes = axes_at(figure, left, top + 0.22, side, side)
            data_frame(axes, run.data)
            point_cloud(axes, run.data, GRAY)
            _knots(axes, run.walk.x)
        else:
            _draw_grid(figure, left, top + 0.22, side, run)
    return figure


def _grid(run: Interpolations, side: float) -> tuple[float, float]:
    """Inches that a grid takes of `side`, which has room for an example on the left and right."""
    columns = run.walk.x.shape[1]
    return block_size(_flat(run.walk.x), columns, side * columns / (columns + _BESIDE))[2:]


def _draw_grid(figure: Figure, left: float, top: float, side: float, run: Interpolations) -> None:
    rows, columns = run.walk.x.shape[:2]
    across, down = _grid(run, side)
    one, other = across / columns, down / rows
    inner = left + _BESIDE / 2 * one
    image_block(
        figure, inner, top, side * columns / (columns + _BESIDE), _flat(run.walk.x), columns
    )
    for k, x in enumerate(run.corners):
        place = left if k % 2 == 0 else inner + across + (_BESIDE / 2 - 1) * one
        image_block(figure, place, top + (k // 2) * (down - other), one, x[None], 1)


def _knots(axes: Axes, x: np.ndarray) -> None:
    """Every point of a grid (G, G, 2), not joined, since neighbors may lie apart; its corners."""
    axes.scatter(*x.reshape(-1, 2).T, s=5, color=BLUE, zorder=3, linewidths=0)
    corners = x[[0, 0, -1, -1], [0, -1, 0, -1]]
    axes.scatter(*corners.T, s=26, color=INK, zorder=4, edgecolors="white", linewidths=0.5)
