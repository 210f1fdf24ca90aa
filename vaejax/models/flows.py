"""Affine coupling flows: distrax bijectors over Flax conditioners (arXiv 1911.10506, eqs. 3-4)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

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


class _ConditionerNet(nn.Module):
    """D -> width -> width -> D, shared by the scale and the shift of a block."""

    width: int
    leaky_slope: float
    zero_init: bool

    @nn.compact
    def __call__(self, z: Array) -> Array:
        last_init = nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
        out = z.shape[-1]
        for _ in range(2):
            z = leaky(self.leaky_slope)(nn.Dense(self.width)(z))
        return nn.Dense(out, kernel_init=last_init)(z)


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
        self.scales = [_ConditionerNet(*net) for _ in range(self.num_blocks)]
        self.shifts = [_ConditionerNet(*net) for _ in range(self.num_blocks)]

    def bijector(self) -> distrax.Chain:
        """g^-1 as a distrax bijector with event shape (D,)."""
        masks = coupling_masks(self.mask, self.latent_dim, self.num_blocks, self.mask_percent)
        blocks = [self._block(k, mask) for k, mask in enumerate(masks)]
        return distrax.Chain(blocks[::-1])  # a chain applies its last element first

    def _block(self, k: int, mask: np.ndarray) -> distrax.MaskedCoupling:
        def conditioner(passed: Array) -> tuple[Array, Array]:
            shift = self.shifts[k](passed)
            shift = jnp.tanh(shift) if self.t_activation == "tanh" else shift
            return shift, jnp.tanh(self.scales[k](passed))

        def affine(parameters: tuple[Array, Array]) -> distrax.ScalarAffine:
            shift, log_scale = parameters
            return distrax.ScalarAffine(shift=shift, log_scale=log_scale)

        parts: Any = {"conditioner": conditioner, "bijector": affine}
        return distrax.MaskedCoupling(mask=jnp.asarray(mask), **parts)
