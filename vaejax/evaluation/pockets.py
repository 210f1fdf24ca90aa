"""Where the prior and the aggregate posterior disagree: pockets, leaks, and their divergence.

A pocket has mass under the prior p(z) and little under q(z) = 1/N sum_i q(z|x_i); a leak is the
reverse (arXiv 1911.10506, sec. 3.1 and 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree
from scipy.stats import chi2

from vaejax.evaluation.aggregate import aggregate_log_density
from vaejax.models.programs import prior_draws, program, with_prior
from vaejax.models.vae import VAE
from vaejax.types import Array

HIGH_FRACTION = 0.1  # of draws of q(z) that are high-posterior samples


class Aggregate(NamedTuple):
    """q(z) as a mixture of N Gaussians of equal weight, one for each of N examples."""

    mean: np.ndarray  # (N, D)
    scale: np.ndarray  # (N, D), > 0

    def sample(self, key: Array, num_samples: int) -> Array:
        """-> (num_samples, D)."""
        which, noise = jax.random.split(key)
        index = jax.random.randint(which, (num_samples,), 0, len(self.mean))
        draws = jax.random.normal(noise, (num_samples, self.mean.shape[1]))
        return jnp.asarray(self.mean)[index] + jnp.asarray(self.scale)[index] * draws

    def log_prob(self, z: Array | np.ndarray) -> Array:
        """(P, D) -> (P,) nats."""
        return aggregate_log_density(z, self.mean, self.scale)


class Draws(NamedTuple):
    """Points of the latent space with all densities there, in nats."""

    z: np.ndarray  # (N, D) representation space
    z0: np.ndarray  # (N, D) generation space, g(z)
    log_q: np.ndarray  # (N,) log q(z)
    log_p: np.ndarray  # (N,) log p(z)
    log_base: np.ndarray  # (N,) log p0(g(z))

    @property
    def log_det(self) -> np.ndarray:
        """log |det dg/dz|.  -> (N,) nats."""
        return self.log_p - self.log_base


def draws_of_both(
    model: VAE, variables: Mapping[str, Any], aggregate: Aggregate, key: Array, num_samples: int
) -> tuple[Draws, Draws]:
    """Independent draws of the prior p(z), and of the aggregate posterior q(z)."""
    of_p, of_q = jax.random.split(key)
    of_prior = program(prior_draws(num_samples), model)(variables, of_p)
    points, densities = (of_prior, aggregate.sample(of_q, num_samples)), program(with_prior, model)
    found = []
    for z in points:
        z0, log_p, log_base = densities(variables, z)
        found.append(Draws(*map(np.asarray, (z, z0, aggregate.log_prob(z), log_p, log_base))))
    return found[0], found[1]


def lowest(scores: np.ndarray, fraction: float) -> np.ndarray:
    """Indices of the `fraction` of (N,) `scores` that are lowest, ascending by score.

    Low-posterior samples are draws of the prior with the lowest log q(z), those in pockets;
    high-posterior samples are draws of q(z) with the lowest log p0(g(z)), those that leak.  At
    least one.  Raises ValueError for a fraction outside (0, 1] and scores that are not numbers.
    """
    scores = np.asarray(scores)
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of lowest scores is {fraction}; in (0, 1]")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} scores are not numbers")
    count = max(1, round(fraction * len(scores)))
    return np.argsort(scores, kind="stable")[:count]


class Leakage(NamedTuple):
    """The leakage score at one threshold; lower is better.  All are means of what is here."""

    unconditional: np.ndarray  # (N,) [log q - log p] 1{log p0 < threshold}
    conditional: np.ndarray  # (M,) log q - log p of those with log p0 < threshold
    leaks: np.ndarray  # (N,) bool: log p0 < threshold


def leakage(
    log_q: np.ndarray,
    log_base: np.ndarray,
    threshold: float,
    log_det: np.ndarray | None = None,
) -> Leakage:
    """Mass of q(z) where the prior has next to none (arXiv 1911.10506, eq. 6).

    log_q, log_base: (N,) nats, log q(z) and log p0(g(z)) at draws z of q.  The paper compares
    densities of two spaces; with `log_det` (N,), log |det dg/dz|, both are of representation space.
    Raises ValueError for shapes that differ.
    """
    log_q, log_base = np.asarray(log_q, np.float64), np.asarray(log_base, np.float64)
    volume = np.zeros(len(log_q)) if log_det is None else np.asarray(log_det, np.float64)
    if not log_q.shape == log_base.shape == volume.shape or log_q.ndim != 1 or not len(log_q):
        shapes = log_q.shape, log_base.shape, volume.shape
        raise ValueError(f"log q, log p0 and log det have shapes {shapes}; all must be (N,)")
    score = log_q - log_base - volume
    leaks = log_base < threshold
    return Leakage(np.where(leaks, score, 0.0), score[leaks], leaks)


def base_quantiles(levels: Sequence[float], dim: int) -> np.ndarray:
    """Quantiles of log p0(z0), z0 ~ p0 = N(0, I) in `dim` dimensions: thresholds that compare.

    levels: probabilities (T,) -> (T,) nats.
    """
    radius = chi2.isf(np.asarray(levels, np.float64), dim)  # |z0|^2 is larger where p0 is lower
    return -0.5 * (radius + dim * np.log(2 * np.pi))


def base_mass(threshold: float, dim: int) -> float:
    """Mass of N(0, I) in `dim` dimensions where its log density is below `threshold` nats."""
    return float(chi2.sf(-2 * threshold - dim * np.log(2 * np.pi), dim))


def nearest_neighbor_kl(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KL(P || Q) from draws, by distances to nearest neighbors (Perez-Cruz, 2008, eq. 14).

    x: (n, D) of P, y: (m, D) of Q -> (n,) nats, one term per distinct point of x, whose mean is the
    estimate.  Repeated points count once: their distance is zero.  Raises ValueError where x and y
    share a point, and for fewer than two distinct points of x.
    """
    x, y = (np.unique(np.asarray(points, np.float64), axis=0) for points in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or len(x) < 2:
        shapes = f"{x.shape} and {y.shape}"
        raise ValueError(f"distinct draws have shapes {shapes}; (n, D) and (m, D) with n > 1")
    within = KDTree(x).query(x, k=2)[0][:, 1]
    across = KDTree(y).query(x)[0]
    if not across.all():
        raise ValueError(f"{np.sum(across == 0)} draws are in both sets: their distance is zero")
    return x.shape[1] * np.log(across / within) + np.log(len(y) / (len(x) - 1))
