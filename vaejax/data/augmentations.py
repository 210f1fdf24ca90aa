"""Random changes of the images trained on, drawn anew each time; off by default."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from vaejax.data.transforms import Stage, none, require
from vaejax.types import Array

BRIGHTNESS, CONTRAST, SATURATION = range(3)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


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
    require(0 <= probability <= 1, "probability", probability, "from 0 to 1")
    require(0 <= jitter <= 1, "jitter", jitter, "from 0 to 1")
    require(0 <= hue <= 0.5, "hue", hue, "from 0 to 0.5")
    require(0 <= degrees <= 180, "degrees", degrees, "from 0 to 180")
    require(0 <= translate <= 1, "translate", translate, "from 0 to 1")
    require(0 <= scale < 1, "scale", scale, "at least 0 and below 1")
    stages = (_jitter(jitter, hue), _move(degrees, translate, scale))

    def augmented(x: Array, key: Array) -> Array:
        if x.ndim != 3 or x.shape[-1] not in (1, 3):
            allowed = "(H, W, 1) or (H, W, 3)"
            raise ValueError(f"an example to augment has shape {x.shape}; it must be {allowed}")
        for stage, stage_key in zip(stages, jax.random.split(key), strict=True):
            coin_key, own_key = jax.random.split(stage_key)
            happens = jax.random.bernoulli(coin_key, probability)
            x = jnp.where(happens, stage(x, own_key), x)
        return x

    return augmented


def _jitter(jitter: float, hue: float) -> Stage:
    def jittered(x: Array, key: Array) -> Array:
        order_key, place_key, factor_key, hue_key = jax.random.split(key, 4)
        order = jax.random.permutation(order_key, 3)
        hue_place = jax.random.randint(place_key, (), 0, 4)
        factors = jax.random.uniform(factor_key, (3,), minval=1 - jitter, maxval=1 + jitter)
        shift = jax.random.uniform(hue_key, minval=-hue, maxval=hue)
        return color_jitter(x, order, hue_place, factors, shift)

    return jittered


def _move(degrees: float, translate: float, scale: float) -> Stage:
    def moved(x: Array, key: Array) -> Array:
        angle_key, shift_key, zoom_key = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, minval=-degrees, maxval=degrees) * (math.pi / 180)
        shift = jax.random.uniform(shift_key, (2,), minval=-translate, maxval=translate)
        shift = jnp.round(shift * jnp.array(x.shape[:2]))
        zoom = jax.random.uniform(zoom_key, minval=1 - scale, maxval=1 + scale)
        return affine(x, angle, shift, zoom)

    return moved


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


AUGMENTATIONS: dict[str, Callable[..., Stage | None]] = {"none": none, "published": published}
