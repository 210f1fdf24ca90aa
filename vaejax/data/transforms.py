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
from jax.scipy.ndimage import map_coordinates

from vaejax.data.arrays import normalized
from vaejax.types import Array

Stage = Callable[[Array, Array], Array]  # (one example (*X), its key ()) -> (*X)

BRIGHTNESS, CONTRAST, SATURATION = range(3)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


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
    _require(0 < scale < math.inf, "scale", scale, "positive and finite")

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


def _require(is_allowed: bool, name: str, value: float, allowed: str) -> None:
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
    _require(0 <= level < 1, "level", level, "at least 0 and below 1")

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


def published(
    *,
    probability: float = 0.5,
    jitter: float = 0.5,
    hue: float = 0.25,
    degrees: float = 5.0,
    translate: float = 0.1,
    scale: float = 0.1,
) -> Stage:
    """Color jitter, then an affine map, each with `probability`: the code of arXiv 1911.10506.

    As torchvision's ColorJitter(jitter, jitter, jitter, hue) in a random order, on intensities that
    are not rounded to bytes, and RandomAffine(degrees, translate, 1 -+ scale) with nearest
    neighbors.  x: (H, W, C) in [0, 1], C being 1 or 3; `hue` is in turns, `translate` in sides.
    Raises ValueError for a hyper-parameter out of range, and when applied to another shape.
    """
    _require(0 <= probability <= 1, "probability", probability, "from 0 to 1")
    _require(0 <= jitter <= 1, "jitter", jitter, "from 0 to 1")
    _require(0 <= hue <= 0.5, "hue", hue, "from 0 to 0.5")
    _require(0 <= degrees <= 180, "degrees", degrees, "from 0 to 180")
    _require(0 <= translate <= 1, "translate", translate, "from 0 to 1")
    _require(0 <= scale < 1, "scale", scale, "at least 0 and below 1")

    def jittered(x: Array, key: Array) -> Array:
        order_key, place_key, factor_key, hue_key = jax.random.split(key, 4)
        order = jax.random.permutation(order_key, 3)
        hue_place = jax.random.randint(place_key, (), 0, 4)
        factors = jax.random.uniform(factor_key, (3,), minval=1 - jitter, maxval=1 + jitter)
        shift = jax.random.uniform(hue_key, minval=-hue, maxval=hue)
        return color_jitter(x, order, hue_place, factors, shift)

    def moved(x: Array, key: Array) -> Array:
        angle_key, shift_key, zoom_key = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, minval=-degrees, maxval=degrees) * (math.pi / 180)
        shift = jax.random.uniform(shift_key, (2,), minval=-translate, maxval=translate)
        shift = jnp.round(shift * jnp.array(x.shape[:2]))
        zoom = jax.random.uniform(zoom_key, minval=1 - scale, maxval=1 + scale)
        return affine(x, angle, shift, zoom)

    def augmented(x: Array, key: Array) -> Array:
        if x.ndim != 3 or x.shape[-1] not in (1, 3):
            allowed = "(H, W, 1) or (H, W, 3)"
            raise ValueError(f"an example to augment has shape {x.shape}; it must be {allowed}")
        for stage, stage_key in zip((jittered, moved), jax.random.split(key), strict=True):
            coin_key, own_key = jax.random.split(stage_key)
            happens = jax.random.bernoulli(coin_key, probability)
            x = jnp.where(happens, stage(x, own_key), x)
        return x

    return augmented


def color_jitter(
    x: Array, order: Array, hue_place: Array | int, factors: Array, shift: Array | float
) -> Array:
    """Brightness, contrast and saturation in `order` (3,), hue before the blend at `hue_place`.

    factors: (3,) indexed by BRIGHTNESS, CONTRAST and SATURATION; shift in turns of the color
    circle.  x: (H, W, C) in [0, 1] -> (H, W, C) in [0, 1].
    """
    # The hue, dearer than a blend, is shifted once: each blend is written before and after it.
    for place in range(3):
        kind = order[place]
        x = jnp.where(place < hue_place, blended(x, kind, factors[kind]), x)
    x = shifted_hue(x, shift)
    for place in range(3):
        kind = order[place]
        x = jnp.where(place >= hue_place, blended(x, kind, factors[kind]), x)
    return x


def blended(x: Array, kind: Array | int, factor: Array | float) -> Array:
    """factor * x + (1 - factor) * y, clipped; y is black, the mean gray, or x in shades of gray.

    kind: BRIGHTNESS, CONTRAST or SATURATION, as torchvision defines them.  x: (H, W, C).
    """
    # A sum of products, not a matrix product: accelerators round those to fewer bits.
    gray = x if x.shape[-1] == 1 else (x * jnp.array(LUMINANCE)).sum(axis=-1, keepdims=True)
    other = jnp.where(kind == CONTRAST, gray.mean(), gray)
    other = jnp.where(kind == BRIGHTNESS, 0.0, other)
    return jnp.clip(factor * x + (1 - factor) * other, 0, 1)


def shifted_hue(x: Array, shift: Array | float) -> Array:
    """The hue of all pixels moved by `shift` turns.  x: (H, W, C) in [0, 1]; C = 1 has no hue."""
    if x.shape[-1] == 1:
        return x
    import dm_pix  # only where used

    return jnp.clip(dm_pix.adjust_hue(x, shift), 0, 1)


def affine(
    x: Array, angle: Array | float, shift: Array | tuple[int, int], zoom: Array | float
) -> Array:
    """x rotated and enlarged about its center, then moved; zero outside, nearest neighbors.

    angle: radians, clockwise; shift: (2,) pixels down and right.  x: (H, W, C) -> (H, W, C).
    """
    height, width, _ = x.shape
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height)[:, None] - middle_row - shift[0]
    right = jnp.arange(width) - middle_column - shift[1]
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    sources = [cos * down - sin * right + middle_row, sin * down + cos * right + middle_column]

    def pulled(channel: Array) -> Array:
        return map_coordinates(channel, sources, order=0, mode="constant", cval=0.0)

    return jax.vmap(pulled, in_axes=-1, out_axes=-1)(x)


def gaussian(*, scale: float = 0.1) -> Stage:
    """x + scale * noise, not clipped.  Raises ValueError for a negative or infinite scale."""
    _require(0 <= scale < math.inf, "scale", scale, "at least 0 and finite")
    return lambda x, key: x + scale * jax.random.normal(key, x.shape)


def masking(*, fraction: float = 0.25) -> Stage:
    """Every coordinate is 0 with probability `fraction` (Vincent et al., 2010).

    Raises ValueError for a fraction not in [0, 1].
    """
    _require(0 <= fraction <= 1, "fraction", fraction, "from 0 to 1")
    return lambda x, key: jnp.where(jax.random.bernoulli(key, fraction, x.shape), 0.0, x)


def salt_and_pepper(*, fraction: float = 0.25) -> Stage:
    """Every coordinate is 0 or 1, evenly, with probability `fraction` (Vincent et al., 2010).

    Raises ValueError for a fraction not in [0, 1].
    """
    _require(0 <= fraction <= 1, "fraction", fraction, "from 0 to 1")

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
AUGMENTATIONS: dict[str, Callable[..., Stage | None]] = {"none": none, "published": published}
CORRUPTIONS: dict[str, Callable[..., Stage | None]] = {
    "none": none,
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
}
