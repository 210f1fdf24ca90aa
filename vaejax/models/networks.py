"""Encoder, decoder and critic trunks of arXiv 1911.10506 (appendix).  No probability here.

An encoder maps x: (B, *X) to features (B, F); the posterior owns the last linear layer.  A decoder
maps z: (B, D) to the likelihood's natural output (B, *X); no output nonlinearity anywhere.

The image trunks (B, H, W, C) have the published sizes at 28x28 (mnist, mnist_factor), 32x32 (svhn)
and 64x64 (celeba); at another size, the layer at the smallest map (B, h, w, .) is larger or smaller
and nothing else changes.  `smallest_map` gives h and w, and says which sizes fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.types import Array

_VALID = ((0, 0), (0, 0))
_ONE = ((1, 1), (1, 1))


def leaky(slope: float) -> Callable[[Array], Array]:
    """Leaky ReLU; slope 1.0 is the identity (the authors' two-moons and CelebA networks)."""
    return partial(nn.leaky_relu, negative_slope=slope)


def _halving(channels: int) -> nn.Conv:
    """k4 s2 p1: n -> n / 2."""
    return nn.Conv(channels, (4, 4), strides=2, padding=_ONE)


def _conv3(channels: int, padding: Any = _ONE) -> nn.Conv:
    return nn.Conv(channels, (3, 3), padding=padding)


def _doubling(channels: int) -> nn.ConvTranspose:
    """Transposed k4 s2 p1: n -> 2 n."""
    return nn.ConvTranspose(channels, (4, 4), strides=(2, 2), padding="SAME")


def _growing(channels: int, kernel: tuple[int, int] = (3, 3)) -> nn.ConvTranspose:
    """Transposed, stride 1, no padding: n -> n + kernel - 1."""
    return nn.ConvTranspose(channels, kernel, padding="VALID")


def _norm(train: bool, axis_name: str | None, epsilon: float = 1e-5) -> nn.BatchNorm:
    """Batch norm over the global batch."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=epsilon, axis_name=axis_name
    )


class MLPEncoder(nn.Module):
    """Flatten, then one hidden layer per width.  x: (B, *X) -> (B, widths[-1])."""

    widths: Sequence[int]
    leaky_slope: float = 0.01
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = leaky(self.leaky_slope)(nn.Dense(width)(x))
        return x


class MLPDecoder(nn.Module):
    """One hidden layer per width, then a linear layer.  z: (B, D) -> (B, *X)."""

    x_shape: Sequence[int]
    widths: Sequence[int]
    leaky_slope: float = 0.01
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        for width in self.widths:
            z = leaky(self.leaky_slope)(nn.Dense(width)(z))
        return nn.Dense(math.prod(self.x_shape))(z).reshape(len(z), *self.x_shape)


class MNISTEncoder(nn.Module):
    """Four convolutions and two dense layers.  x: (B, H, W, C) -> (B, 256)."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for layer in (_halving(32), _conv3(32, _VALID), _halving(32), _conv3(32, _VALID)):
            x = nn.relu(layer(x))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(256)(x))
        return x


class MNISTDecoder(nn.Module):
    """Mirror of the encoder.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        smallest = (*smallest_map(self.x_shape, *TRUNKS["mnist"]), 32)
        for width in (256, 256, math.prod(smallest)):
            z = nn.relu(nn.Dense(width)(z))
        x = z.reshape(len(z), *smallest)
        for layer in (_growing(32), _doubling(32), _growing(32)):
            x = nn.relu(layer(x))
        return _doubling(self.x_shape[-1])(x)


class MNISTFactorEncoder(nn.Module):
    """The larger MNIST network the authors use for FactorVAE.  x: (B, H, W, C) -> (B, 256)."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        smallest = smallest_map(x.shape[1:], *TRUNKS["mnist_factor"])
        last = nn.Conv(256, smallest, padding=_VALID)  # first of all: Conv_0 in stored parameters
        layers = (_halving(32), _conv3(64, _VALID), _halving(64), _conv3(256, _VALID), last)
        for layer in layers:
            x = nn.relu(layer(x))
        return x.reshape(len(x), 256)


