"""One Gaussian, and mixtures of them, with full covariances (arXiv 1903.12436, section 4)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from vaejax.config import unknown
from vaejax.expost.density import Direct, Fit, Standardized, Transformed
from vaejax.expost.em import (
    Climb,
    Mixture,
    expectation_maximization,
    is_over,
    log_densities,
    of_responsibilities,
)
from vaejax.probability import distrax
from vaejax.progress import ProgressReport
from vaejax.types import Array

SELECTIONS = ("none", "held_out", "bic")


class LinearMap(nn.Module):
    """u = L z0 with a lower triangular L, the Cholesky factor of a covariance."""

    latent_dim: int

    def setup(self) -> None:
        def identity(key: Array) -> Array:
            return jnp.eye(self.latent_dim)

        self.cholesky = self.param("cholesky", identity)

    def bijector(self) -> distrax.TriangularLinear:
        """Generation to representation space, event shape (D,)."""
        return distrax.TriangularLinear(self.cholesky, is_lower=True)


class GaussianMixture(nn.Module):
    """K Gaussians with full covariances.  Components come one by one: memory is that of one."""

    latent_dim: int
    num_components: int

    def setup(self) -> None:
        count, dim = self.num_components, self.latent_dim

        def identity(key: Array) -> Array:
            return jnp.broadcast_to(jnp.eye(dim), (count, dim, dim))

        self.log_weights = self.param("log_weights", nn.initializers.zeros, (count,))
        self.means = self.param("means", nn.initializers.normal(1.0), (count, dim))
        self.cholesky = self.param("cholesky", identity)

    def log_prob(self, u: Array) -> Array:
        """u: (..., D) -> (...) nats."""
        eye = jnp.broadcast_to(jnp.eye(self.latent_dim), self.cholesky.shape)
        whitening = lax.linalg.triangular_solve(self.cholesky, eye, left_side=True, lower=True)
        log_det = jnp.log(jnp.diagonal(whitening, axis1=1, axis2=2)).sum(axis=1)
        constant = jax.nn.log_softmax(self.log_weights) + log_det
        constant -= 0.5 * self.latent_dim * math.log(2 * math.pi)

        def joint(component: tuple[Array, Array, Array]) -> Array:
            mean, whitening, constant = component
            white = jnp.matmul(u - mean, whitening.T, precision=lax.Precision.HIGHEST)
            return constant - 0.5 * jnp.sum(white**2, axis=-1)

        return jax.nn.logsumexp(lax.map(joint, (self.means, whitening, constant)), axis=0)

    def sample(self, key: Array, num_samples: int) -> Array:
        """-> (num_samples, D)."""
        of_component, of_noise = jax.random.split(key)
        chosen = jax.random.categorical(of_component, self.log_weights, shape=(num_samples,))
        noise = jax.random.normal(of_noise, (num_samples, self.latent_dim))

        def placed(u: Array, component: tuple[Array, Array, Array]) -> tuple[Array, None]:
            k, mean, factor = component
            here = mean + jnp.matmul(noise, factor.T, precision=lax.Precision.HIGHEST)
            return jnp.where((chosen == k)[:, None], here, u), None

        components = jnp.arange(self.num_components), self.means, self.cholesky
        return lax.scan(placed, noise, components)[0]


def gaussian(latent_dim: int) -> Transformed:
    """N(m, S) with any covariance; generation space is where it is N(0, I)."""
    return Transformed(latent_dim, LinearMap(latent_dim))


def gmm(latent_dim: int, num_components: int) -> Direct:
    """A mixture of Gaussians."""
    return Direct(latent_dim, GaussianMixture(latent_dim, num_components))


def fit_gaussian(
    codes: Standardized, row: Mapping[str, Any], seed: int, progress: ProgressReport
) -> Fit:
    """Mean and covariance, the floor added to its diagonal.  Raises ValueError for no floor."""
    floor = _checked_floor("gaussian", row)
    covariance = codes.train.T @ codes.train / len(codes.train) + floor * np.eye(
        codes.train.shape[1]
    )
    return Fit({}, {"flow": {"cholesky": np.linalg.cholesky(covariance)}})


def fit_gmm(
    codes: Standardized, row: Mapping[str, Any], seed: int, progress: ProgressReport
) -> Fit:
    """EM from k-means; with `select`, of that number of components that is best.

    Raises ValueError for more components than codes, an unknown selection and no floor.
    """
    _checked_floor("gmm", row)
    if row["select"] not in SELECTIONS:
        raise unknown("densities.gmm.select", row["select"], SELECTIONS)
    num_codes = len(codes.train)
    if row["select"] == "none" and row["num_components"] > num_codes:
        raise ValueError(
            f"a mixture of {row['num_components']} components needs as many codes; "
            f"there are {num_codes}"
        )
    if row["select"] == "none":
        climb, scores = _best_start(codes.train, row["num_components"], row, seed, progress), {}
    else:
        climb, scores = _selected(codes, row, seed, progress)
    mixture = climb.mixture
    params = {
        "log_weights": mixture.log_weights,
        "means": mixture.means,
        "cholesky": np.linalg.cholesky(mixture.covariances),
    }
    notes = {
        "num_components": len(mixture.means),
        "iterations": int(climb.iteration),
        "converged": is_over(climb, row["tolerance"]),
    }
    notes |= {"selection": scores} if scores else {}
    return Fit({"num_components": len(mixture.means)}, {"inner": params}, notes)


def _selected(
    codes: Standardized, row: Mapping[str, Any], seed: int, progress: ProgressReport
) -> tuple[Climb, dict[str, float]]:
    """The best of all candidates that there are enough codes for, and all their scores.

    Scores are mean held-out log-densities in nats, or -BIC / (2 N), in the same unit.
    """
    found, scores = {}, {}
    for count in sorted({*row["candidates"]}):
        if count > len(codes.train):
            break
        found[count] = _best_start(codes.train, count, row, seed, progress)
        if row["select"] == "held_out":
            score = log_densities(codes.held_out, found[count].mixture).mean()
        else:
            num_codes, dim = codes.train.shape
            free = count * (dim + 1) * (dim + 2) / 2 - 1
            score = log_densities(codes.train, found[count].mixture).mean()
            score -= free * math.log(num_codes) / (2 * num_codes)
        scores[count] = float(score) + codes.log_det
    if not found:
        raise ValueError(
            f"densities.gmm.candidates are {tuple(row['candidates'])}; there are only "
            f"{len(codes.train)} codes"
        )
    best = max(scores, key=lambda count: scores[count])
    return found[best], {str(count): score for count, score in scores.items()}


def _best_start(
    codes: np.ndarray, count: int, row: Mapping[str, Any], seed: int, progress: ProgressReport
) -> Climb:
    """Of `num_starts` climbs the one that came highest."""
    climbs = [
        expectation_maximization(
            codes,
            k_means_start(codes, count, seed + start, row["covariance_floor"]),
            floor=row["covariance_floor"],
            tolerance=row["tolerance"],
            max_iterations=row["max_iterations"],
            progress=progress,
        )
        for start in range(row["num_starts"])
    ]
    return max(climbs, key=lambda climb: float(climb.bound))


def k_means_start(codes: np.ndarray, num_components: int, seed: int, floor: float) -> Mixture:
    """The mixture of the clusters that k-means finds, itself started by k-means++."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = KMeans(num_components, n_init=1, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct codes than clusters
        labels = clusters.fit_predict(codes)
    return of_responsibilities(codes, np.eye(num_components)[labels], floor)


def _checked_floor(density: str, row: Mapping[str, Any]) -> float:
    floor = row["covariance_floor"]
    if floor < 1e-9:  # less is lost in the rounding of a covariance
        raise ValueError(f"densities.{density}.covariance_floor is {floor}; it must be >= 1e-9")
    return floor
