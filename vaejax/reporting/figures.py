"""Figures of the data space: NumPy arrays -> matplotlib `Figure`; and the style of all figures.

Nothing here touches pyplot, global settings or (but for `save`) the disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

WIDTH, DPI = 7.0, 180  # inches of a page's text, pixels per inch in the files
INK, GRAY, BLUE, ORANGE = "#222222", "#9a9a9a", "#0072B2", "#D55E00"

_STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 1.6,
    "figure.titlesize": 10.5,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings under which our artists are made; the reader's own are untouched."""
    with mpl.rc_context(_STYLE):
        yield


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG at 180 dots per inch, whole or not at all; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png", dpi=DPI)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@style()
def image_grid(images: np.ndarray, columns: int | None = None, title: str = "") -> Figure:
    """Images row by row: image k stands at row k // columns, column k % columns.

    images: (N, H, W, C) in [0, 1] (clipped for display), C = 1 or 3.  Raises ValueError otherwise.
    """
    images = _displayed(images)
    columns = columns or _columns(len(images))
    scale, gutter = _scale(images, columns)
    return _canvas_figure(_tiled(images, columns, scale, gutter), title)


@style()
def reconstructions(x: np.ndarray, reconstructed: np.ndarray, title: str = "") -> Figure:
    """Data beside what the model makes of them.

    Images (N, H, W, C): pairs of rows, originals above.  Points (N, 2): each point joined to its
    reconstruction.  Raises ValueError for other shapes.
    """
    x, reconstructed = np.asarray(x), np.asarray(reconstructed)
    if x.shape != reconstructed.shape:
        raise ValueError(f"data {x.shape} and reconstructions {reconstructed.shape} must match")
    if _are_points(x):
        figure, axes = _point_axes(title)
        _scatter(axes, x, GRAY, "data")
        segments = LineCollection(list(np.stack([x, reconstructed], axis=1)))
        segments.set(color=INK, linewidth=0.4, alpha=0.35)
        axes.add_collection(segments)
        _scatter(axes, reconstructed, BLUE, "reconstructions")
        _frame_points(figure, axes, x, reconstructed)
        return figure
    originals, copies = _displayed(x), _displayed(reconstructed)
    columns = min(len(x), 10)
    scale, gutter = _scale(originals, columns)
    parts, labels, height = [], [], 0
    for start in range(0, len(x), columns):
        for name, images in (("data", originals), ("reconstruction", copies)):
            row = _tiled(images[start : start + columns], columns, scale, gutter)
            parts += [row, np.ones((gutter if name == "data" else 5 * gutter, *row.shape[1:]))]
            labels.append((height + len(row) / 2, name))
            height += len(row) + len(parts[-1])
    return _canvas_figure(np.concatenate(parts[:-1]), title, labels)


@style()
def samples(x_samples: np.ndarray, x_data: np.ndarray | None = None, title: str = "") -> Figure:
    """What the model generates.  Images (N, H, W, C): a grid.  Points (N, 2): over gray data."""
    x_samples = np.asarray(x_samples)
    if not _are_points(x_samples):
        return image_grid(x_samples, title=title)
    figure, axes = _point_axes(title)
    if x_data is not None:
        _scatter(axes, np.asarray(x_data), GRAY, "data")
    _scatter(axes, x_samples, BLUE, "samples")
    _frame_points(figure, axes, x_samples if x_data is None else np.asarray(x_data), x_samples)
    return figure


def _are_points(x: np.ndarray) -> bool:
    return x.ndim == 2 and x.shape[1] == 2


def _displayed(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, dtype=np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"images have shape {images.shape}; (N, H, W, 1 or 3) can be shown")
    return np.clip(images, 0.0, 1.0)


def _columns(num_images: int) -> int:
    """Between a square and a 2:1 rectangle, with the fewest empty places."""
    fewest = math.ceil(math.sqrt(num_images))
    return min(range(fewest, min(num_images, 2 * fewest) + 1), key=lambda k: -num_images % k)


def _scale(images: np.ndarray, columns: int) -> tuple[int, int]:
    """Screen pixels per image pixel (whole, so that all are equally large) and per gutter."""
    tile = min(WIDTH * DPI / columns, DPI)
    scale = max(1, int(0.97 * tile / max(images.shape[1:3])))
    return scale, max(2, round(0.03 * scale * max(images.shape[1:3])))


def _tiled(images: np.ndarray, columns: int, scale: int, gutter: int) -> np.ndarray:
    """One white canvas with every image on it.  (N, H, W, C) -> (height, width, C)."""
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    num_images, height, width, channels = images.shape
    rows = -(-num_images // columns)
    pitch = (height + gutter, width + gutter)
    canvas = np.ones((rows * pitch[0], columns * pitch[1], channels), images.dtype)
    for k, image in enumerate(images):
        top, left = k // columns * pitch[0], k % columns * pitch[1]
        canvas[top : top + height, left : left + width] = image
    return canvas[:-gutter, :-gutter]


def _canvas_figure(
    canvas: np.ndarray, title: str, labels: Sequence[tuple[float, str]] = ()
) -> Figure:
    """A figure in which a pixel of the canvas is a pixel of the file, unless it is wider than a page.

    labels: (canvas row, text), written on the left.
    """
    height, width = canvas.shape[:2]
    inches = np.array([width, height]) * min(1 / DPI, WIDTH / width)
    # Whole pixels, so that the canvas is not resampled.
    left, right, top = (round(DPI * side) / DPI for side in (0.95 if labels else 0.06, 0.06, 0.3))
    top = top if title else right
    size = inches + [left + right, top + right]
    figure = Figure(figsize=size)
    axes = figure.add_axes((left / size[0], right / size[1], *(inches / size)))
    interpolation = "nearest" if width <= WIDTH * DPI else "antialiased"
    pixels = canvas[..., 0] if canvas.shape[-1] == 1 else canvas
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation=interpolation, aspect="auto")
    axes.set_axis_off()
    axes.set_title(title)
    for row, text in labels:
        axes.annotate(text, (0, row), (-5, 0), textcoords="offset points", ha="right", va="center")
    return figure


def point_size(num_points: int) -> float:
    """Marker area, in square points, at which this many points remain a texture, not a blot."""
    return min(max(6_000 / num_points, 2.0), 16.0)


def _scatter(axes: Axes, points: np.ndarray, color: str, name: str) -> None:
    size = point_size(len(points))
    axes.scatter(*points.T, s=size, color=color, alpha=0.7, linewidths=0, label=name)


def _point_axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(0.75 * WIDTH, 0.6 * WIDTH), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes.grid(True)
    return figure, axes


def _frame_points(figure: Figure, axes: Axes, x: np.ndarray, model: np.ndarray) -> None:
    """Frame the data and what lies within half their extent of them; say how much does not."""
    low, high = x.min(axis=0), x.max(axis=0)
    reach = 0.5 * (high - low).max()
    near = ((model >= low - reach) & (model <= high + reach)).all(axis=1)
    points = np.concatenate([x, model[near]])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.04 * (high - low).max() or 1.0
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    legend = figure.legend(loc="outside lower center", ncols=2, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)  # type: ignore[union-attr]
    if not near.all():
        note = f"{(~near).sum():,} of {len(near):,} lie outside the frame"
        axes.set_title(note, loc="right", fontsize=7.5, color="#555555")
