"""Data sets that are drawn rather than read: points in the plane and in space, and stand-ins."""

from __future__ import annotations

import math

import numpy as np

from vaejax.data.arrays import Dataset
from vaejax.memory import check_memory

_COPIES = 4  # of the numbers, on the way


def two_moons(num_train: int, num_test: int, noise: float, seed: int) -> Dataset:
    """Two interleaving half circles of radius 1 around (0, 0) and (1, 0.5), labels 0 and 1.

    Angles are evenly spaced as in scikit-learn's make_moons; noise is the standard deviation of the
    normal noise on both coordinates.  -> (num_train, 2) and (num_test, 2) float32, shuffled, from
    independent streams.  Raises ValueError for a size below 1, a negative noise or seed.
    """
    sizes = _sizes("two_moons", num_train, num_test)
    _check_draw("two_moons", noise, seed)
    moons = {
        split: _moons(size, noise, _generator(seed, f"two_moons {split}"))
        for split, size in sizes.items()
    }
    return Dataset(
        name="two_moons",
        splits={split: points for split, (points, _) in moons.items()},
        scale=1.0,
        labels={split: labels for split, (_, labels) in moons.items()},
    )


def _moons(size: int, noise: float, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """-> points (size, 2) float32, labels (size,) int64."""
    upper = np.linspace(0, np.pi, size // 2)
    lower = np.linspace(0, np.pi, size - size // 2)
    x = np.concatenate([np.cos(upper), 1 - np.cos(lower)])
    y = np.concatenate([np.sin(upper), 0.5 - np.sin(lower)])
    labels = np.repeat([0, 1], [len(upper), len(lower)])
    points = np.stack([x, y], axis=1) + noise * generator.standard_normal((size, 2))
    order = generator.permutation(size)
    return points[order].astype(np.float32), labels[order]


def swiss_roll(num_train: int, num_test: int, noise: float, seed: int) -> Dataset:
    """A rolled-up sheet in space, labels 0 to 9 along the roll, factors its two coordinates.

    Of radius t between 1.5 pi and 4.5 pi and of height 21, as scikit-learn's make_swiss_roll; t and
    the height are uniform, noise is the standard deviation of normal noise before the scale of 10.
    -> (num_train, 3) and (num_test, 3) float32 from independent streams; factors are t and height
    in 100 equal steps each.  Raises ValueError for a size below 1, a negative noise or seed.
    """
    sizes = _sizes("swiss_roll", num_train, num_test)
    _check_draw("swiss_roll", noise, seed)
    points, labels, factors = {}, {}, {}
    for split, size in sizes.items():
        generator = _generator(seed, f"swiss_roll {split}")
        unit = generator.random((size, 2))  # along the roll, and along its axis
        radius = 1.5 * np.pi * (1 + 2 * unit[:, 0])
        clean = [radius * np.cos(radius), 21 * unit[:, 1], radius * np.sin(radius)]
        noisy = np.stack(clean, axis=1) + noise * generator.standard_normal((size, 3))
        points[split] = noisy.astype(np.float32)
        labels[split] = (10 * unit[:, 0]).astype(np.int64)
        factors[split] = (100 * unit).astype(np.int64)
    return Dataset("swiss_roll", points, scale=10.0, labels=labels, factors=factors)


def stand_in(x_shape: tuple[int, ...], num_train: int, num_test: int) -> Dataset:
    """No data set: smooth random images, so that every architecture takes a step offline.

    Pixels vary smoothly along every axis but the last (channels).  An x_shape of one axis gives
    normal points instead.  -> (num_train, *X) and (num_test, *X), uint8 with scale 255, or float32
    with scale 1; always the same ones.  Raises ValueError for a size below 1.
    """
    if not x_shape or min(x_shape) < 1:
        raise ValueError(f"stand_in: x_shape is {x_shape}; it must be one or more positive sizes")
    sizes = _sizes("stand_in", num_train, num_test, x_shape)
    draw = _smooth_images if len(x_shape) > 1 else _normal_points
    splits = {
        split: draw((size, *x_shape), _generator(0, f"stand_in {split}"))
        for split, size in sizes.items()
    }
    return Dataset("stand_in", splits, scale=255.0 if len(x_shape) > 1 else 1.0)


def _normal_points(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def _smooth_images(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    pixels = generator.standard_normal(shape, np.float32)
    for axis in range(1, len(shape) - 1):
        position = np.arange(shape[axis], dtype=np.float32)
        blur = np.exp(-0.5 * ((position[:, None] - position) * 6 / shape[axis]) ** 2)
        blur /= np.linalg.norm(blur, axis=1, keepdims=True)  # keeps every pixel's variance at 1
        pixels = np.moveaxis(np.tensordot(pixels, blur, axes=(axis, 1)), -1, axis)
    return np.clip(128 + 60 * pixels, 0, 255).astype(np.uint8)


def _sizes(
    name: str, num_train: int, num_test: int, x_shape: tuple[int, ...] = (3,)
) -> dict[str, int]:
    if min(num_train, num_test) < 1:
        given = f"num_train is {num_train} and num_test is {num_test}"
        raise ValueError(f"{name}: {given}; both must be at least 1")
    needed = 8.0 * max(num_train, num_test) * math.prod(x_shape) * _COPIES
    check_memory(needed, name, "lower its num_train and num_test")
    return {"train": num_train, "test": num_test}


def _check_draw(name: str, noise: float, seed: int) -> None:
    if not 0 <= noise < np.inf:
        raise ValueError(f"{name}: noise is {noise}; it must be 0 or positive, and finite")
    if seed < 0:
        raise ValueError(f"{name}: seed is {seed}; it must be 0 or positive")


def _generator(seed: int, stream: str) -> np.random.Generator:
    """One independent stream per name and seed."""
    return np.random.Generator(np.random.Philox([seed, *stream.encode()]))
