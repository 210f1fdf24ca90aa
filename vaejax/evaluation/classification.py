"""What all classifiers that are trained here have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from vaejax.types import Array

Carry = tuple[Any, Any]  # parameters, state of the optimizer


def classification_step(
    logits_of: Callable[[Any, Array], Array], optimizer: optax.GradientTransformation
) -> Callable[[Carry, tuple[Array, Array]], tuple[Carry, Array]]:
    """One update by cross-entropy, for `scan`: (carry, (x, y)) -> (carry, loss () in nats).

    logits_of: (parameters, x (B, ...)) -> (B, K); y: (B,) integers from 0 to K - 1.
    """

    def loss_of(params: Any, x: Array, y: Array) -> Array:
        logits = logits_of(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: Carry, xy: tuple[Array, Array]) -> tuple[Carry, Array]:
        params, state = carry
        loss, gradients = jax.value_and_grad(loss_of)(params, *xy)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), loss

    return step
