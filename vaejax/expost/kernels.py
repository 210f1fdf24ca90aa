"""A Gaussian kernel around every code (arXiv 1903.12436 has one among its densities)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from vaejax.expost.density import Direct, Fit, Standardized
from vaejax.progress import ProgressReport
from vaejax.types import Array

_POINTS = 256  # that meet all centers at once
_JUDGED = 2_000  # held-out codes that a bandwidth is chosen by
_NARROWEST, _WIDEST = 0.01, 3.0  # bandwidths looked at, in standard deviations


class Kernels(nn.Module):
    """1/M sum_j N(u; center_j, bandwidth^2 I)."""

    latent_dim: int
    num_centers: int

    def setup(self) -> None:
        shape = (self.num_centers, self.latent_dim)
        self.centers = self.param("centers", nn.initializers.normal(1.0), shape)
        self.bandwidth = self.param("bandwidth", nn.initializers.ones, ())

    def log_prob(self, u: Array) -> Array:
        """u: (..., D) -> (...) nats."""
        return kernel_log_density(u, self.centers, self.bandwidth)

    def sample(self, key: Array, num_samples: int) -> Array:
        """-> (num_samples, D)."""
        of_center, of_noise = jax.random.split(key)
        chosen = jax.random.randint(of_center, (num_samples,), 0, self.num_centers)
        noise = jax.random.normal(of_noise, (num_samples, self.latent_dim))
        return jnp.take(self.centers, chosen, axis=0) + self.bandwidth * noise


def kernel_log_density(u: Array, centers: Array | np.ndarray, bandwidth: Array) -> Array:
    """log 1/M sum_j N(u; center_j, bandwidth^2 I).  u: (..., D), centers: (M, D) -> (...) nats."""
    count, dim = centers.shape
    constant = math.log(count) + dim * (jnp.log(bandwidth) + 0.5 * math.log(2 * math.pi))

    def of_point(point: Array) -> Array:
        distances = jnp.sum(((point - centers) / bandwidth) ** 2, axis=-1)
        return jax.nn.logsumexp(-0.5 * distances) - constant

    flat = u.reshape(-1, dim)
    return lax.map(of_point, flat, batch_size=min(_POINTS, len(flat))).reshape(u.shape[:-1])


def kde(latent_dim: int, num_centers: int) -> Direct:
    """A kernel density estimate."""
    return Direct(latent_dim, Kernels(latent_dim, num_centers))


def fit_kde(
    codes: Standardized, row: Mapping[str, Any], seed: int, progress: ProgressReport
) -> Fit:
    """At most `max_codes` of the codes, and the bandwidth, which 0 leaves to held-out codes."""
    centers = codes.train[: row["max_codes"]].astype(np.float32)  # they are in random order
    bandwidth = float(row["bandwidth"]) or _best_bandwidth(centers, codes.held_out, progress)
    params = {"inner": {"centers": centers, "bandwidth": np.float32(bandwidth)}}
    notes = {"bandwidth": bandwidth, "centers": len(centers)}
    return Fit({"num_centers": len(centers)}, params, notes)


def _best_bandwidth(centers: np.ndarray, held_out: np.ndarray, progress: ProgressReport) -> float:
    """That of the highest mean log-density of held-out codes, to 1 %."""
    from scipy.optimize import minimize_scalar

    mean = jax.jit(lambda bandwidth: kernel_log_density(judged, centers, bandwidth).mean())
    judged, tried = jnp.asarray(held_out[:_JUDGED], jnp.float32), []

    def cost(log_bandwidth: float) -> float:
        tried.append(log_bandwidth)
        progress.update(len(tried))
        return -float(mean(math.exp(log_bandwidth)))

    bounds = math.log(_NARROWEST), math.log(_WIDEST)
    found: Any = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return math.exp(found.x)
