"""A density over codes with all that a prior has, so that a model can take it for its prior."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.models.priors import negative_entropy, standard_normal_log_prob
from vaejax.training.state import DENSITY, stream_key
from vaejax.types import Array, Code


class Density(nn.Module):
    """What all fitted densities share: codes are standardized before anything looks at them.

    `mean` and `scale` (D,) are those of the codes it was fitted to; u = (z - mean) / scale is a
    standardized code, and every log-density counts -sum(log(scale)).  Where there is no generation
    space of its own, it is the representation space: `to_base` and `from_base` are the identity and
    `base_log_prob` is the density itself.
    """

    latent_dim: int
    has_normal_base = False  # whether `base_log_prob` is that of N(0, I)

    def setup(self) -> None:
        self.mean = self.param("mean", nn.initializers.zeros, (self.latent_dim,))
        self.scale = self.param("scale", nn.initializers.ones, (self.latent_dim,))

    @property
    def factorizes(self) -> bool:
        return self.latent_dim == 1

    def log_prob(self, z: Array) -> Array:
        raise NotImplementedError

    def sample(self, key: Array, num_samples: int) -> Array:
        raise NotImplementedError

    def kl(self, code: Code, log_p: Array) -> Array:
        return negative_entropy(code) - log_p

    def kl_blocks(self, code: Code, log_p: Array) -> Array:
        """KL of each block of dimensions that the density factorizes over: one.  -> (B, 1) nats."""
        return self.kl(code, log_p)[:, None]

    def base_log_prob(self, z0: Array) -> Array:
        return self.log_prob(z0)

    def to_base(self, z: Array) -> Array:
        return z

    def from_base(self, z0: Array) -> Array:
        return z0

    def standardized(self, z: Array) -> tuple[Array, Array]:
        """u, and log|det du/dz|.  (..., D) -> (..., D), () nats."""
        return (z - self.mean) / self.scale, -jnp.sum(jnp.log(self.scale))

    def restored(self, u: Array) -> Array:
        """The code of a standardized one.  (..., D) -> (..., D)."""
        return self.mean + self.scale * u


class Direct(Density):
    """A density of standardized codes that is written down as such.

    `inner` has `log_prob(u)`, (..., D) -> (...) nats, and `sample(key, num_samples)`.
    """

    inner: Any

    def log_prob(self, z: Array) -> Array:
        u, log_det = self.standardized(z)
        return self.inner.log_prob(u) + log_det

    def sample(self, key: Array, num_samples: int) -> Array:
        return self.restored(self.inner.sample(key, num_samples))


class Transformed(Density):
    """N(0, I) through a bijection: `flow.bijector().forward` maps z0 to standardized codes."""

    flow: Any
    has_normal_base = True

    def log_prob(self, z: Array) -> Array:
        u, log_det = self.standardized(z)
        z0, more = self.flow.bijector().inverse_and_log_det(u)
        return standard_normal_log_prob(z0) + more + log_det

    def sample(self, key: Array, num_samples: int) -> Array:
        return self.from_base(jax.random.normal(key, (num_samples, self.latent_dim)))

    def base_log_prob(self, z0: Array) -> Array:
        return standard_normal_log_prob(z0)

    def to_base(self, z: Array) -> Array:
        return self.flow.bijector().inverse(self.standardized(z)[0])

    def from_base(self, z0: Array) -> Array:
        return self.restored(self.flow.bijector().forward(z0))


def density_key(seed: int) -> Array:
    """Of a fit; another one than that of the codes' draws."""
    return jax.random.fold_in(stream_key(seed, DENSITY), jnp.uint32(2**32 - 1))


class Standardized(NamedTuple):
    """Codes that a density is fitted to and judged by, standardized alike, in float64."""

    train: np.ndarray  # (N, D)
    held_out: np.ndarray  # (H, D)
    log_det: float  # log|det du/dz|, which a log-density of them lacks to be that of codes


class Fit(NamedTuple):
    """What fitting to standardized codes found."""

    shape: dict[str, Any]  # what the module is built with, beside the latent size; plain values
    params: dict[str, Any]  # of the module, but for its mean and scale
    notes: dict[str, Any] = {}  # how it went; plain values
