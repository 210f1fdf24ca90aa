"""Flows fitted to codes: what a learned prior is, but after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import unknown
from vaejax.expost.density import Fit, Standardized, Transformed
from vaejax.expost.gradient import trained
from vaejax.models.flows import MASKS, T_ACTIVATIONS, CouplingFlow
from vaejax.models.priors import standard_normal_log_prob
from vaejax.progress import ProgressReport
from vaejax.types import Array

_TRAINING = ("num_steps", "batch_size", "learning_rate", "eval_every", "patience")


def flow(latent_dim: int, **fields: Any) -> Transformed:
    """A coupling flow (arXiv 1605.08803); `fields` are those of CouplingFlow.

    Raises ValueError for an unknown mask or activation.
    """
    for field, names in (("mask", MASKS), ("t_activation", T_ACTIVATIONS)):
        if field in fields and fields[field] not in names:
            raise unknown(f"densities.flow.{field}", fields[field], names)
    # Its last layers start at zero, hence as N(0, I), which standardized codes are close to.
    return Transformed(latent_dim, CouplingFlow(latent_dim, **fields, zero_init=True))


def fit_transformed(make: Callable[..., Transformed]) -> Callable[..., Fit]:
    """The function that fits a flow by maximum likelihood; `make(latent_dim, **fields)` is it."""

    def fit(
        codes: Standardized, row: Mapping[str, Any], seed: int, progress: ProgressReport
    ) -> Fit:
        fields = {name: value for name, value in row.items() if name not in _TRAINING}
        module: Any = make(codes.train.shape[1], **fields).flow

        def log_prob(module: Any, u: Array) -> Array:
            z0, log_det = module.bijector().inverse_and_log_det(u)
            return standard_normal_log_prob(z0) + log_det

        def costs(params: Any, u: Array, keys: Array) -> Array:
            return -nn.apply(log_prob, module)({"params": params}, u)

        start, rest = jax.random.split(jax.random.key(seed))
        params = nn.init(log_prob, module)(start, jnp.asarray(codes.train[:2], jnp.float32))
        found = trained(costs, params["params"], codes, row, rest, progress)
        return Fit(fields, {"flow": found.params}, found.notes)

    return fit
