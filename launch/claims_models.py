"""What claims measure on trained runs: codes, errors, distances, mixtures and a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

import vaejax
from vaejax.data.arrays import Dataset
from vaejax.evaluation.comparison import Comparison
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.evaluation.samples import frechet_distance, moments
from vaejax.expost.families import default_density_config, fit_codes
from vaejax.models.vae import VAE
from vaejax.objectives.divergences import KERNELS
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.training.replicas import Sweep, fit_replicas
from vaejax.training.validation import over_split


def trained(config: ConfigDict, folder: Path, dataset: Dataset | None = None) -> OpenedRun:
    """The run of `config` in `folder`, trained unless it is there."""
    vaejax.fit(config, folder, dataset, quiet=True)
    return opened(folder, dataset)


def replicas(config: ConfigDict, sweep: Sweep, folder: Path) -> list[OpenedRun]:
    """Runs of all values of `sweep`, the last key varying fastest; trained at once."""
    return [opened(each) for each in fit_replicas(config, sweep, folder, quiet=True)]


def matching(
    error_of: Callable[[float], float], target: float, weights: Sequence[float], tolerance: float
) -> float:
    """The weight whose error, which grows with it, is `target` up to a fraction `tolerance`.

    `weights` ascend; between the first two on both sides it is found by interpolation of logs.
    Raises ValueError where none of them errs more than `target`, or the first already does.
    """
    low = high = (weights[0], error_of(weights[0]))
    for weight in weights[1:]:
        if high[1] >= target:
            break
        low, high = high, (weight, error_of(weight))
    if high[1] < target or low[1] > target * (1 + tolerance):
        raise ValueError(f"errors {low[1]:g} to {high[1]:g} of {weights} do not reach {target:g}")
    nearest = min((low, high), key=lambda pair: abs(pair[1] / target - 1))
    for _ in range(6):
        if abs(nearest[1] / target - 1) <= tolerance:
            break
        share = np.log(target / low[1]) / np.log(high[1] / low[1])
        weight = float(np.exp(np.interp(share, (0, 1), np.log((low[0], high[0])))))
        nearest = (weight, error_of(weight))
        low, high = (nearest, high) if nearest[1] < target else (low, nearest)
    return nearest[0]


def codes_of(run: OpenedRun, split: str = "train", count: int | None = None) -> np.ndarray:
    """The means of q(z|x).  -> (N, D)."""
    return _on_all(run, VAE.embed, images(run, split, count))


def images(run: OpenedRun, split: str, count: int | None = None) -> np.ndarray:
    """x without augmentation or corruption.  -> (N, *X)."""
    rows: Any = run.dataset.splits[split][:count]
    return np.asarray(rows, np.float32) / run.dataset.scale


def decoded(run: OpenedRun, z: np.ndarray) -> np.ndarray:
    """-> (N, *X)."""
    return _on_all(run, VAE.decode, z)


def _on_all(run: OpenedRun, method: Any, values: np.ndarray) -> np.ndarray:
    function = jax.jit(nn.apply(method, run.model))
    return over_split(lambda rows, _: function(run.variables, rows), values, 1_000)


def squared_error(run: OpenedRun) -> float:
    """Of reconstructions of the test split from the mean code, summed over pixels."""
    x = images(run, "test")
    error = decoded(run, codes_of(run, "test")) - x
    return float((error**2).reshape(len(x), -1).sum(axis=1).mean())


def distance(run: OpenedRun, z: np.ndarray) -> float:
    """FD of decoded codes to training data, in the features of the table."""
    return distance_of(run, decoded(run, z))


def distance_of(run: OpenedRun, x: np.ndarray) -> float:
    """FD of images (N, *X) to training data, in the features of the table."""
    data = run.dataset.sha256, run.config.observation
    if data not in _COMPARED:
        _COMPARED[data] = run.subject(Protocol(counts=Counts(images=10_000))).comparison
    compared = _COMPARED[data]
    features = over_split(lambda x, _: compared.features_of(x), x, 500)
    return frechet_distance(moments(compared.real), moments(features))


_COMPARED: dict[tuple[str, str], Comparison] = {}  # features of training data, computed once


def mixture(codes: np.ndarray, components: int, seed: int) -> Any:
    """A Gaussian mixture fitted to codes: (draws (10,000, D), what the fit reports)."""
    config = default_density_config().unlock()
    config.density, config.seed = "gmm", seed
    config.densities.gmm.num_components = components
    fitted = fit_codes(codes, config)
    draw = nn.apply(lambda density, key: density.sample(key, 10_000), fitted.density)
    return np.asarray(draw({"params": fitted.params}, jax.random.key(seed))), fitted.report


def p_value(codes: np.ndarray, seed: int, permutations: int = 999) -> float:
    """Of unbiased MMD between codes (n, D) and as many draws of N(0, I), by permutation."""
    random = np.random.default_rng(seed)
    n, both = len(codes), np.concatenate([codes, random.normal(size=codes.shape)])
    both = jnp.asarray(both, jnp.float32)
    kernel = KERNELS["imq"](both, both)
    squared = jnp.sum(both**2, 1)[:, None] + jnp.sum(both**2, 1) - 2 * both @ both.T
    matrix = np.array(kernel(jnp.maximum(squared, 0)), np.float64)
    np.fill_diagonal(matrix, 0)
    orders = [np.arange(2 * n)] + [random.permutation(2 * n) for _ in range(permutations)]
    first = np.zeros((2 * n, len(orders)))
    for k, order in enumerate(orders):
        first[order[:n], k] = 1
    own = (first * (matrix @ first)).sum(axis=0)
    other = ((1 - first) * (matrix @ (1 - first))).sum(axis=0)
    cross = (matrix.sum() - own - other) / 2
    values = (own + other) / (n * (n - 1)) - 2 * cross / n**2
    return float(np.mean(values >= values[0]))
