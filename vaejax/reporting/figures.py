"""Figures of the data space: NumPy arrays -> matplotlib `Figure`; and the style of all figures.

Nothing here touches pyplot, global settings or (but for `save`) the disk.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

WIDTH, DPI = 7.0, 180  # inches of a page's text, pixels per inch in the files
INK, GRAY, BLUE, ORANGE = "#222222", "#9a9a9a", "#0072B2", "#D55E00"
_EDGE, _LABEL = 0.06, 0.95  # inches beside a grid, without and with row labels

_STYLE: Any = {
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


_FORMATS: Any = {
    ".png": {"dpi": DPI},
    ".svg": {"dpi": 300, "metadata": {"Date": None}},  # dpi: of what is rasterized inside
    ".pdf": {"dpi": 300, "metadata": {"CreationDate": None}},
}


def save(figure: Figure, path: str | Path) -> None:
    """Write .png (180 dots per inch), .svg or .pdf, whole or not at all; makes the folder.

    Text stays text, and equal figures make equal files.  Raises ValueError for another suffix.
    """
    write_whole({Path(path): file_of(figure, Path(path).suffix)})


def file_of(figure: Figure, suffix: str) -> Callable[[Path], None]:
    """What writes the figure to a path.  Raises ValueError for a suffix but .png, .svg and .pdf."""
    if suffix not in _FORMATS:
        raise ValueError(f"a figure cannot be written as {suffix!r}; {', '.join(_FORMATS)} can be")

    def write(path: Path) -> None:
        as_text: Any = {"svg.fonttype": "none", "svg.hashsalt": "vaejax", "pdf.fonttype": 42}
        with mpl.rc_context(as_text):
            figure.savefig(path, format=suffix[1:], **_FORMATS[suffix])

    return write


def write_whole(files: Mapping[Path, Callable[[Path], None]]) -> None:
    """Let each function write its file; all appear in their order once all are written, or none."""
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in files}
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(partials[path])
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


@style()
def image_grid(images: np.ndarray, columns: int | None = None, title: str = "") -> Figure:
    """Images row by row: image k stands at row k // columns, column k % columns.

    images: (N, H, W, C) in [0, 1] (clipped for display), C = 1 or 3.  Raises ValueError otherwise.
    """
    images = displayed(images)
    columns = columns or _columns(len(images))
    scale, gutter = _scale(images, columns, _EDGE)
    return _canvas_figure(tiled(images, columns, scale, gutter), title)


@style()
def reconstructions(x: np.ndarray, reconstructed: np.ndarray, title: str = "") -> Figure:
    """Data beside what the model makes of them.

    Images (N, H, W, C): pairs of rows, originals above.  Points (N, 2): each point joined to its
    reconstruction.  Raises ValueError for other shapes.
    """
    x, reconstructed = np.asarray(x), np.asarray(reconstructed)
    if x.shape != reconstructed.shape:
        raise ValueError(f"data {x.shape} and reconstructions {reconstructed.shape} must match")
    if are_points(x):
        figure = _point_figure(x, reconstructed, "reconstructions", title)
        segments = LineCollection(list(np.stack([x, reconstructed], axis=1)))
        segments.set(color=INK, linewidth=0.5, alpha=0.4, zorder=0.9)  # below the points
        figure.axes[0].add_collection(segments)
        return figure
    originals, copies = displayed(x), displayed(reconstructed)
    columns = min(len(x), 10)
    scale, gutter = _scale(originals, columns, _LABEL)
    parts, labels, height = [], [], 0
    for start in range(0, len(x), columns):
        for name, images in (("data", originals), ("reconstruction", copies)):
            row = tiled(images[start : start + columns], columns, scale, gutter)
            parts += [row, np.ones((gutter if name == "data" else 5 * gutter, *row.shape[1:]))]
            labels.append((height + len(row) / 2, name))
            height += len(row) + len(parts[-1])
    return _canvas_figure(np.concatenate(parts[:-1]), title, labels)


@style()
def samples(x_samples: np.ndarray, x_data: np.ndarray | None = None, title: str = "") -> Figure:
    """What the model generates.  Images (N, H, W, C): a grid.  Points (N, 2): over gray data."""
    x_samples = np.asarray(x_samples)
    if not are_points(x_samples):
        return image_grid(x_samples, title=title)
    x = None if x_data is None else np.asarray(x_data)
    return _point_figure(x, x_samples, "samples", title)


def are_points(x: np.ndarray) -> bool:
    """Whether x is (N, 2)."""
    return x.ndim == 2 and x.shape[1] == 2


def displayed(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 1 or 3), N > 0, clipped to [0, 1].  Raises ValueError for other shapes."""
    images = np.asarray(images, dtype=np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"images have shape {images.shape}; (N, H, W, 1 or 3) can be shown")
    return np.clip(images, 0.0, 1.0)


