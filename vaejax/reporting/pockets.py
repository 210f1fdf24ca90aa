"""Figures 1, 3 and 5: pockets of the prior, and what is generated from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vaejax.evaluation.exhibits import Pockets, RandomAndLow
from vaejax.reporting.figures import BLUE, GRAY, INK, ORANGE, WIDTH, are_points, style
from vaejax.reporting.panels import (
    axes_at,
    block_size,
    data_frame,
    density_key,
    dot_key,
    frame_of,
    high_marks,
    image_block,
    keys_at,
    landscape_panel,
    low_marks,
    point_cloud,
    space_name,
    text_at,
    titled,
)

_GAP, _HEAD, _FOOT = 0.36, 0.42, 0.36  # inches around the panels of a row
_LOW, _HIGH = "low-posterior samples", "high-posterior samples of $q$"


@style()
def pockets(runs: Mapping[str, Pockets]) -> Figure:
    """A row for each run: its samples, q(z) with low and high posterior samples, the low decoded.

    Where the prior reaches and q(z) does not is a pocket; what lies outside the prior's outline
    leaks.  Rows share their axes where `frame_of` says that these compare.
    """
    columns = 2 + max(len(run.low) for run in runs.values())
    side = (WIDTH - 0.1 - _GAP * columns) / columns
    row = _HEAD + side + _FOOT
    figure, top = titled(WIDTH, len(runs) * row + 0.45, _title(runs))
    scenes = [run.landscape for run in runs.values()]
    lefts = [_GAP + k * (side + _GAP) for k in range(columns)]
    for label, run in runs.items():
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        at: Any = {"top": top + _HEAD, "side": side, "run": run}
        _data_panel(figure, lefts[0], shown=run.samples, low=False, **at)
        _data_panel(figure, lefts[1], shown=run.low_samples, low=True, **at)
        for plane, left in enumerate(lefts[2 : 2 + len(run.low)]):
            axes = axes_at(figure, left, at["top"], side, side)
            landscape_panel(axes, run.landscape, plane)
            high_marks(axes, run.high[plane])
            low_marks(axes, run.low[plane])
            x, y = frame_of(scenes, run.landscape, plane)
            axes.set(xlim=x, ylim=y)
            axes.set_title(space_name(run.landscape, plane), fontsize=8)
        top += row
    _keys(figure, runs)
    return figure


def _title(runs: Mapping[str, Pockets]) -> str:
    run = next(iter(runs.values()))
    title = "Pockets: what the prior $p(z)$ generates where the aggregate posterior $q(z)$ is low"
    if not np.isfinite(run.landscape.log_p).any():
        title += "; of all dimensions, the two of largest KL are shown"
    return title


def _data_panel(
    figure: Figure,
    left: float,
    *,
    top: float,
    side: float,
    run: Pockets,
    shown: np.ndarray,
    low: bool,
) -> None:
    """Points over the data with those outside the frame counted, or a square of images."""
    name = "low-posterior, decoded" if low else "samples of the prior"
    if not are_points(shown):
        axes = image_block(figure, left, top, side, shown, int(np.ceil(np.sqrt(len(shown)))))
        axes.set_title(name, fontsize=8)
        return
    axes = axes_at(figure, left, top, side, side)
    data_frame(axes, run.data, 0.15)
    point_cloud(axes, run.data, GRAY, alpha=0.6)
    if low:
        low_marks(axes, shown)
    else:
        point_cloud(axes, shown, BLUE, s=2.0)
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    outside = ((shown < [x0, y0]) | (shown > [x1, y1])).any(axis=1).sum()
    axes.set_title(name, fontsize=8)
    if outside:
        at = {"transform": axes.transAxes, "ha": "right", "fontsize": 7}
        axes.text(0.98, 0.02, f"{outside} outside", **at)


def _keys(figure: Figure, runs: Mapping[str, Pockets]) -> None:
    run = next(iter(runs.values()))
    marks = [dot_key(INK, _LOW, "*", 6), dot_key(ORANGE, _HIGH, "^", 4.5)]
    if are_points(run.data):
        marks += [dot_key(GRAY, "held-out data"), dot_key(BLUE, "samples")]
    keys_at(figure, 0.1, 0.3, marks)
    keys = density_key()
    if not np.isfinite(run.landscape.log_p).any():
        keys = keys[:-1]
    keys_at(figure, 0.1, 0.08, keys)


@style()
def random_and_low_posterior(runs: Mapping[str, RandomAndLow]) -> Figure:
    """Two grids for each run, six images in a row: random samples, and low-posterior samples."""
    width = (WIDTH - 0.5) / 2
    heights = [block_size(run.samples, 6, width)[3] for run in runs.values()]
    room = sum(heights) + 0.5 * len(runs) + 0.05
    title = "Samples of the prior, and of these where the aggregate posterior $q(z)$ is lowest"
    figure, top = titled(WIDTH, room, title)
    for (label, run), height in zip(runs.items(), heights, strict=True):
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        for k, (name, images) in enumerate(
            (("random samples", run.samples), (_LOW, run.low_samples))
        ):
            left = 0.1 + k * (width + 0.3)
            text_at(figure, left, top + 0.19, name, fontsize=8)
            image_block(figure, left, top + 0.36, width, images, 6)
        top += height + 0.5
    return figure
