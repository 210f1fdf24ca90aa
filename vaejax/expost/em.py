"""Expectation maximization of Gaussian mixtures with full covariances, in float64.

A Gaussian mixture is an exponential family given its components: with the features
phi(z) = (z_i z_j for i <= j, z, 1), of which there are F = (D + 1)(D + 2) / 2, the logarithms of
all joint densities are one matrix product, (N, F) @ (F, K), and what the next parameters are made
of, sums of features by responsibility, is another, (K, N) @ (N, F).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vaejax.progress import ProgressReport
from vaejax.training.validation import even_size
from vaejax.types import Array

_BLOCK_BYTES = 2**22  # of features in use at once: on a CPU what its caches hold
_KEPT_BYTES = 2**28  # up to which features are made once, not in every iteration
_AT_ONCE = 100  # iterations between two looks of the host


class Mixture(NamedTuple):
    """K Gaussians: log_weights (K,), means (K, D), covariances (K, D, D)."""

    log_weights: Any
    means: Any
    covariances: Any


class Climb(NamedTuple):
    """A mixture on its way; bounds of the iteration before it, and of the one before that."""

    mixture: Mixture
    iteration: Any
    bound: Any  # mean log-likelihood per code, in nats, of the mixture that this was made from
    before: Any


def expectation_maximization(
    codes: np.ndarray,
    start: Mixture,
    *,
    floor: float = 1e-6,
    tolerance: float = 1e-3,
    max_iterations: int = 2_000,
    progress: ProgressReport | None = None,
) -> Climb:
    """The mixture that the likelihood of `codes` (N, D) climbs to from `start`, on the host.

    `floor` is added to the diagonal of every covariance.  Ends when the mean log-likelihood per
    code changes by less than `tolerance` nats, as scikit-learn's does.  Codes should be
    standardized: quadratic forms are expanded, which costs digits far from the origin.
    """
    with jax.enable_x64(True):
        blocks, mask = _blocks(np.asarray(codes, np.float64))
        if mask.size * _num_features(codes.shape[1]) * 8 <= _KEPT_BYTES:
            blocks = jax.jit(jax.vmap(_features))(blocks)
        mixture = Mixture(*(jnp.asarray(part, jnp.float64) for part in start))
        climb = Climb(mixture, jnp.zeros((), int), jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf))
        limits = jnp.asarray(floor), jnp.asarray(tolerance)
        while int(climb.iteration) < max_iterations and not is_over(climb, tolerance):
            until = min(int(climb.iteration) + _AT_ONCE, max_iterations)
            climb = _climbed(climb, blocks, mask, len(codes), *limits, until)
            if progress is not None:
                progress.update(int(climb.iteration))
        return jax.tree.map(np.asarray, climb)


def is_over(climb: Climb, tolerance: float) -> bool:
    """Whether the last iteration changed the bound by less than `tolerance`."""
    return bool(abs(climb.bound - climb.before) < tolerance)


def of_responsibilities(codes: np.ndarray, responsibilities: np.ndarray, floor: float) -> Mixture:
    """The mixture that is most likely given them.  codes: (N, D), responsibilities: (N, K)."""
    with jax.enable_x64(True):
        features = jax.jit(_features)(jnp.asarray(codes, jnp.float64))
        sums = jnp.asarray(responsibilities, jnp.float64).T @ features
        return jax.tree.map(np.asarray, _of_sums(sums, floor))


def log_densities(codes: np.ndarray, mixture: Mixture) -> np.ndarray:
    """log p of every code, in float64.  codes: (N, D) -> (N,) nats."""
    with jax.enable_x64(True):
        size = _block_size(codes)
        given = Mixture(*(jnp.asarray(part, jnp.float64) for part in mixture))
        pieces = [
            _log_densities(jnp.asarray(codes[first : first + size], jnp.float64), given)
            for first in range(0, len(codes), size)
        ]
        return np.concatenate([np.asarray(piece) for piece in pieces])


@jax.jit
def _log_densities(codes: Array, mixture: Mixture) -> Array:
    return jax.nn.logsumexp(_features(codes) @ _coefficients(mixture), axis=1)


def _num_features(dim: int) -> int:
    return (dim + 1) * (dim + 2) // 2


def _block_size(codes: np.ndarray) -> int:
    return even_size(len(codes), _BLOCK_BYTES // (8 * _num_features(codes.shape[1])))


def _blocks(codes: np.ndarray) -> tuple[Array, Array]:
    """Codes in blocks of equal size, the last one filled up.  -> (M, S, D), (M, S) of 0 and 1."""
    size = _block_size(codes)
    missing = -len(codes) % size
    mask = np.pad(np.ones(len(codes)), (0, missing)).reshape(-1, size)
    filled = np.pad(codes, ((0, missing), (0, 0)))
    return jnp.asarray(filled.reshape(-1, size, codes.shape[1])), jnp.asarray(mask)


def _features(codes: Array) -> Array:
    """(N, D) -> (N, F)."""
    row, column = np.triu_indices(codes.shape[1])
    one = jnp.ones((len(codes), 1), codes.dtype)
    return jnp.concatenate([codes[:, row] * codes[:, column], codes, one], axis=1)


def _coefficients(mixture: Mixture) -> Array:
    """What features are multiplied with for log w_k N(z; k).  -> (F, K)."""
    dim = mixture.means.shape[1]
    row, column = np.triu_indices(dim)
    factor = jnp.linalg.cholesky(mixture.covariances)
    eye = jnp.broadcast_to(jnp.eye(dim), factor.shape)
    whitening = lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
    precision = jnp.einsum("kij,kil->kjl", whitening, whitening)
    linear = jnp.einsum("kij,kj->ki", precision, mixture.means)
    log_det = jnp.log(jnp.diagonal(whitening, axis1=1, axis2=2)).sum(axis=1)
    constant = mixture.log_weights + log_det - 0.5 * dim * math.log(2 * math.pi)
    constant -= 0.5 * jnp.einsum("ki,ki->k", linear, mixture.means)
    times = np.where(row == column, -0.5, -1.0)
    parts = [precision[:, row, column] * times, linear, constant[:, None]]
    return jnp.concatenate(parts, axis=1).T


def _of_sums(sums: Array, floor: Any) -> Mixture:
    """The mixture of summed features.  (K, F) -> Mixture."""
    num_components, num_features = sums.shape
    dim = math.isqrt(2 * num_features) - 1  # F = (D + 1)(D + 2) / 2
    row, column = np.triu_indices(dim)
    # As scikit-learn's: a component that nothing belongs to keeps finite numbers.
    count = sums[:, -1] + 10 * jnp.finfo(sums.dtype).eps
    means = sums[:, -1 - dim : -1] / count[:, None]
    upper = sums[:, : -1 - dim] / count[:, None]
    second = jnp.zeros((num_components, dim, dim), sums.dtype)
    second = second.at[:, row, column].set(upper).at[:, column, row].set(upper)
    covariances = second - means[:, :, None] * means[:, None, :] + floor * jnp.eye(dim)
    return Mixture(jnp.log(count / count.sum()), means, covariances)


@functools.partial(jax.jit, static_argnums=3)
def _climbed(
    climb: Climb, blocks: Array, mask: Array, count: int, floor: Any, tolerance: Any, until: Any
) -> Climb:
    """Iterations up to number `until`, or until one changes little."""
    num_features = _num_features(climb.mixture.means.shape[1])

    def goes_on(climb: Climb) -> Array:
        return (climb.iteration < until) & (jnp.abs(climb.bound - climb.before) >= tolerance)

    def iterated(climb: Climb) -> Climb:
        coefficients = _coefficients(climb.mixture)

        def added(sums: tuple[Array, Array], block: Any) -> tuple[Any, None]:
            some, mask = block
            features = some if some.shape[1] == num_features else _features(some)
            joint = features @ coefficients
            log_density = jax.nn.logsumexp(joint, axis=1)
            weights = jnp.exp(joint - log_density[:, None]) * mask[:, None]
            total = sums[0] + weights.T @ features
            return (total, sums[1] + jnp.dot(log_density, mask)), None

        none = jnp.zeros((coefficients.shape[1], num_features)), jnp.zeros(())
        (sums, total), _ = lax.scan(added, none, (blocks, mask))
        mixture = _of_sums(sums, floor)
        return Climb(mixture, climb.iteration + 1, total / count, climb.bound)

    return lax.while_loop(goes_on, iterated, climb)
