"""`shapes64`: pictures of one shape, rendered from factors that are known."""

from __future__ import annotations

import math

import numpy as np

from vaejax.data.arrays import Dataset

_SIDE, _STEP = 64, 4  # pixels of a picture, and between two positions
FACTORS = {
    "shape": ("square", "ellipse", "triangle"),
    "scale": tuple(np.linspace(6.0, 13.5, 6)),  # half the height in pixels
    "orientation": tuple(np.radians(np.arange(0, 90, 9))),  # distinct for each of the shapes
    "x_position": tuple(range(8)),
    "y_position": tuple(range(8)),
}
_SIZES = tuple(len(values) for values in FACTORS.values())


def shapes64() -> Dataset:
    """One white shape on black in every combination of five factors: (11520, 64, 64, 1) uint8.

    Like dSprites (Matthey et al., 2017) in its factors, not in its pixels: edges are soft, and
    orientations span a quarter turn, within which no two look alike, so that every factor can be
    read off a picture.  Factors are positions in `FACTORS`, the last one varying fastest; labels
    are the shape.  All in "train"; other splits are taken from it.
    """
    counts = _SIZES[:3]
    sprites = np.stack([_sprite(*positions) for positions in np.ndindex(*counts)])
    images = np.empty((len(sprites), *_SIZES[3:], _SIDE, _SIDE, 1), np.uint8)
    reach = _STEP * (_SIZES[3] - 1)
    for x_position, y_position in np.ndindex(*_SIZES[3:]):
        # The sprite lies in the middle of its canvas: a window to the left shows it on the right.
        left, top = reach - _STEP * x_position, reach - _STEP * y_position
        window = sprites[:, top : top + _SIDE, left : left + _SIDE]
        images[:, x_position, y_position] = window[..., None]
    factors = np.stack(np.unravel_index(np.arange(math.prod(_SIZES)), _SIZES), axis=1)
    return Dataset(
        name="shapes64",
        splits={"train": images.reshape(-1, _SIDE, _SIDE, 1)},
        scale=255.0,
        labels={"train": factors[:, 0]},
        factors={"train": factors},
    )


def _sprite(shape: int, scale: int, orientation: int) -> np.ndarray:
    """A shape on a canvas that holds every window of it.  -> (92, 92) uint8."""
    reach = _STEP * (_SIZES[3] - 1)
    grid = np.arange(_SIDE + reach) + 0.5 - (_SIDE + reach) / 2
    angle, size = FACTORS["orientation"][orientation], FACTORS["scale"][scale]
    across, down = np.meshgrid(grid / size, grid / size)
    u = math.cos(angle) * across + math.sin(angle) * down
    v = math.cos(angle) * down - math.sin(angle) * across
    distance = size * _DISTANCES[FACTORS["shape"][shape]](u, v)  # in pixels, negative inside
    return np.round(255 * np.clip(0.5 - distance, 0, 1)).astype(np.uint8)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.8


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """To first order: the level over the length of its gradient."""
    level = np.hypot(u / 0.6, v)
    slope = np.hypot(u / 0.6**2, v) / np.maximum(level, 1e-9)
    return (level - 1) / np.maximum(slope, 1e-9)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Equilateral, centered on its centroid."""
    side = math.sqrt(3) / 2
    return np.maximum.reduce([v, side * u - v / 2, -side * u - v / 2]) - 0.55


_DISTANCES = {"square": _square, "ellipse": _ellipse, "triangle": _triangle}