class MNISTFactorDecoder(nn.Module):
    """The larger MNIST decoder.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        x = nn.relu(nn.Dense(256)(z)).reshape(len(z), 1, 1, 256)
        smallest = smallest_map(self.x_shape, *TRUNKS["mnist_factor"])
        for layer in (_growing(256, smallest), _growing(64), _doubling(64), _growing(32)):
            x = nn.relu(layer(x))
        return _doubling(self.x_shape[-1])(x)


class SVHNEncoder(nn.Module):
    """Eight convolutions of 32 channels with batch norm.  x: (B, H, W, C) -> (B, 32 h w)."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layers = (_halving(32), _conv3(32), _halving(32), _conv3(32))
        layers += (_conv3(32, _VALID), _conv3(32), _conv3(32, _VALID), _conv3(32))
        for layer in layers:
            x = nn.relu(_norm(train, self.axis_name)(layer(x)))
        return x.reshape(len(x), -1)


class SVHNDecoder(nn.Module):
    """Alternating transposed and plain convolutions.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        smallest = (*smallest_map(self.x_shape, *TRUNKS["svhn"]), 32)
        x = nn.relu(nn.Dense(math.prod(smallest))(z)).reshape(len(z), *smallest)
        layers = (_growing(32), _conv3(32), _growing(32), _conv3(32))
        layers += (_doubling(32), _conv3(32), _doubling(32))
        for layer in layers:
            x = nn.relu(layer(x))
        return _conv3(self.x_shape[-1])(x)


class CelebAEncoder(nn.Module):
    """Five halving convolutions with batch norm.  x: (B, H, W, C) -> (B, 256 h w)."""

    leaky_slope: float = 0.01
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for channels in (32, 64, 128, 256, 256):
            x = _norm(train, self.axis_name)(_halving(channels)(x))
            x = leaky(self.leaky_slope)(x)
        return x.reshape(len(x), -1)


class CelebADecoder(nn.Module):
    """Five times nearest upsampling, edge padding and convolution.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    leaky_slope: float = 0.01
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        activation = leaky(self.leaky_slope)
        smallest = (*smallest_map(self.x_shape, *TRUNKS["celeba"]), 256)
        x = activation(nn.Dense(math.prod(smallest))(z)).reshape(len(z), *smallest)
        for channels in (256, 128, 64, 32):
            x = _conv3(channels, _VALID)(_upsampled(x))
            x = activation(_norm(train, self.axis_name, epsilon=1e-3)(x))
        return _conv3(self.x_shape[-1], _VALID)(_upsampled(x))


def _upsampled(x: Array) -> Array:
    """Nearest x2, then edge padding of 1.  (B, H, W, C) -> (B, 2H + 2, 2W + 2, C)."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


class ConvEncoder(nn.Module):
    """One halving convolution per entry, then a dense layer.  x: (B, H, W, C) -> (B, width)."""

    channels: Sequence[int]
    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for channels in self.channels:
            x = nn.relu(_halving(channels)(x))
        return nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))


class ConvDecoder(nn.Module):
    """Mirror of the encoder with the same `channels`.  z: (B, D) -> (B, H, W, C)."""

    x_shape: Sequence[int]
    channels: Sequence[int]
    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        *before, last = self.channels
        smallest = (*smallest_map(self.x_shape, len(self.channels)), last)
        for width in (self.width, math.prod(smallest)):
            z = nn.relu(nn.Dense(width)(z))
        x = z.reshape(len(z), *smallest)
        for channels in reversed(before):
            x = nn.relu(_doubling(channels)(x))
        return _doubling(self.x_shape[-1])(x)


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
# one halving per entry of its channels and cuts nothing; "mlp" fits anything.
TRUNKS = {"mnist": (2, 3), "mnist_factor": (2, 3), "svhn": (2, 4), "celeba": (5, 0)}

ENCODERS = {
    "mlp": MLPEncoder,
    "mnist": MNISTEncoder,
    "mnist_factor": MNISTFactorEncoder,
    "svhn": SVHNEncoder,
    "celeba": CelebAEncoder,
    "conv": ConvEncoder,
}
DECODERS = {
    "mlp": MLPDecoder,
    "mnist": MNISTDecoder,
    "mnist_factor": MNISTFactorDecoder,
    "svhn": SVHNDecoder,
    "celeba": CelebADecoder,
    "conv": ConvDecoder,
}
