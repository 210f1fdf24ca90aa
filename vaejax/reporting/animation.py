"""A traversal that moves: the decoded frame, and where it is over the aggregate posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from vaejax.evaluation.exhibits import Traversals
from vaejax.reporting.figures import GRAY, INK, ORANGE, WIDTH, are_points, displayed, style
from vaejax.reporting.panels import (
    axes_at,
    data_frame,
    frame_of,
    landscape_panel,
    point_cloud,
    space_name,
    text_at,
    titled,
)

_GAP, _DPI, _MILLISECONDS = 0.36, 110, 110

Move = Callable[[int], None]


@style()
def traversal_still(runs: Mapping[str, Traversals]) -> Figure:
    """One frame of the animation, a third of the way."""
    figure, moves, count = _scene(runs)
    for move in moves:
        move(count // 3)
    return figure


def write_gif(runs: Mapping[str, Traversals], path: Path) -> None:
    """Write the animation, which repeats for ever."""
    with style():
        figure, moves, count = _scene(runs)
        figure.set_dpi(_DPI)
        canvas, frames = FigureCanvasAgg(figure), []
        for k in range(count):
            for move in moves:
                move(k)
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = frames[0].quantize(256)  # one for all: colors do not flicker
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    given = {"duration": _MILLISECONDS, "loop": 0, "optimize": True}
    first.save(path, format="GIF", save_all=True, append_images=others, **given)


def _scene(runs: Mapping[str, Traversals]) -> tuple[Figure, list[Move], int]:
    """A row for each run, with what moves to frame k of as many."""
    columns = max(1 + max(len(run.landscape.space) for run in runs.values()), 2)
    side = min((WIDTH - 0.1 - _GAP * columns) / columns, 1.9)
    title = "From example to example and back, straight in generation space"
    width = max(columns * (side + _GAP) + 0.1, 4.6)
    figure, top = titled(width, len(runs) * (side + 0.85), title)
    scenes = [run.landscape for run in runs.values()]
    moves: list[Move] = []
    for label, run in runs.items():
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        axes = axes_at(figure, _GAP, top + 0.42, side, side)
        axes.set_title("decoded", fontsize=8)
        frames = run.walk.x[:, :-1].reshape(-1, *run.walk.x.shape[2:])  # an end is the next start
        if are_points(run.data):
            data_frame(axes, run.data)
            point_cloud(axes, run.data, GRAY)
            moves.append(_moving_dot(axes, frames))
        else:
            moves.append(_moving_image(axes, displayed(frames)))
        fine = run.landscape.of(run.z, run.z0)
        coarse = run.landscape.of(run.walk.z, run.walk.z0)[:, :, :-1]
        for plane in range(len(run.landscape.space)):
            axes = axes_at(figure, _GAP + (plane + 1) * (side + _GAP), top + 0.42, side, side)
            landscape_panel(axes, run.landscape, plane)
            x, y = frame_of(scenes, run.landscape, plane)
            axes.set(xlim=x, ylim=y)
            axes.set_title(space_name(run.landscape, plane), fontsize=8)
            axes.add_collection(LineCollection(list(fine[plane]), colors=INK, linewidths=0.9))
            moves.append(_moving_dot(axes, coarse[plane].reshape(-1, 2)))
        top += side + 0.85
    return figure, moves, int(np.prod(np.subtract(next(iter(runs.values())).walk.z.shape[:2],
                                                  (0, 1))))  # fmt: skip


def _moving_dot(axes, points: np.ndarray) -> Move:
    given = {"markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.8, "zorder": 5}
    (dot,) = axes.plot(*points[:1].T, marker="o", color=ORANGE, **given)
    return lambda k: dot.set_data(*points[k : k + 1].T)


def _moving_image(axes, images: np.ndarray) -> Move:
    pixels = images[..., 0] if images.shape[-1] == 1 else images
    image = axes.imshow(pixels[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    return lambda k: image.set_data(pixels[k])
