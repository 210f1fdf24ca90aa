"""A second VAE, whose data are the codes of the first (arXiv 1903.05789)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from vaejax.expost.density import Direct, Fit, Standardized, density_key
from vaejax.expost.gradient import trained
from vaejax.models.likelihoods import event_log_prob, learned_gaussian
from vaejax.models.networks import MLPDecoder, MLPEncoder
from vaejax.models.posteriors import DiagonalGaussian
from vaejax.models.priors import StandardNormal
from vaejax.models.vae import VAE
from vaejax.progress import ProgressReport
from vaejax.types import Array


class SecondStage(nn.Module):
    """A code u is drawn as w ~ N(0, I), u ~ N(mean(w), gamma^2 I), with gamma learned.

    Its log-density is an estimate, in the mean too low: the importance-weighted bound of
    `num_draws` draws of q(w|u).  They are made of the same noise for every u and every time, so
    that it is a function of u.
    """

    latent_dim: int
    widths: Sequence[int]
    initial_scale: float
    num_draws: int

    def setup(self) -> None:
        self.stage = second_vae(self.latent_dim, self.widths, self.initial_scale)

    def log_prob(self, u: Array) -> Array:
        """u: (..., D) -> (...) nats."""
        flat = u.reshape(-1, self.latent_dim)
        keys, others = jax.random.split(jax.random.key(0), (2, len(flat)))  # their draws are unused
        if self.is_initializing():
            self.stage.touch(flat, others)
        # What follows loops over draws: as a function of arrays, apart from this module.
        stage, variables = self.stage.unbind()
        q = nn.apply(VAE.encode, stage)(variables, flat, keys).q

        def joint(vae: VAE, w: Array) -> Array:
            return event_log_prob(vae.likelihood(vae.output(w)), flat) + vae.prior.log_prob(w)

        def log_weight(noise: Array) -> Array:
            w = q.mean() + q.stddev() * noise
            return nn.apply(joint, stage)(variables, w) - q.log_prob(w)

        noise = jax.random.normal(jax.random.key(1), (self.num_draws, self.latent_dim))
        log_weights = lax.map(log_weight, noise)
        return (jax.nn.logsumexp(log_weights, axis=0) - math.log(len(noise))).reshape(u.shape[:-1])

    def sample(self, key: Array, num_samples: int) -> Array:
        """With the noise of the likelihood, which is part of the method.  -> (num_samples, D)."""
        of_code, of_noise = jax.random.split(key)
        w = self.stage.prior.sample(of_code, num_samples)
        return self.stage.likelihood(self.stage.output(w)).sample(seed=of_noise)


def second_vae(latent_dim: int, widths: Sequence[int], initial_scale: float) -> VAE:
    """Codes (B, D) are its x, and its own codes are as large."""
    return VAE(
        encoder=MLPEncoder(tuple(widths)),
        posterior=DiagonalGaussian(latent_dim),
        prior=StandardNormal(latent_dim),
        decoder=MLPDecoder((latent_dim,), tuple(widths)[::-1]),
        likelihood=learned_gaussian(initial_scale, "identity"),
    )


def vae(latent_dim: int, **fields: Any) -> Direct:
    """The second stage; `fields` are those of SecondStage."""
    fields["widths"] = tuple(fields["widths"])
    return Direct(latent_dim, SecondStage(latent_dim, **fields))


def fit_vae(
    codes: Standardized, row: Mapping[str, Any], seed: int, progress: ProgressReport
) -> Fit:
    """Train by the ELBO, and stop by that of held-out codes.  Raises ValueError for a bad scale."""
    names = ("widths", "initial_scale", "num_draws")
    fields = {name: row[name] for name in names}
    dim = codes.train.shape[1]
    stage = second_vae(dim, row["widths"], row["initial_scale"])

    def costs(params: Any, u: Array, keys: Array) -> Array:
        terms = nn.apply(VAE.__call__, stage)({"params": params}, u, keys)
        return terms.reconstruction + terms.kl

    start, rest = jax.random.split(density_key(seed))
    u, keys = jnp.zeros((2, dim)), jax.random.split(jax.random.key(0), 2)
    params: Any = nn.init(VAE.touch, stage)(start, u, keys)
    found = trained(costs, params["params"], codes, row, rest, progress)
    return Fit(fields, {"inner": {"stage": found.params}}, found.notes)
