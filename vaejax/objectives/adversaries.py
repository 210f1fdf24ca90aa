"""Losses of critics: what the adversary of a cost minimizes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vaejax.objectives.divergences import permuted_dims
from vaejax.parallel import gathered, local_rows
from vaejax.types import Array, Batch, LossFn, Metrics


def permutation_critic_loss(axis_name: str | None = None) -> LossFn:
    """Cross-entropy of telling q(z) (class 0) from prod q(z_d) (class 1), arXiv 1802.05983 Alg. 2.

    The second class is an independent batch of codes with its dimensions permuted over the global
    batch.  No gradient reaches the encoder.  Needs `batch.pair`.
    """

    def loss(model: Any, batch: Batch, step: Array, train: bool = True) -> tuple[Array, Metrics]:
        if batch.pair is None:
            raise ValueError("this critic needs a second batch: Batch(..., pair=x2)")
        pair_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(batch.keys, 1)
        z = jax.lax.stop_gradient(model.encode(batch.x, batch.keys, train).z)
        pair = jax.lax.stop_gradient(model.encode(batch.pair, pair_keys, train).z)
        shuffled = permuted_dims(batch.key, gathered(pair, axis_name))
        shuffled = local_rows(shuffled, len(pair), axis_name)
        logits, shuffled_logits = model.critic(z), model.critic(shuffled)
        cross_entropy = 0.5 * (_class_loss(logits, 0) + _class_loss(shuffled_logits, 1))
        right = (logits[:, 0] > logits[:, 1]).mean() + (
            shuffled_logits[:, 1] > shuffled_logits[:, 0]
        ).mean()
        return cross_entropy, {"critic/loss": cross_entropy, "critic/accuracy": 0.5 * right}

    return loss


def _class_loss(logits: Array, label: int) -> Array:
    labels = jnp.full(len(logits), label)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