def _columns(num_images: int) -> int:
    """Between a square and a 2:1 rectangle, with the fewest empty places."""
    fewest = math.ceil(math.sqrt(num_images))
    return min(range(fewest, min(num_images, 2 * fewest) + 1), key=lambda k: -num_images % k)


def _scale(images: np.ndarray, columns: int, left: float) -> tuple[int, int]:
    """Screen pixels per image pixel (whole, so that all are equally large) and per gutter."""
    side = max(images.shape[1:3])
    tile = min((WIDTH - left - _EDGE) * DPI / columns, DPI)
    scale = max(1, int(0.97 * tile / side))
    return scale, max(2, round(0.03 * scale * side))


def tiled(images: np.ndarray, columns: int, scale: int, gutter: int) -> np.ndarray:
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
    """A figure that shows a pixel of the canvas as a pixel of the file, up to a page's width.

    labels: (canvas row, text), written on the left.
    """
    height, width = canvas.shape[:2]
    left = _LABEL if labels else _EDGE
    page = round((WIDTH - left - _EDGE) * DPI)
    inches = np.array([width, height]) * min(1.0, page / width) / DPI
    title, lines = wrapped(title, inches[0])
    # Whole pixels, so that the canvas is not resampled.
    left, edge, top = (round(DPI * side) / DPI for side in (left, _EDGE, _EDGE + 0.17 * lines))
    size = inches + [left + edge, top + edge]
    figure = Figure(figsize=(size[0], size[1]))
    axes = figure.add_axes((left / size[0], edge / size[1], *(inches / size)))
    interpolation = "nearest" if width <= page else "antialiased"
    pixels = canvas[..., 0] if canvas.shape[-1] == 1 else canvas
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation=interpolation, aspect="auto")
    axes.set_axis_off()
    axes.set_title(title, pad=4)
    for row, text in labels:
        axes.annotate(text, (0, row), (-5, 0), textcoords="offset points", ha="right", va="center")
    return figure


def point_size(num_points: int) -> float:
    """Marker area, in square points, at which this many points remain a texture, not a blot."""
    return min(max(6_000 / num_points, 2.0), 16.0)


def wrapped(title: str, inches: float) -> tuple[str, int]:
    """The title broken into lines of this width, and how many they are."""
    lines = textwrap.wrap(title, max(int(inches / 0.078), 12))
    return "\n".join(lines), len(lines)


def _point_figure(x: np.ndarray | None, model: np.ndarray, name: str, title: str) -> Figure:
    """The model's points over the data, units equal on both axes; laid out in inches."""
    low, high, near = _frame(model if x is None else x, model)
    width, left, bottom = 0.65 * WIDTH, 0.65, 0.75
    height = width * (high - low)[1] / (high - low)[0]
    if height > width:
        width, height = width**2 / height, width
    title, lines = wrapped(title, max(width, 3.0))
    size = (left + max(width, 3.0) + 0.15, bottom + height + 0.1 + 0.18 * lines)
    figure = Figure(figsize=size)
    box = (left / size[0], bottom / size[1], width / size[0], height / size[1])
    axes = figure.add_axes(box, title=title, xlabel="$x_1$", ylabel="$x_2$")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.grid(True)
    if x is not None:
        axes.scatter(*x.T, s=point_size(len(x)), color=GRAY, alpha=0.7, linewidths=0, label="data")
    if not near.all():
        name += f" ({(~near).sum():,} of {len(near):,} outside the frame)"
    axes.scatter(
        *model.T, s=point_size(len(model)), color=BLUE, alpha=0.7, linewidths=0, label=name
    )
    # Legend dots of one size, whatever the size of the points.
    place, growth = (0.5 / size[0], 0.0), math.sqrt(16.0 / point_size(len(model)))
    legend = figure.legend(loc="lower left", bbox_to_anchor=place, ncols=2, markerscale=growth)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)  # type: ignore[union-attr]
    return figure


def _frame(x: np.ndarray, model: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (2,) around the data and the model's points within half its extent; those (N,)."""
    low, high = x.min(axis=0), x.max(axis=0)
    reach = 0.5 * (high - low).max()
    near = ((model >= low - reach) & (model <= high + reach)).all(axis=1)
    points = np.concatenate([x, model[near]])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.04 * (high - low).max() or 1.0
    return low - margin, high + margin, near
