"""The latent space of a trained model: codes, both spaces, and the prior's density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.data.transforms import Transform
from vaejax.models.vae import VAE
from vaejax.parallel import example_keys
from vaejax.training.state import EVALUATE, observed, stream_key


class Codes(NamedTuple):
    """One draw of q(z|x) per example, in both spaces, and its center."""

    z: Any  # (N, D) representation space
    z0: Any  # (N, D) generation space, g(z)
    mean: Any  # (N, D)


def codes(
    model: VAE, variables: Mapping[str, Any], rows: np.ndarray, *, transform: Transform, seed: int
) -> Codes:
    """Draws of the aggregate posterior.  rows: (N, *X) raw -> Codes."""

    def both_spaces(vae: VAE, x: Any, keys: Any) -> Codes:
        code = vae.encode(x, keys)
        return Codes(code.z, vae.prior.to_base(code.z), code.mean)

    @jax.jit
    def encoded(variables: Any, rows: Any) -> Codes:
        indices = jnp.arange(len(rows))
        x = observed(transform, rows, indices)
        keys = example_keys(stream_key(seed, EVALUATE), indices)
        return nn.apply(both_spaces, model)(variables, x, keys)

    return Codes(*map(np.asarray, encoded(variables, rows)))


def density_grid(
    model: VAE,
    variables: Mapping[str, Any],
    points: np.ndarray,
    *,
    base: bool = False,
    size: int = 240,
    margin: float = 0.35,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prior's log-density around 2-D `points` (N, 2), and around its own mass.

    -> x (size,), y (size,), log_density (size, size) with rows along y, in nats.  `base` asks for
    the base density in generation space.
    """

    def log_density(vae: VAE, z: Any) -> Any:
        return vae.prior.base_log_prob(z) if base else vae.prior.log_prob(z)

    def prior_points(vae: VAE, key: Any) -> Any:
        z = vae.prior.sample(key, 1_000)
        return vae.prior.to_base(z) if base else z

    drawn = jax.jit(nn.apply(prior_points, model))(variables, jax.random.key(0))
    # Quantiles of both, so that one far outlier does not shrink everything else to a dot.
    spread = [np.quantile(cloud, (0.002, 0.998), axis=0) for cloud in (points, np.asarray(drawn))]
    low, high = np.min(spread, axis=(0, 1)), np.max(spread, axis=(0, 1))
    # A square, whatever the shape of the cloud: panels of both spaces then stand side by side.
    center, reach = (low + high) / 2, (1 + margin) * max(np.max(high - low), 1e-3) / 2
    x, y = (np.linspace(center[d] - reach, center[d] + reach, size) for d in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    values = jax.jit(nn.apply(log_density, model))(variables, grid)
    return x, y, np.asarray(values).reshape(size, size)
