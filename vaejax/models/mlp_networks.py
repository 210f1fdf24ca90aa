"""Encoder and decoder trunks made of dense layers alone, for data of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax import linen as nn

from vaejax.models.layers import Layers, leaky
from vaejax.types import Array


class MLPEncoder(nn.Module):
    """Flatten, then one hidden layer per width.  x: (B, *X) -> (B, widths[-1])."""

    widths: Sequence[int]
    leaky_slope: float = 0.01
    batch_norm: bool = False
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = _hidden(self, width, x, train)
        return x


class MLPDecoder(nn.Module):
    """One hidden layer per width, then a linear layer.  z: (B, D) -> (B, *X)."""

    x_shape: Sequence[int]
    widths: Sequence[int]
    leaky_slope: float = 0.01
    batch_norm: bool = False
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        for width in self.widths:
            z = _hidden(self, width, z, train)
        size = math.prod(self.x_shape)
        return self.layers.dense(size)(z).reshape(len(z), *self.x_shape)


def _hidden(trunk: MLPEncoder | MLPDecoder, width: int, x: Array, train: bool) -> Array:
    """Dense, batch norm where the trunk has it, activation.  x: (B, F) -> (B, width)."""
    x = trunk.layers.dense(width)(x)
    if trunk.batch_norm:
        x = trunk.layers.norm(train, is_flat=True)(x)
    return leaky(trunk.leaky_slope)(x)
