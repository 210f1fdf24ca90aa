"""Optimizers and learning-rate schedules: optax under config names."""

from __future__ import annotations

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from vaejax.config import build


def constant(num_steps: int, *, learning_rate: float) -> Callable:
    """The same learning rate at every step."""
    return optax.constant_schedule(learning_rate)


def cosine(
    num_steps: int, *, learning_rate: float, warmup_steps: int, final_fraction: float
) -> Callable:
    """Linear warm-up, then a half cosine down to `final_fraction` of the peak at `num_steps`.

    Raises ValueError when the warm-up is as long as the run.
    """
    if warmup_steps >= num_steps:
        raise ValueError(f"schedules.cosine.warmup_steps {warmup_steps} >= num_steps {num_steps}")
    start = learning_rate if warmup_steps == 0 else 0.0
    return optax.warmup_cosine_decay_schedule(
        start, learning_rate, warmup_steps, num_steps, final_fraction * learning_rate
    )


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of the generative player, with the gradient clipped to `clip_norm` first.

    Its state is one vector for all parameters: a program of its own for each takes XLA a second to
    compile.
    """
    schedule = build(SCHEDULES, "schedule", config, config.num_steps)
    optimizer = build(OPTIMIZERS, "optimizer", config, schedule)
    if config.clip_norm != 0.0:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optax.flatten(optimizer)


SCHEDULES = {"constant": constant, "cosine": cosine}
OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "sgd": optax.sgd}
