"""Encoder and decoder trunks of the code of arXiv 1903.12436.  No probability here.

Images of any size fit: sides that are no multiples of what `padded_sides` says are filled up with
zeros around the image, as that code does once with MNIST (28 -> 32).  It goes on to train on the
larger image; here the decoder cuts the border off again, so that the likelihood is of the data.
Batch norm divides by sqrt(variance + 1e-3), as there; its averages have this project's momentum of
0.9, not 0.99.  That code also maps pixels to [-1, 1] at 28 and 32 pixels, before the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from vaejax.models.layers import Layers
from vaejax.types import Array

EPSILON = 1e-3


class RAEEncoder(nn.Module):
    """One halving convolution with batch norm per entry.  x: (B, H, W, C) -> (B, F).

    F is h w channels[-1] of the last map, (2, 2) at 28 or 32 pixels and (4, 4) at 64.
    """

    channels: Sequence[int]
    kernel: int = 4
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        make = self.layers
        x = jnp.pad(x, ((0, 0), *borders(x.shape[1:], len(self.channels)), (0, 0)))
        x = make.enter(x)
        for channels in self.channels:
            x = make.halving(channels, self.kernel)(x)
            x = nn.relu(make.norm(train, EPSILON)(x))
        return make.flat(x)


class RAEDecoder(nn.Module):
    """Dense to the smallest map, then as the encoder in reverse.  z: (B, D) -> (B, H, W, C).

    `channels` are in the encoder's order: the last are those of the smallest map, on which neither
    batch norm nor an activation follows, and each of the others is reached by a doubling.
    """

    x_shape: Sequence[int]
    channels: Sequence[int]
    kernel: int = 4
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        make = self.layers
        *before, last = self.channels
        height, width = (side >> len(before) for side in padded_sides(self.x_shape, len(before)))
        x = make.dense(height * width * last)(z).reshape(len(z), height, width, last)
        x = make.enter(x)
        for channels in reversed(before):
            x = make.doubling(channels, self.kernel)(x)
            x = nn.relu(make.norm(train, EPSILON)(x))
        x = make.leave(make.keeping(self.x_shape[-1], self.kernel)(x))
        (top, _), (left, _) = borders(self.x_shape, len(before))
        return x[:, top : top + self.x_shape[0], left : left + self.x_shape[1]]


def padded_sides(x_shape: Sequence[int], halvings: int) -> list[int]:
    """Height and width up to the next multiple of 16, or of 2^halvings where that is more.

    Encoder and decoder need the same, and the published ones halve four times and double twice or
    three times.
    """
    multiple = max(16, 2**halvings)
    return [-(-side // multiple) * multiple for side in x_shape[:2]]


def borders(x_shape: Sequence[int], halvings: int) -> list[tuple[int, int]]:
    """Zeros (before, after) along height and width of an image (H, W, C)."""
    padded = padded_sides(x_shape, halvings)
    missing = [more - side for more, side in zip(padded, x_shape, strict=False)]
    return [(zeros // 2, zeros - zeros // 2) for zeros in missing]
