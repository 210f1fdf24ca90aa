"""Convolutions with Flax's parameters, lowered to what is fast on the backend at hand.

On GPU and TPU the backend's own convolution is best.  XLA's CPU backend has a fast matrix product
and a slow convolution (slowest: its gradients, and anything inside a loop), so there a convolution
becomes one product.  Three ideas, each measured with `vaejax bench`:

* Images lie as (C, H, W, B), batch last, from the first layer of a trunk to its last.  A shift by
  a tap then moves long contiguous runs, and no gradient transposes anything large.
* A product needs the m x n taps of a kernel as copies of the input (patches, m n C rows) or of the
  output (columns, m n F rows, added up afterwards).  Taken one way along the height and the other
  along the width, it needs m C and n F only.
* Stride s is stride 1 on the image whose s x s squares became channels; a transposed convolution
  is one whose s x s groups of output channels become squares (arXiv 1609.05158).

All of it is plain array code to autodiff, forward and reverse and to any order, to `vmap` and scan.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from vaejax.types import Array

Pads = Sequence[tuple[int, int]]  # (before, after) of height and of width; negative numbers cut

_NHWC = ("NHWC", "HWIO", "NHWC")
_NONE = ((0, 0), (0, 0))


class Conv(nn.Module):
    """`flax.linen.Conv` for images: the same parameters and results.

    padding: "SAME", "VALID", or (before, after) of height and of width.  "native": (B, H, W, C) ->
    (B, h, w, F).  "matmul": (C, H, W, B) -> (F, h, w, B).  `doubled`, for a 3 x 3 kernel alone: of
    the image twice as large (nearest neighbor), its edge repeated, so that h = 2 H and w = 2 W.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Pads = "SAME"
    doubled: bool = False
    lowering: str = "native"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x, kernel, bias = _parameters(self, x)
        if self.doubled and self.lowering == "matmul":
            return bias[:, None, None, None] + doubled_convolution(x, kernel)
        if self.doubled:
            x = _edged(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
        pads = (
            _NONE
            if self.doubled
            else conv_pads(x.shape[1:3], self.kernel_size, self.strides, self.padding)
        )
        if self.lowering == "native":
            return bias + lax.conv_general_dilated(
                x, kernel, self.strides, pads, dimension_numbers=_NHWC
            )
        return bias[:, None, None, None] + convolution(x, kernel, self.strides, pads)


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` for images: the same parameters and results.

    padding as Flax means it, of the dilated input.  "native": (B, H, W, C) -> (B, h, w, F).
    "matmul": (C, H, W, B) -> (F, h, w, B).
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Pads = "SAME"
    lowering: str = "native"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x, kernel, bias = _parameters(self, x)
        pads = transposed_pads(self.kernel_size, self.strides, self.padding)
        if self.lowering == "native":
            return bias + lax.conv_transpose(x, kernel, self.strides, pads, dimension_numbers=_NHWC)
        return bias[:, None, None, None] + transposed_convolution(x, kernel, self.strides, pads)


def _parameters(layer: Conv | ConvTranspose, x: Array) -> tuple[Array, Array, Array]:
    channels = x.shape[-1 if layer.lowering == "native" else 0]
    shape = (*layer.kernel_size, channels, layer.features)
    kernel = layer.param("kernel", nn.linear.default_kernel_init, shape)
    bias = layer.param("bias", nn.initializers.zeros_init(), (layer.features,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=layer.dtype)
    return x, kernel, bias


def batch_first(x: Array) -> Array:
    """(C, H, W, B) -> (B, H, W, C), as the last thing that is done to an image.

    Moved by a product with the identity.  The shifted sums before it would otherwise be taken
    anew for every pixel, in an order that jumps through all of them: 8 times as slow for 3 colors.
    Exact, where all channels of a pixel are finite; else none of them is.
    """
    return jnp.einsum("chwb,cd->hwbd", x, jnp.eye(len(x), dtype=x.dtype)).transpose(2, 0, 1, 3)


def best_lowering() -> str:
    """What is fastest on JAX's default backend, as measured."""
    return "matmul" if jax.default_backend() == "cpu" else "native"


def conv_pads(
    size: Sequence[int], kernel_size: Sequence[int], strides: Sequence[int], padding: str | Pads
) -> Pads:
    """(before, after) of height and of width, as `flax.linen.Conv` has it."""
    if isinstance(padding, str):
        return lax.padtype_to_pads(size, kernel_size, strides, padding)
    return padding


def transposed_pads(
    kernel_size: Sequence[int], strides: Sequence[int], padding: str | Pads
) -> Pads:
    """(before, after) of the dilated input, as `flax.linen.ConvTranspose` has it."""
    if not isinstance(padding, str):
        return padding
    pads = []
    for k, s in zip(kernel_size, strides, strict=True):
        total = k + s - 2 + (max(k - s, 0) if padding == "VALID" else 0)
        before = k - 1 if padding == "VALID" or s > k - 1 else -(-total // 2)
        pads.append((before, total - before))
    return pads


def convolution(x: Array, kernel: Array, strides: Sequence[int], pads: Pads) -> Array:
    """As one product.  x: (C, H, W, B), kernel: (kh, kw, C, F) -> (F, h, w, B)."""
    edges = []
    for k, s, size, (before, after) in zip(kernel.shape, strides, x.shape[1:], pads, strict=False):
        num_squares = (size + before + after - k) // s + -(-k // s)
        edges.append((before, s * num_squares - size - before))
    if tuple(strides) != (1, 1):
        x, edges = _squares_to_channels(_padded(x, edges), strides), _NONE
    kernel = _squares(kernel, strides).transpose(0, 2, 1, 3, 4, 5)
    m, n, *_, features = kernel.shape
    return unit_convolution(x, kernel.reshape(m, n, -1, features), edges)


def transposed_convolution(x: Array, kernel: Array, strides: Sequence[int], pads: Pads) -> Array:
    """As one product.  x: (C, H, W, B), kernel: (kh, kw, C, F) -> (F, h, w, B)."""
    full, cut = [], []
    for k, s, size, (before, after) in zip(kernel.shape, strides, x.shape[1:], pads, strict=False):
        taps = -(-k // s)
        # Of the full result, what the padding keeps: k - 1 on either side would keep all of it.
        first, num_outputs = before - (k - 1), s * (size - 1) + 1 + before + after - k + 1
        cut.append((first, num_outputs - s * (size + taps - 1) - first))
        full.append((taps - 1, taps - 1))
    # Squares are counted from the end of the kernel, which meets x in reverse.
    kernel = _squares(kernel[::-1, ::-1], strides)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    m, n, channels, *_ = kernel.shape
    kernel = kernel.reshape(m, n, channels, -1)
    if tuple(strides) == (1, 1):
        edges = [(a + c, b + d) for (a, b), (c, d) in zip(full, cut, strict=True)]
        return unit_convolution(x, kernel, edges)
    return _padded(_channels_to_squares(unit_convolution(x, kernel, full), strides), cut)


def doubled_convolution(x: Array, kernel: Array) -> Array:
    """3 x 3 on the doubled image, edges repeated.  x: (C, H, W, B) -> (F, 2 H, 2 W, B).

    Three pixels in a row of the doubled image are two of x: a 2 x 2 kernel for each of the four
    pixels of a square, 4 taps in place of 9.
    """
    for axis in (0, 2):
        zero, one, two = jnp.moveaxis(kernel, axis, 0)
        # Taps that meet a first and a second pixel of x: for the last pixel of a square, and for
        # the first pixel of the next.
        first, second = (zero + one, zero), (two, one + two)
        both = jnp.stack((*first, *second)).reshape(2, 2, *zero.shape)
        kernel = jnp.moveaxis(both, (0, 1), (axis, axis + 1))
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    m, n, channels, *_ = kernel.shape
    y = unit_convolution(_edged(x), kernel.reshape(m, n, channels, -1), _NONE)
    return _padded(_channels_to_squares(y, (2, 2)), ((-1, -1), (-1, -1)))


def _edged(x: Array) -> Array:
    """Height and width longer by one on either side, edges repeated."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def unit_convolution(x: Array, kernel: Array, pads: Pads) -> Array:
    """Stride 1.  x: (C, H, W, B), kernel: (m, n, C, F) -> (F, h, w, B)."""
    m, n, channels, features = kernel.shape
    i, j = _patch_taps(m, n, channels, features)
    before = [p if taps > 1 else (0, 0) for p, taps in zip(pads, (i, j), strict=True)]
    after = [(0, 0) if taps > 1 else p for p, taps in zip(pads, (i, j), strict=True)]
    x = _padded(x, before)
    height, width = x.shape[1] - i + 1, x.shape[2] - j + 1
    patches = [x[:, a : a + height, b : b + width] for a in range(i) for b in range(j)]
    flat = jnp.concatenate(patches).reshape(i * j * channels, -1)
    rows, columns = m // i, n // j
    kernel = kernel.reshape(i, rows, j, columns, channels, features)
    y = kernel.transpose(1, 3, 5, 0, 2, 4).reshape(-1, len(flat)) @ flat
    groups = jnp.split(y.reshape(-1, height, width, x.shape[-1]), rows * columns)
    (top, bottom), (left, right) = after
    shifted = [
        _padded(group, ((top - a, bottom - (rows - 1 - a)), (left - b, right - (columns - 1 - b))))
        for group, (a, b) in zip(groups, np.ndindex(rows, columns), strict=True)
    ]
    return functools.reduce(jnp.add, shifted)


def _patch_taps(m: int, n: int, channels: int, features: int) -> tuple[int, int]:
    """Along height and width: all taps as patches, or one, and then all of them as columns."""

    def written(taps: tuple[int, int]) -> int:
        # A column costs twice: the sum reads again what the product wrote.
        num_patches = taps[0] * taps[1]
        return num_patches * channels + 2 * (m * n // num_patches) * features

    return min(((m, 1), (m, n), (1, 1)), key=written)


def _padded(x: Array, pads: Pads) -> Array:
    """Zeros around height and width.  x: (C, H, W, B)."""
    edges = ((0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _squares(kernel: Array, strides: Sequence[int]) -> Array:
    """Zeros at the end to whole squares.  (kh, kw, C, F) -> (m, sh, n, sw, C, F)."""
    missing = [-k % s for k, s in zip(kernel.shape, strides, strict=False)]
    kernel = jnp.pad(kernel, ((0, missing[0]), (0, missing[1]), (0, 0), (0, 0)))
    (kh, kw, *rest), (sh, sw) = kernel.shape, strides
    return kernel.reshape(kh // sh, sh, kw // sw, sw, *rest)


def _squares_to_channels(x: Array, strides: Sequence[int]) -> Array:
    """(C, sh h, sw w, B) -> (sh sw C, h, w, B)."""
    (channels, height, width, batch), (sh, sw) = x.shape, strides
    x = x.reshape(channels, height // sh, sh, width // sw, sw, batch)
    return x.transpose(2, 4, 0, 1, 3, 5).reshape(-1, height // sh, width // sw, batch)


def _channels_to_squares(x: Array, strides: Sequence[int]) -> Array:
    """(sh sw F, h, w, B) -> (F, sh h, sw w, B).

    By concatenation: what XLA makes of a transposition is several times as slow where it is fused
    with a reshape, as the next layer, and every gradient, would have it.
    """
    (_, height, width, batch), (sh, sw) = x.shape, strides
    pieces = jnp.split(x[:, :, None, :, None], sh * sw)
    rows = [jnp.concatenate(pieces[i : i + sw], axis=4) for i in range(0, sh * sw, sw)]
    return jnp.concatenate(rows, axis=2).reshape(-1, sh * height, sw * width, batch)
