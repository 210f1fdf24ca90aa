"""The layers that all trunks are made of, and how they are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn

from vaejax.models.convolutions import Conv, ConvTranspose, batch_first
from vaejax.parallel import is_shared
from vaejax.types import Array

VALID = ((0, 0), (0, 0))
ONE = ((1, 1), (1, 1))


def leaky(slope: float) -> Callable[[Array], Array]:
    """Leaky ReLU; slope 1.0 is the identity (the authors' two-moons and CelebA networks)."""
    return partial(nn.leaky_relu, negative_slope=slope)


class SpectrallyNormalized(nn.Module):
    """A layer whose kernel is divided by its largest singular value (arXiv 1802.05957).

    A kernel of more than two axes counts as the matrix of its last one.  Every call makes one power
    iteration from where the last one ended; where `batch_stats` may not change, as in evaluation,
    its end is not kept.
    """

    layer: nn.Module

    @nn.compact
    def __call__(self, x: Array) -> Array:
        is_kept = self.is_mutable_collection("batch_stats")
        return nn.SpectralNorm(self.layer)(x, update_stats=is_kept)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers by name, alike in how they are computed; none of this is a parameter of the model.

    lowering: of convolutions, "native" or "matmul".  dtype: of activations and products; None is
    that of the input.  axis_name: the mapped device axis that batch norm averages over.
    spectral_norm: whether kernels are divided by their largest singular value.

    Between `enter` and `leave` images lie as the lowering wants them, height and width on axes 1
    and 2 either way.
    """

    lowering: str = "native"
    dtype: Any = None
    axis_name: str | None = None
    spectral_norm: bool = False

    def enter(self, x: Array) -> Array:
        """(B, H, W, C) -> what the layers take."""
        return x if self.lowering == "native" else x.transpose(3, 1, 2, 0)

    def leave(self, x: Array) -> Array:
        """What the layers give -> (B, H, W, C)."""
        return x if self.lowering == "native" else batch_first(x)

    def flat(self, x: Array) -> Array:
        """What the layers give -> (B, H W C)."""
        x = x if self.lowering == "native" else x.transpose(3, 1, 2, 0)
        return x.reshape(len(x), -1)

    def dense(self, width: int) -> nn.Module:
        return self._made(nn.Dense(width, dtype=self.dtype))

    def conv(self, channels: int, kernel: tuple[int, int], padding: Any = ONE) -> nn.Module:
        return self._convolution(Conv, channels, kernel, padding=padding)

    def conv3(self, channels: int, padding: Any = ONE) -> nn.Module:
        return self.conv(channels, (3, 3), padding)

    def halving(self, channels: int, kernel: int = 4) -> nn.Module:
        """k4 s2 p1: n -> n / 2; of an odd number of zeros, the last is at the end."""
        pads = ((kernel - 2) // 2, (kernel - 1) // 2)
        made = {"strides": (2, 2), "padding": (pads, pads)}
        return self._convolution(Conv, channels, (kernel, kernel), **made)

    def doubling(self, channels: int, kernel: int = 4) -> nn.Module:
        """Transposed k4 s2 p1: n -> 2 n."""
        made = {"strides": (2, 2), "padding": "SAME"}
        return self._convolution(ConvTranspose, channels, (kernel, kernel), **made)

    def keeping(self, channels: int, kernel: int) -> nn.Module:
        """Transposed, stride 1: n -> n."""
        return self._convolution(ConvTranspose, channels, (kernel, kernel), padding="SAME")

    def upsampling(self, channels: int) -> nn.Module:
        """Nearest x2, edge padding of 1, k3: n -> 2 n."""
        return self._convolution(Conv, channels, (3, 3), doubled=True)

    def growing(self, channels: int, kernel: tuple[int, int] = (3, 3)) -> nn.Module:
        """Transposed, stride 1, no padding: n -> n + kernel - 1."""
        return self._convolution(ConvTranspose, channels, kernel, padding="VALID")

    def _convolution(self, kind: Any, channels: int, kernel: Any, **how: Any) -> nn.Module:
        return self._made(kind(channels, kernel, lowering=self.lowering, dtype=self.dtype, **how))

    def _made(self, layer: nn.Module) -> nn.Module:
        return SpectrallyNormalized(layer) if self.spectral_norm else layer

    def norm(self, train: bool, epsilon: float = 1e-5, is_flat: bool = False) -> nn.BatchNorm:
        """Batch norm over the global batch, its statistics in float32; `is_flat`: of (B, F)."""
        return nn.BatchNorm(
            use_running_average=not train,
            axis=-1 if is_flat or self.lowering == "native" else 0,
            momentum=0.9,
            epsilon=epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name if is_shared(self.axis_name) else None,
        )
