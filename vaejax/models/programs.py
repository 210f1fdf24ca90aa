"""Functions of a model as compiled programs, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from vaejax.models.vae import VAE
from vaejax.types import Array


def program(function: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    """`function` of (bound model, *inputs), compiled: (variables, *inputs) -> what it returns.

    The same program for the same function and an equal model, so that neither is traced nor
    compiled twice: `function` is a method, or one of a module, not made anew for every call.
    """
    try:
        return _kept(function, model)
    except TypeError:  # a field of somebody's own module has no hash
        return jax.jit(nn.apply(function, model))


@functools.lru_cache(maxsize=128)
def _kept(function: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    return jax.jit(nn.apply(function, model))


@functools.lru_cache(maxsize=128)
def prior_draws(count: int) -> Callable[[VAE, Array], Array]:
    """A function for `program`: (bound model, key) -> z (count, D), draws of p(z)."""
    return lambda vae, key: vae.prior.sample(key, count)


def to_base(vae: VAE, z: Array) -> Array:
    """Representation -> generation space.  (N, D) -> (N, D)."""
    return vae.prior.to_base(z)


def from_base(vae: VAE, z0: Array) -> Array:
    """Generation -> representation space.  (N, D) -> (N, D)."""
    return vae.prior.from_base(z0)


def log_prior(vae: VAE, z: Array) -> Array:
    """log p(z).  (N, D) -> (N,) nats."""
    return vae.prior.log_prob(z)


def log_base(vae: VAE, z0: Array) -> Array:
    """log p0(z0).  (N, D) -> (N,) nats."""
    return vae.prior.base_log_prob(z0)


def with_prior(vae: VAE, z: Array) -> tuple[Array, Array, Array]:
    """Points of representation space -> z0, log p(z) and log p0(z0)."""
    z0 = vae.prior.to_base(z)
    return z0, vae.prior.log_prob(z), vae.prior.base_log_prob(z0)


def halfway(vae: VAE, one: Array, other: Array) -> Array:
    """Between pairs of codes, in generation space.  (N, D), (N, D) -> (N, D)."""
    return vae.prior.from_base((vae.prior.to_base(one) + vae.prior.to_base(other)) / 2)
