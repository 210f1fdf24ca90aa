"""Affine coupling flows: distrax bijectors over Flax conditioners (arXiv 1911.10506, eqs. 3-4)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from vaejax.models.layers import leaky
from vaejax.probability import distrax
from vaejax.types import Array

MASKS = ("alternating", "half")
T_ACTIVATIONS = ("tanh", "none")


def coupling_masks(kind: str, latent_dim: int, num_blocks: int, percent: float) -> list[np.ndarray]:
    """Which dimensions pass through each block.  -> num_blocks arrays (D,) of bool.

    "alternating": even dimensions, then odd ones, and so on.  "half": the first `percent` % of the
    dimensions (at least one, at most D - 1), then the others.  With D = 1 nothing can pass through
    and the conditioner sees zeros: each block is then a plain affine map.
    """
    position = np.arange(latent_dim)
    if kind == "half":
        count = int(np.clip(latent_dim * percent // 100, 1, max(latent_dim - 1, 1)))
        first = position < count
    else:
        first = position % 2 == 0
    if latent_dim == 1:
        return [np.zeros(1, bool)] * num_blocks
    return [first if block % 2 == 0 else ~first for block in range(num_blocks)]


def _places(mask: np.ndarray) -> slice:
    """Where `mask` is true, which is at even distances."""
    places = np.flatnonzero(mask)
    if places.size == 0:
        return slice(0, 0, 1)
    step = int(places[1] - places[0]) if places.size > 1 else 1
    return slice(int(places[0]), int(places[-1]) + 1, step)


class _Layer(nn.Module):
    """Kernel (inputs, outputs) and bias of a dense layer."""

    shape: tuple[int, int]
    kernel_init: Any = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        # To check a shape, Flax traces the initializer at every use: that of zeros takes less.
        is_there = self.has_variable("params", "kernel")
        init = nn.initializers.zeros if is_there else self.kernel_init
        kernel = self.param("kernel", init, self.shape)
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[1:])


class _ConditionerNet(nn.Module):
    """D -> width -> width -> D, one for the scale and one for the shift of a block.

    Its mask would make zeros of some inputs and leave their outputs unused; it goes without both.
    """

    passed: tuple[bool, ...]
    width: int
    leaky_slope: float
    zero_init: bool

    @nn.compact
    def __call__(self, z: Array) -> Array:
        last_init = nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
        dim, width = len(self.passed), self.width
        layers = (
            _Layer((dim, width), name="Dense_0")(),
            _Layer((width, width), name="Dense_1")(),
            _Layer((width, dim), last_init, name="Dense_2")(),
        )
        return _conditioned(z, layers, self.passed, self.leaky_slope)


@functools.partial(jax.jit, static_argnums=2)  # traced once for all blocks of a mask
def _conditioned(z: Array, layers: Any, passed: tuple[bool, ...], leaky_slope: Any) -> Array:
    activation, mask = leaky(leaky_slope), np.array(passed)
    (first, bias), (middle, middle_bias), (last, last_bias) = layers
    z = activation(z @ first[_places(mask)] + bias)
    z = activation(z @ middle + middle_bias)
    return z @ last[:, _places(~mask)] + last_bias[_places(~mask)]


class _Sorting(distrax.Bijector):
    """Puts the dimensions where `mask` is true before the others."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__(event_ndims_in=1, is_constant_jacobian=True)
        self._places, self._count = (_places(mask), _places(~mask)), int(mask.sum())

    def forward_and_log_det(self, x: Array) -> tuple[Array, Array]:
        parts = [x[..., places] for places in self._places]
        return jnp.concatenate(parts, axis=-1), jnp.zeros(x.shape[:-1], x.dtype)

    def inverse_and_log_det(self, y: Array) -> tuple[Array, Array]:
        parts, zero = (y[..., : self._count], y[..., self._count :]), jnp.zeros((), y.dtype)
        around = [(p.start, y.shape[-1] - p.stop, p.step - 1) for p in self._places]
        batch = [(0, 0, 0)] * (y.ndim - 1)
        apart = [lax.pad(z, zero, [*batch, a]) for z, a in zip(parts, around, strict=True)]
        return apart[0] + apart[1], jnp.zeros(y.shape[:-1], y.dtype)


class CouplingFlow(nn.Module):
    """K affine coupling blocks; `bijector().forward` maps generation to representation space.

    Block k is T_k(u) = b u + (1 - b)(u exp(s_k(b u)) + t_k(b u)), s = tanh(net), t = tanh(net) or
    the net itself.  The chain applies T_1 first, so it is g^-1 and its inverse is g.
    """

    latent_dim: int
    num_blocks: int = 6
    mask: str = "alternating"
    mask_percent: float = 50.0
    width: int = 64
    leaky_slope: float = 0.01
    t_activation: str = "tanh"
    zero_init: bool = False

    def setup(self) -> None:
        net = (self.width, self.leaky_slope, self.zero_init)
        passed = [tuple(mask.tolist()) for mask in self._masks()]
        self.scales = [_ConditionerNet(mask, *net) for mask in passed]
        self.shifts = [_ConditionerNet(mask, *net) for mask in passed]

    def bijector(self) -> distrax.Chain:
        """g^-1 as a distrax bijector with event shape (D,)."""
        first = self._masks()[0]
        blocks = [self._block(k, int(first.sum())) for k in range(self.num_blocks)]
        chain = distrax.Chain(blocks[::-1])  # a chain applies its last element first
        if not first[first.sum() :].any():  # dimensions that pass together are side by side
            return chain
        sorting = _Sorting(first)
        return distrax.Chain([distrax.Inverse(sorting), chain, sorting])

    def _masks(self) -> list[np.ndarray]:
        return coupling_masks(self.mask, self.latent_dim, self.num_blocks, self.mask_percent)

    def _block(self, k: int, split: int) -> distrax.SplitCoupling:
        def conditioner(passed: Array) -> tuple[Array, Array]:
            shift = self.shifts[k](passed)
            shift = jnp.tanh(shift) if self.t_activation == "tanh" else shift
            return shift, jnp.tanh(self.scales[k](passed))

        def affine(parameters: tuple[Array, Array]) -> distrax.ScalarAffine:
            shift, log_scale = parameters
            return distrax.ScalarAffine(shift=shift, log_scale=log_scale)

        swap = k % 2 == 1 and self.latent_dim > 1  # whether the dimensions behind `split` pass
        parts: Any = {"conditioner": conditioner, "bijector": affine, "swap": swap}
        return distrax.SplitCoupling(split, event_ndims=1, **parts)
