"""Optimizers and learning-rate schedules: optax under config names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def adam(
    clips: Sequence[optax.GradientTransformation], schedule: Callable, *, b1: float, b2: float
) -> optax.GradientTransformation:
    """Steps of the size of the learning rate, by the moments of gradients (arXiv 1412.6980)."""
    return _as_vector(*clips, optax.adam(schedule, b1, b2))


def adamw(
    clips: Sequence[optax.GradientTransformation],
    schedule: Callable,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Adam, and weights that decay by themselves (arXiv 1711.05101).

    Moments alone are a vector: for the decay, every step would make one of the parameters, too.
    """
    moments = _as_vector(*clips, optax.scale_by_adam(b1, b2))
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(moments, decay, optax.scale_by_learning_rate(schedule))


def sgd(
    clips: Sequence[optax.GradientTransformation], schedule: Callable, *, momentum: float
) -> optax.GradientTransformation:
    """Steps along the gradient, with momentum."""
    return _as_vector(*clips, optax.sgd(schedule, momentum))


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of the generative player, with the gradient clipped to `clip_norm` first."""
    schedule = build(SCHEDULES, "schedule", config, config.num_steps)
    clips = [] if config.clip_norm == 0.0 else [optax.clip_by_global_norm(config.clip_norm)]
    return build(OPTIMIZERS, "optimizer", config, clips, schedule)


def _as_vector(*parts: optax.GradientTransformation) -> optax.GradientTransformation:
    """`parts` in turn on one vector of all parameters, and so is their state.

    A program of its own for each parameter takes XLA a second to compile.
    """
    return optax.flatten(parts[0] if len(parts) == 1 else optax.chain(*parts))


SCHEDULES = {"constant": constant, "cosine": cosine}
OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd}
