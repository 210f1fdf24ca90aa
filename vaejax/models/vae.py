"""The autoencoder: a module whose fields are the paper's symbols, and its construction."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vaejax.config import build
from vaejax.models.convolutions import best_lowering
from vaejax.models.initialization import evaluated_by_numpy
from vaejax.models.layers import Layers
from vaejax.models.likelihoods import LIKELIHOODS, event_log_prob
from vaejax.models.networks import DECODERS, ENCODERS, TRUNKS, smallest_map
from vaejax.models.posteriors import POSTERIORS
from vaejax.models.priors import PRIORS
from vaejax.types import GROUPS, Array, Code, Terms


class VAE(nn.Module):
    """x -> q(z|x) -> z -> p(x|z), with a prior p(z) and, for some methods, a critic on z."""

    encoder: nn.Module
    posterior: Any
    prior: Any
    decoder: nn.Module
    likelihood: Any
    critic: Any = None

    def __call__(
        self, x: Array, keys: Array, train: bool = False, corrupted: Array | None = None
    ) -> Terms:
        """One Monte Carlo pass.  x: (B, *X), keys: (B,) -> Terms.

        `corrupted` (B, *X) is what the encoder sees instead of x, in denoising autoencoders.
        """
        seen = x if corrupted is None else corrupted
        code = self.encode(seen, keys, train)
        reconstruction = -event_log_prob(self.likelihood(self.output(code.z, train)), x)
        log_p = self.prior.log_prob(code.z)
        return Terms(reconstruction, self.prior.kl(code, log_p), code, seen, log_p)

    def encode(self, x: Array, keys: Array, train: bool = False) -> Code:
        """q(z|x) and one draw of it.  x: (B, *X), keys: (B,) -> Code."""
        return self.posterior(self.features(x, train), keys)

    def features(self, x: Array, train: bool = False) -> Array:
        """What the posterior is made from, in float32.  x: (B, *X) -> (B, F)."""
        return self.encoder(x, train).astype(jnp.float32)

    def output(self, z: Array, train: bool = False) -> Array:
        """What the likelihood is made from, in float32.  z: (B, D) -> (B, *X)."""
        return self.decoder(z, train).astype(jnp.float32)

    def embed(self, x: Array) -> Array:
        """The mean of q(z|x), without a draw.  x: (B, *X) -> (B, D)."""
        return self.encode(x, jax.random.split(jax.random.key(0), len(x))).mean

    def decode(self, z: Array) -> Array:
        """The mean of p(x|z).  z: (B, D) -> (B, *X)."""
        return self.likelihood(self.output(z)).mean()

    def sample(self, key: Array, num_samples: int) -> Array:
        """Decoded draws of the prior, without observation noise.  -> (num_samples, *X)."""
        return self.decode(self.prior.sample(key, num_samples))

    def touch(self, x: Array, keys: Array) -> Terms:
        """Use every part once, so that `init` creates all parameters, the critic's included."""
        terms = self(x, keys)
        if self.critic is not None:
            self.critic(terms.code.z)
        return terms


def make_model(
    config: ConfigDict,
    x_shape: tuple[int, ...],
    critic: nn.Module | None = None,
    axis_name: str | None = None,
    spectral_norm: Sequence[str] = (),
) -> VAE:
    """The model that `config` names, for x of shape (B, *x_shape): a Flax module without arrays.

    Its parameters are made by `initial_state`, or read by `load`; a method that needs a critic is
    given one (`make_method` does).  critic: a module of z, (B, D) -> logits (B, 2).
    axis_name: of the mapped device axis, over which batch norm averages.  spectral_norm: "encoder"
    and "decoder", whose kernels are divided by their spectral norm.  Raises ValueError for an
    unknown name and for a trunk that does not fit the data.

    >>> type(vaejax.make_model(config, x_shape=(8, 8, 1)).prior).__name__
    'Decoupled'
    """
    for kind in ("encoder", "decoder"):
        _check_fit(kind, config, x_shape)
    lowering = best_lowering() if config.convolutions == "auto" else str(config.convolutions)
    made = Layers(lowering, jnp.dtype(config.compute_dtype), axis_name)
    layers = {
        kind: dataclasses.replace(made, spectral_norm=kind in spectral_norm)
        for kind in ("encoder", "decoder")
    }
    return VAE(
        encoder=build(ENCODERS, "encoder", config, layers=layers["encoder"]),
        posterior=build(POSTERIORS, "posterior", config, config.latent_dim),
        prior=build(PRIORS, "prior", config, config.latent_dim),
        decoder=build(DECODERS, "decoder", config, x_shape=x_shape, layers=layers["decoder"]),
        likelihood=build(LIKELIHOODS, "likelihood", config),
        critic=critic,
    )


def _check_fit(kind: str, config: ConfigDict, x_shape: tuple[int, ...]) -> None:
    """Raise ValueError if the trunk that `config[kind]` names does not fit data of `x_shape`."""
    name, channels = str(config[kind]), f"config.{kind}s.conv.channels"
    rows: Any = config[f"{kind}s"]
    if name == "conv":
        halvings, border = len(rows.conv.channels), 0
    elif name in TRUNKS:
        halvings, border = TRUNKS[name]
    else:
        return
    is_image = len(x_shape) == 3
    if is_image and min(smallest_map(x_shape, halvings, border)) > 0:
        return
    common = math.gcd(*x_shape[:2]) if is_image else 0
    most = (common & -common).bit_length() - 1  # how often both sides can be halved
    multiples = (
        f"multiples of {2**halvings} ({halvings} halvings) from {(border + 1) * 2**halvings}"
    )
    sides = f" whose sides are {multiples} on" if halvings else ""
    raise ValueError(
        f"{kind} {name!r} fits images (H, W, C){sides}; "
        f"the data {config.dataset!r} have shape {x_shape}; "
        + (f"'conv' with len({channels}) <= {most} fits, or 'mlp'" if most > 0 else "'mlp' fits")
    )


def initial_variables(model: VAE, key: Array, x_shape: tuple[int, ...]) -> tuple[dict, dict]:
    """(params, stats): every group of GROUPS is a key of params, empty where it has none."""
    params, stats = evaluated_by_numpy(functools.partial(traced_variables, model, x_shape))(key)
    return {group: params[group] for group in GROUPS}, stats


def traced_variables(model: VAE, x_shape: tuple[int, ...], key: Array) -> tuple[dict, dict]:
    """`initial_variables`, to be traced within what is `evaluated_by_numpy`."""
    x, keys = jnp.zeros((2, *x_shape)), jax.random.split(jax.random.key(0), 2)
    variables: Any = model.init(key, x, keys, method="touch")
    params = {group: variables["params"].get(group, {}) for group in GROUPS}
    return params, variables.get("batch_stats", {})
