"""Encoder, decoder and critic trunks of arXiv 1911.10506 (appendix).  No probability here.

An encoder maps x: (B, *X) to features (B, F); the posterior owns the last linear layer.  A decoder
maps z: (B, D) to the likelihood's natural output (B, *X); no output nonlinearity anywhere.

The image trunks (B, H, W, C) have the published sizes at 28x28 (mnist, mnist_factor), 32x32 (svhn)
and 64x64 (celeba); at another size, the layer at the smallest map (B, h, w, .) is larger or smaller
and nothing else changes.  `smallest_map` gives h and w, and says which sizes fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax import linen as nn

from vaejax.models.layers import VALID, Layers, leaky
from vaejax.models.mlp_networks import MLPDecoder, MLPEncoder
from vaejax.models.rae_networks import RAEDecoder, RAEEncoder
from vaejax.types import Array


class MNISTEncoder(nn.Module):
    """Four convolutions and two dense layers.  x: (B, H, W, C) -> (B, 256)."""

    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        make = self.layers
        layers = (make.halving(32), make.conv3(32, VALID), make.halving(32), make.conv3(32, VALID))
        x = make.enter(x)
        for layer in layers:
            x = nn.relu(layer(x))
        x = make.flat(x)
        for _ in range(2):
            x = nn.relu(make.dense(256)(x))
        return x


class MNISTDecoder(nn.Module):
    """Mirror of the encoder.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        make = self.layers
        smallest = (*smallest_map(self.x_shape, *TRUNKS["mnist"]), 32)
        for width in (256, 256, math.prod(smallest)):
            z = nn.relu(make.dense(width)(z))
        x = z.reshape(len(z), *smallest)
        x = make.enter(x)
        for layer in (make.growing(32), make.doubling(32), make.growing(32)):
            x = nn.relu(layer(x))
        return make.leave(make.doubling(self.x_shape[-1])(x))


class MNISTFactorEncoder(nn.Module):
    """The larger MNIST network the authors use for FactorVAE.  x: (B, H, W, C) -> (B, 256)."""

    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        make = self.layers
        smallest = smallest_map(x.shape[1:], *TRUNKS["mnist_factor"])
        last = make.conv(256, smallest, VALID)  # first of all: Conv_0 in stored parameters
        layers = (
            make.halving(32),
            make.conv3(64, VALID),
            make.halving(64),
            make.conv3(256, VALID),
            last,
        )
        x = make.enter(x)
        for layer in layers:
            x = nn.relu(layer(x))
        return make.flat(x)


class MNISTFactorDecoder(nn.Module):
    """The larger MNIST decoder.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        make = self.layers
        x = nn.relu(make.dense(256)(z)).reshape(len(z), 1, 1, 256)
        smallest = smallest_map(self.x_shape, *TRUNKS["mnist_factor"])
        layers = (
            make.growing(256, smallest),
            make.growing(64),
            make.doubling(64),
            make.growing(32),
        )
        x = make.enter(x)
        for layer in layers:
            x = nn.relu(layer(x))
        return make.leave(make.doubling(self.x_shape[-1])(x))


class SVHNEncoder(nn.Module):
    """Eight convolutions of 32 channels with batch norm.  x: (B, H, W, C) -> (B, 32 h w)."""

    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        make = self.layers
        layers = (make.halving(32), make.conv3(32), make.halving(32), make.conv3(32))
        layers += (make.conv3(32, VALID), make.conv3(32), make.conv3(32, VALID), make.conv3(32))
        x = make.enter(x)
        for layer in layers:
            x = nn.relu(make.norm(train)(layer(x)))
        return make.flat(x)


class SVHNDecoder(nn.Module):
    """Alternating transposed and plain convolutions.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        make = self.layers
        smallest = (*smallest_map(self.x_shape, *TRUNKS["svhn"]), 32)
        x = nn.relu(make.dense(math.prod(smallest))(z)).reshape(len(z), *smallest)
        layers = (
            make.growing(32),
            make.conv3(32),
            make.growing(32),
            make.conv3(32),
        )
        layers += (make.doubling(32), make.conv3(32), make.doubling(32))
        x = make.enter(x)
        for layer in layers:
            x = nn.relu(layer(x))
        return make.leave(make.conv3(self.x_shape[-1])(x))


