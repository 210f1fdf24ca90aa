"""How well Markov chains mix: arrays of their states in, numbers out."""

from __future__ import annotations

import numpy as np


def projection(paths: np.ndarray) -> np.ndarray:
    """States along the direction in which they differ most.  (C, T, *X) -> (C, T)."""
    flat = np.asarray(paths, np.float64).reshape(paths.shape[0] * paths.shape[1], -1)
    centered = flat - flat.mean(axis=0)
    direction = np.linalg.svd(centered[:: max(1, len(flat) // 5_000)], full_matrices=False)[2][0]
    return (centered @ direction).reshape(paths.shape[:2])


def autocorrelation(values: np.ndarray, num_lags: int) -> np.ndarray:
    """Correlation of a chain's value with its own k steps later, k = 0 .. num_lags.

    values: (C, T) -> (num_lags + 1,).  Mean and variance are those of all chains together, so that
    chains that stay where they are have 1.  Raises ValueError for more lags than there are.
    """
    values = np.asarray(values, np.float64)
    if not 0 <= num_lags < values.shape[1]:
        allowed = f"from 0 to {values.shape[1] - 1}"
        raise ValueError(f"{num_lags} lags of {values.shape[1]} states; {allowed} can be had")
    centered, count = values - values.mean(), values.shape[1]
    products = [(centered[:, : count - k] * centered[:, k:]).mean() for k in range(num_lags + 1)]
    return np.array(products) / products[0] if products[0] > 0 else np.ones(num_lags + 1)


def nearest_modes(paths: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The nearest of `centers` (K, *X) to every state.  (C, T, *X) -> (C, T) ints."""
    flat, points = paths.reshape(-1, centers[0].size), centers.reshape(len(centers), -1)
    squared = (points**2).sum(axis=1) - 2 * flat @ points.T
    return squared.argmin(axis=1).reshape(paths.shape[:2])


def mode_changes(modes: np.ndarray) -> np.ndarray:
    """How often each chain is in another mode than a state before.  (C, T) -> (C,) ints."""
    return (modes[:, 1:] != modes[:, :-1]).sum(axis=1)


def modes_visited(modes: np.ndarray) -> np.ndarray:
    """In how many modes each chain has been.  (C, T) -> (C,) ints."""
    return np.array([len(np.unique(row)) for row in modes])
