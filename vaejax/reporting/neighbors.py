"""Samples of the prior over the training data that are nearest to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaejax.evaluation.neighbors import QUANTILE, Neighbors
from vaejax.reporting.figures import INK, ORANGE, WIDTH, style
from vaejax.reporting.panels import NOTE, block_size, image_block, text_at, titled

_LEFT = 0.95  # inches of the names of rows
_ROW = WIDTH - _LEFT - 0.1
_NAMES = ("nearest", "2nd nearest", "3rd nearest")


@style()
def neighbors(runs: Mapping[str, Neighbors]) -> Figure:
    """A row of samples for each run, and below each its nearest training images with distances."""
    heights = [block_size(run.samples, len(run.samples), _ROW)[3] for run in runs.values()]
    room = sum(
        0.57 + height + (height + 0.24) * run.neighbors.shape[1]
        for height, run in zip(heights, runs.values(), strict=True)
    )
    figure, top = titled(WIDTH, room - 0.05, _title(runs))
    for (label, run), height in zip(runs.items(), heights, strict=True):
        text_at(figure, 0.1, top, label, fontsize=8.5, weight="bold")
        text_at(figure, 0.1, top + 0.18, _scale_of(run), fontsize=7.5, color=NOTE)
        top += 0.42
        _row(figure, top, run.samples, "sample")
        top += height + 0.06
        for k in range(run.neighbors.shape[1]):
            axes = _row(figure, top, run.neighbors[:, k], _NAMES[k])
            _distances(axes, run.distance[:, k], _limit(run))
            top += height + 0.24
        top += 0.09
    return figure


def _title(runs: Mapping[str, Neighbors]) -> str:
    count = int(next(iter(runs.values())).num_train)
    return f"Samples, and the nearest of {count:,} training images to each, by RMSE of a pixel"


def _limit(run: Neighbors) -> float:
    return float(np.quantile(run.held_out, QUANTILE))


def _scale_of(run: Neighbors) -> str:
    half = float(np.median(run.held_out))
    return (
        f"Of {len(run.held_out)} held-out images half are within {half:.3f} of a training image, "
        f"{100 * QUANTILE:g} % within {_limit(run):.3f} (orange: as near as these, or nearer)"
    )


def _row(figure: Figure, top: float, images: np.ndarray, name: str) -> Axes:
    axes = image_block(figure, _LEFT, top, _ROW, images, len(images))
    place: Any = {"xy": (0, 0.5), "xycoords": "axes fraction", "xytext": (-6, 0)}
    axes.annotate(name, **place, textcoords="offset points", ha="right", va="center", fontsize=8)
    return axes


def _distances(axes: Axes, distance: np.ndarray, limit: float) -> None:
    for k, each in enumerate(distance):
        is_near = each <= limit
        axes.annotate(
            f"{each:.3f}",
            ((k + 0.5) / len(distance), 0),
            (0, -3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=ORANGE if is_near else INK,
            weight="bold" if is_near else "normal",
        )