class CelebAEncoder(nn.Module):
    """Five halving convolutions with batch norm.  x: (B, H, W, C) -> (B, 256 h w)."""

    leaky_slope: float = 0.01
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        make = self.layers
        x = make.enter(x)
        for channels in (32, 64, 128, 256, 256):
            x = make.norm(train)(make.halving(channels)(x))
            x = leaky(self.leaky_slope)(x)
        return make.flat(x)


class CelebADecoder(nn.Module):
    """Five times nearest upsampling, edge padding and convolution.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    leaky_slope: float = 0.01
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        make = self.layers
        activation = leaky(self.leaky_slope)
        smallest = (*smallest_map(self.x_shape, *TRUNKS["celeba"]), 256)
        x = activation(make.dense(math.prod(smallest))(z)).reshape(len(z), *smallest)
        x = make.enter(x)
        for channels in (256, 128, 64, 32):
            x = make.upsampling(channels)(x)
            x = activation(make.norm(train, epsilon=1e-3)(x))
        return make.leave(make.upsampling(self.x_shape[-1])(x))


class ConvEncoder(nn.Module):
    """One halving convolution per entry, then a dense layer.  x: (B, H, W, C) -> (B, width)."""

    channels: Sequence[int]
    width: int
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        make = self.layers
        x = make.enter(x)
        for channels in self.channels:
            x = nn.relu(make.halving(channels)(x))
        return nn.relu(make.dense(self.width)(make.flat(x)))


class ConvDecoder(nn.Module):
    """Mirror of the encoder with the same `channels`.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    channels: Sequence[int]
    width: int
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        make = self.layers
        *before, last = self.channels
        smallest = (*smallest_map(self.x_shape, len(self.channels)), last)
        for width in (self.width, math.prod(smallest)):
            z = nn.relu(make.dense(width)(z))
        x = z.reshape(len(z), *smallest)
        x = make.enter(x)
        for channels in reversed(before):
            x = nn.relu(make.doubling(channels)(x))
        return make.leave(make.doubling(self.x_shape[-1])(x))


class Critic(nn.Module):
    """FactorVAE's discriminator (arXiv 1802.05983).  z: (B, D) -> logits (B, 2)."""

    width: int = 1000
    depth: int = 5

    @nn.compact
    def __call__(self, z: Array) -> Array:
        for _ in range(self.depth):
            z = leaky(0.2)(nn.Dense(self.width)(z))
        return nn.Dense(2)(z)


def smallest_map(x_shape: Sequence[int], halvings: int, border: int = 0) -> tuple[int, int]:
    """Height and width that a trunk leaves of an image (H, W, C): side / 2^halvings - border.

    Where the trunk does not fit, because a side cannot be halved so often or nothing of it is left,
    that side is 0.
    """
    height, width = (
        0 if side % 2**halvings else max(side // 2**halvings - border, 0) for side in x_shape[:2]
    )
    return height, width


# Halvings of a trunk, and what its layers without padding cut off at the smallest map.  "conv" has
# one halving per entry of its channels and cuts nothing; "rae" pads images of any size; "mlp" fits
# anything.
TRUNKS = {"mnist": (2, 3), "mnist_factor": (2, 3), "svhn": (2, 4), "celeba": (5, 0), "rae": (0, 0)}

ENCODERS = {
    "mlp": MLPEncoder,
    "mnist": MNISTEncoder,
    "mnist_factor": MNISTFactorEncoder,
    "svhn": SVHNEncoder,
    "celeba": CelebAEncoder,
    "conv": ConvEncoder,
    "rae": RAEEncoder,
}
DECODERS = {
    "mlp": MLPDecoder,
    "mnist": MNISTDecoder,
    "mnist_factor": MNISTFactorDecoder,
    "svhn": SVHNDecoder,
    "celeba": CelebADecoder,
    "conv": ConvDecoder,
    "rae": RAEDecoder,
}
