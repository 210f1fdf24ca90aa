"""p(z): densities over codes that can be sampled, and their generation space."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import unknown
from vaejax.models.flows import MASKS, T_ACTIVATIONS, CouplingFlow
from vaejax.probability import distrax
from vaejax.types import Array, Code


def negative_entropy(code: Code) -> Array:
    """E log q(z|x): closed form where there is one, else its one-draw estimate.  -> (B,) nats."""
    return code.log_q if code.q is None else jnp.asarray(-code.q.entropy())


def standard_normal_log_prob(z: Array) -> Array:
    """log N(z; 0, I).  z: (..., D) -> (...) nats."""
    dim = z.shape[-1]
    return jnp.asarray(distrax.MultivariateNormalDiag(jnp.zeros(dim), jnp.ones(dim)).log_prob(z))


class StandardNormal(nn.Module):
    """p(z) = N(0, I): representation and generation space are one (arXiv 1312.6114)."""

    latent_dim: int
    factorizes = True
    is_learned = False
    has_normal_base = True

    def log_prob(self, z: Array) -> Array:
        return standard_normal_log_prob(z)

    def sample(self, key: Array, num_samples: int) -> Array:
        return jax.random.normal(key, (num_samples, self.latent_dim))

    def kl(self, code: Code, log_p: Array) -> Array:
        if code.q is None:
            return code.log_q - log_p
        zero, one = jnp.zeros_like(code.z), jnp.ones_like(code.z)
        return code.q.kl_divergence(distrax.Independent(distrax.Normal(zero, one), 1))

    def kl_blocks(self, code: Code, log_p: Array) -> Array:
        standard = distrax.Normal(jnp.zeros(()), jnp.ones(()))
        if code.q is None:
            return -jnp.asarray(standard.log_prob(code.z))
        return code.q.distribution.kl_divergence(standard)

    def base_log_prob(self, z0: Array) -> Array:
        return standard_normal_log_prob(z0)

    def to_base(self, z: Array) -> Array:
        return z

    def from_base(self, z0: Array) -> Array:
        return z0


class Decoupled(nn.Module):
    """p(z) = N(g(z); 0, I) |det dg/dz| with a coupling flow g (arXiv 1911.10506, eqs. 2, 5, 7)."""

    flow: nn.Module
    kl_constant: bool = True
    is_learned = True
    has_normal_base = True

    @property
    def factorizes(self) -> bool:
        return self.flow.latent_dim == 1

    def log_prob(self, z: Array) -> Array:
        z0, log_det = self.flow.bijector().inverse_and_log_det(z)
        return standard_normal_log_prob(z0) + log_det

    def sample(self, key: Array, num_samples: int) -> Array:
        return self.from_base(jax.random.normal(key, (num_samples, self.flow.latent_dim)))

    def kl(self, code: Code, log_p: Array) -> Array:
        # The authors' code drops -D/2, which shifts beta_b's capacity and every reported KL.
        # A deterministic code has no entropy and no such constant.
        dropped = 0.0 if self.kl_constant or code.q is None else 0.5 * code.z.shape[-1]
        return negative_entropy(code) - log_p + dropped

    def kl_blocks(self, code: Code, log_p: Array) -> Array:
        return self.kl(code, log_p)[:, None]

    def base_log_prob(self, z0: Array) -> Array:
        return standard_normal_log_prob(z0)

    def to_base(self, z: Array) -> Array:
        return self.flow.bijector().inverse(z)

    def from_base(self, z0: Array) -> Array:
        return self.flow.bijector().forward(z0)


def decoupled(latent_dim: int, *, kl_constant: bool = True, **flow: Any) -> Decoupled:
    """The decoupled prior; `flow` are the fields of CouplingFlow.  Raises ValueError."""
    for field, names in (("mask", MASKS), ("t_activation", T_ACTIVATIONS)):
        if field in flow and flow[field] not in names:
            raise unknown(f"priors.decoupled.{field}", flow[field], names)
    return Decoupled(CouplingFlow(latent_dim, **flow), kl_constant)


PRIORS = {"standard_normal": StandardNormal, "decoupled": decoupled}
