"""Distances between two sets of features: Frechet, kernel, and precision and recall.

Everything is in float64.  A distance means something only beside its floor, that of real data and
other real data, and for one feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

FEWEST = 2_048  # samples for a Frechet distance, unless asked
_AT_ONCE = 2_000  # rows of a matrix of distances


class Moments(NamedTuple):
    """Mean and unbiased covariance of `count` feature vectors."""

    count: int
    mean: np.ndarray  # (F,)
    covariance: np.ndarray  # (F, F)


def moments(features: np.ndarray) -> Moments:
    """Of features (N, F), N > 1.  Raises ValueError."""
    features = _checked(features, 2)
    mean = features.mean(axis=0)
    centered = features - mean
    return Moments(len(features), mean, centered.T @ centered / (len(features) - 1))


def frechet_distance(one: Moments, other: Moments, fewest: int = FEWEST) -> float:
    """|m - m'|^2 + Tr(S + S' - 2 (S S')^1/2) (arXiv 1706.08500, eq. 6), by symmetric eigenvalues.

    It is biased upward by about 1/N, so distances compare at equal counts only.  Raises ValueError
    for fewer than `fewest` vectors, and for feature maps of different sizes.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and of {len(other.mean)} dimensions")
    if (count := min(one.count, other.count)) < fewest:
        raise ValueError(too_few(count, fewest))
    return _distance(one, _square_root(one.covariance), other)


def too_few(count: int, fewest: int) -> str:
    """What stands against a Frechet distance of `count` samples, and what would help."""
    help_ = f"--samples {count} takes it all the same"
    return f"a Frechet distance of {count} samples is biased, it takes {fewest}; {help_}"


def _distance(one: Moments, root: np.ndarray, other: Moments) -> float:
    """root: of the covariance of `one`."""
    # S^1/2 S' S^1/2 has the eigenvalues of S S', and is symmetric.
    product = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(np.maximum(product, 0)).sum()
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return float(((one.mean - other.mean) ** 2).sum() + traces - 2 * cross)


def frechet_error(real: Moments, features: np.ndarray, groups: int | None = None) -> float:
    """Standard error of a Frechet distance for another draw of the samples, by the jackknife.

    features: (N, F), in random order, of which a block after the other is left out, since
    neighbors may have an example in common; those of the data stay.  groups: blocks, 50 unless
    there are too many features for that.
    """
    groups = groups or (50 if features.shape[1] <= 256 else 10)
    root, rests = _square_root(real.covariance), moments_without_blocks(features, groups)
    distances = [_distance(real, root, rest) for rest in rests]
    return float(np.sqrt(len(rests) - 1) * np.std(distances))


def moments_without_blocks(features: np.ndarray, groups: int) -> list[Moments]:
    """Moments of all features (N, F) but a block of neighbors, for every one of `groups` blocks."""
    features = _checked(features, 2)
    center = features.mean(axis=0)
    blocks = np.array_split(features - center, min(groups, len(features)))
    sums = np.stack([block.sum(axis=0) for block in blocks])
    squares = np.stack([block.T @ block for block in blocks])
    found = []
    for block, own_sum, own_squares in zip(blocks, sums, squares, strict=True):
        count = len(features) - len(block)
        mean = (sums.sum(axis=0) - own_sum) / count
        spread = squares.sum(axis=0) - own_squares - count * np.outer(mean, mean)
        found.append(Moments(count, center + mean, spread / (count - 1)))
    return found


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def kernel_distances(one: np.ndarray, other: np.ndarray, size: int = 1_000) -> np.ndarray:
    """Unbiased estimates of MMD^2 with k(x, y) = (x.y / F + 1)^3 (arXiv 1801.01401, sec. 4).

    one, other: (N, F) -> (N // size,), one estimate for every block of `size` rows; what fills no
    block is left out.  Blocks are disjoint, so their spread over the root of their number is the
    standard error of their mean.  An estimate may be negative.  The kernel sees three moments, the
    Frechet distance two.  Raises ValueError.
    """
    one, other = _checked(one, 2), _checked(other, 2)
    size = min(size, len(one), len(other))
    count = min(len(one), len(other)) // size
    starts = range(0, count * size, size)
    return np.array([_squared_mmd(one[k : k + size], other[k : k + size]) for k in starts])


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = []
    for points in (x, y):
        values = kernel(points, points)
        within.append((values.sum() - np.trace(values)) / (len(points) * (len(points) - 1)))
    return float(sum(within) - 2 * kernel(x, y).mean())


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, neighbors: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Which samples lie in the support of the data, and which data in that of the samples.

    real: (N, F), generated: (M, F) -> (M,) and (N,) bool, whose means are precision and recall
    (arXiv 1904.06991, eqs. 1-2).  A support is the union of balls around all its points that reach
    to their nearest but `neighbors`.  Raises ValueError.
    """
    real, generated = (_checked(features, neighbors + 1) for features in (real, generated))
    return (
        _covered(generated, real, _radii(real, neighbors)),
        _covered(real, generated, _radii(generated, neighbors)),
    )


def _radii(points: np.ndarray, neighbors: int) -> np.ndarray:
    """Squared distances to the nearest but `neighbors`, the point itself not counted.  -> (N,)."""
    parts = []
    for rows, squared in _squared_distances(points, points):
        squared[np.arange(len(rows)), rows] = 0.0  # exactly
        parts.append(np.partition(squared, neighbors, axis=1)[:, neighbors])
    return np.concatenate(parts)


def _covered(points: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Which of `points` lie in any ball.  -> (N,) bool."""
    found = [(squared <= radii).any(axis=1) for _, squared in _squared_distances(points, centers)]
    return np.concatenate(found)


def _squared_distances(
    one: np.ndarray, other: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of `one`, by number, with their squared distances to all of `other`, block by block."""
    norms = (other**2).sum(axis=1)
    for start in range(0, len(one), _AT_ONCE):
        block = one[start : start + _AT_ONCE]
        squared = (block**2).sum(axis=1)[:, None] + norms - 2 * block @ other.T
        yield np.arange(start, start + len(block)), np.maximum(squared, 0)


def _checked(features: np.ndarray, fewest: int) -> np.ndarray:
    """`features` in float64.  Raises ValueError unless (N, F) with N >= `fewest`, all finite."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < fewest:
        raise ValueError(f"features have shape {features.shape}; (N, F) with N >= {fewest}")
    if not np.isfinite(features).all():
        raise ValueError(f"{np.sum(~np.isfinite(features))} features are not finite")
    return features
