"""What becomes of raw rows inside the jitted step: augmentation, observation, corruption.

All draws belong to the example: a stage takes one example and one key, so results depend neither on
the batch size nor on the number of devices.  The order of the stages is

    raw / scale -> augmentation (training only) -> observation = x -> corruption = what q(z|x) sees

so that an image is augmented in its intensities, before it is binarized or dequantized.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaejax.data.arrays import normalized
from vaejax.types import Array

Stage = Callable[[Array, Array], Array]  # (one example (*X), its key ()) -> (*X)


class Observation(NamedTuple):
    """How intensities raw / scale become the x that is modeled, in training and in evaluation."""

    scale: float
    draw: Stage  # (intensities (*X) float32, key ()) -> x (*X) float32
    is_random: bool  # whether the key matters
    unit_interval_only: bool  # whether raw / scale must lie in [0, 1]
    integers_only: bool = False  # whether raw must hold whole numbers


class Transform(NamedTuple):
    """All that happens to rows (B, *X), uint8 or float32, with one key per example."""

    train: Callable[[Array, Array], tuple[Array, Array]]
    """(rows (B, *X), keys (B,)) -> x, and what the encoder sees, (B, *X) float32 each; they are the
    same object without a corruption.  Consumes no keys if no stage draws."""
    evaluate: Callable[[Array, Array], Array]
    """(rows (B, *X), keys (B,)) -> x (B, *X), with neither augmentation nor corruption."""
    is_random: bool  # whether the keys of `evaluate` matter; where not, it consumes none


def transform_of(
    observation: Observation, augment: Stage | None = None, corrupt: Stage | None = None
) -> Transform:
    """The stages in their order; None leaves a stage out.

    Every stage has its own key, whichever others there are: a corruption does not change x, and
    without augmentation the x of `train` is that of `evaluate`.  Raises ValueError for a scale that
    is not a positive number.
    """
    scale, draw, is_random, *_ = observation
    require(0 < scale < math.inf, "scale", scale, "positive and finite")

    def evaluate(rows: Array, keys: Array) -> Array:
        draw_keys = _stage_keys(keys)[1] if is_random else keys
        return jax.vmap(draw)(normalized(rows, scale), draw_keys)

    def train(rows: Array, keys: Array) -> tuple[Array, Array]:
        draws = is_random or augment or corrupt
        augment_keys, draw_keys, corrupt_keys = _stage_keys(keys) if draws else (keys,) * 3
        x = normalized(rows, scale)
        if augment is not None:
            x = jax.vmap(augment)(x, augment_keys)
        x = jax.vmap(draw)(x, draw_keys)
        return x, x if corrupt is None else jax.vmap(corrupt)(x, corrupt_keys)

    return Transform(train, evaluate, is_random)


def scaled(scale: float) -> Transform:
    """The plain transform x = raw / scale, which consumes no keys.  Raises as `transform_of`."""
    return transform_of(intensities(scale))


def _stage_keys(keys: Array) -> tuple[Array, ...]:
    """(B,) -> the keys (B,) of augmentation, observation and corruption."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, 3)))(keys)


def require(is_allowed: bool, name: str, value: float, allowed: str) -> None:
    """Raise ValueError for a hyper-parameter out of range."""
    if not is_allowed:
        raise ValueError(f"{name} is {value}; it must be {allowed}")


def intensities(scale: float) -> Observation:
    """x = raw / scale."""
    return Observation(scale, lambda x, key: x, is_random=False, unit_interval_only=False)


def bernoulli(scale: float) -> Observation:
    """x ~ Bernoulli(raw / scale), drawn anew each time: dynamic binarization (arXiv 1509.00519)."""

    def draw(x: Array, key: Array) -> Array:
        return jax.random.bernoulli(key, x).astype(jnp.float32)

    return Observation(scale, draw, is_random=True, unit_interval_only=True)


def threshold(scale: float, *, level: float = 0.5) -> Observation:
    """x = 1 where raw / scale > level, else 0.  Raises ValueError for a level not in [0, 1)."""
    require(0 <= level < 1, "level", level, "at least 0 and below 1")

    def draw(x: Array, key: Array) -> Array:
        return (x > level).astype(jnp.float32)

    return Observation(scale, draw, is_random=False, unit_interval_only=False)


def dequantized(scale: float) -> Observation:
    """x = (raw + u) / (scale + 1) with u ~ U[0, 1), in [0, 1) (arXiv 1511.01844, section 3.1).

    raw holds whole numbers from 0 to scale; what an augmentation puts between them is rounded.
    """
    # Sum, quotient (compiled as a product with the reciprocal) and the reader's product round, each
    # by up to 2^-24 of its value, which would carry u close to 0 or 1 into the neighboring level.
    # Both ends are left out, so the mean of u stays 1/2.
    margin = (scale + 1) * 2.0**-22

    def draw(x: Array, key: Array) -> Array:
        u = jax.random.uniform(key, x.shape, minval=margin, maxval=1 - margin)
        return (jnp.round(x * scale) + u) / (scale + 1)

    return Observation(scale, draw, is_random=True, unit_interval_only=True, integers_only=True)


def none() -> None:
    """No stage, as `transform_of` takes it."""


def gaussian(*, scale: float = 0.1) -> Stage:
    """x + scale * noise, not clipped.  Raises ValueError for a negative or infinite scale."""
    require(0 <= scale < math.inf, "scale", scale, "at least 0 and finite")
    return lambda x, key: x + scale * jax.random.normal(key, x.shape)


def masking(*, fraction: float = 0.25) -> Stage:
    """Every coordinate is 0 with probability `fraction` (Vincent et al., 2010).

    Raises ValueError for a fraction not in [0, 1].
    """
    require(0 <= fraction <= 1, "fraction", fraction, "from 0 to 1")
    return lambda x, key: jnp.where(jax.random.bernoulli(key, fraction, x.shape), 0.0, x)


def salt_and_pepper(*, fraction: float = 0.25) -> Stage:
    """Every coordinate is 0 or 1, evenly, with probability `fraction` (Vincent et al., 2010).

    Raises ValueError for a fraction not in [0, 1].
    """
    require(0 <= fraction <= 1, "fraction", fraction, "from 0 to 1")

    def corrupted(x: Array, key: Array) -> Array:
        u = jax.random.uniform(key, x.shape)
        return jnp.where(u < fraction, (u < fraction / 2).astype(x.dtype), x)

    return corrupted


OBSERVATIONS: dict[str, Callable[..., Observation]] = {
    "scaled": intensities,
    "bernoulli": bernoulli,
    "threshold": threshold,
    "dequantized": dequantized,
}
CORRUPTIONS: dict[str, Callable[..., Stage | None]] = {
    "none": none,
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
}
