"""q(z|x): from encoder features to a code.  Every draw belongs to its example's key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import fails, unknown
from vaejax.probability import distrax
from vaejax.types import Array, Code


CODE_ACTIVATIONS = {"none": lambda z: z, "relu": nn.relu}


def _gaussian_code(mean: Array, scale: Array, keys: Array) -> Code:
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    z = mean + scale * noise
    q = distrax.Independent(distrax.Normal(mean, scale), reinterpreted_batch_ndims=1)
    return Code(z, jnp.asarray(q.log_prob(z)), mean, q)


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(mean, diag(exp(log_variance))), both linear in the features (arXiv 1312.6114).

    features: (B, F), keys: (B,) -> Code with z: (B, D).  The log-variance is clipped to
    +-log_variance_bound, far outside what training visits, so that one bad step cannot overflow.
    """

    latent_dim: int
    log_variance_bound: float = 20.0
    has_density = True

    @nn.compact
    def __call__(self, features: Array, keys: Array) -> Code:
        mean, log_variance = jnp.split(nn.Dense(2 * self.latent_dim)(features), 2, axis=-1)
        bound = self.log_variance_bound
        scale = jnp.exp(0.5 * jnp.clip(log_variance, -bound, bound))
        return _gaussian_code(mean, scale, keys)


class FixedScale(nn.Module):
    """q(z|x) = N(mean, scale^2 I), the mean linear in the features (arXiv 1903.12436, sec. 2.2).

    Raises ValueError unless `scale` is positive.
    """

    latent_dim: int
    scale: float = 0.7
    has_density = True

    def __post_init__(self) -> None:
        if fails(self.scale <= 0):
            raise ValueError(f"posteriors.fixed_scale.scale is {self.scale}; it must be positive")
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, keys: Array) -> Code:
        mean = nn.Dense(self.latent_dim)(features)
        return _gaussian_code(mean, jnp.full_like(mean, self.scale), keys)


class Deterministic(nn.Module):
    """The code of an autoencoder: no density (arXiv 1903.12436).

    z is linear in the features, or what `activation` makes of that; "relu" allows codes of exact
    zeros.  Raises ValueError for an unknown activation.
    """

    latent_dim: int
    activation: str = "none"
    has_density = False

    def __post_init__(self) -> None:
        if self.activation not in CODE_ACTIVATIONS:
            raise unknown("posteriors.deterministic.activation", self.activation, CODE_ACTIVATIONS)
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, keys: Array) -> Code:
        z = CODE_ACTIVATIONS[self.activation](nn.Dense(self.latent_dim)(features))
        return Code(z, jnp.zeros(len(z)), z)


POSTERIORS = {
    "diagonal_gaussian": DiagonalGaussian,
    "fixed_scale": FixedScale,
    "deterministic": Deterministic,
}
