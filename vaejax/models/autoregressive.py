"""Masked autoregressive flows: affine steps whose parameters see earlier dimensions only.

The networks are those of arXiv 1502.03509, the flow is that of arXiv 1705.07057.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from vaejax.models.layers import leaky
from vaejax.probability import distrax
from vaejax.types import Array

# |log scale| of a step stays below it: unbounded, one dimension far out overflows all after it.
_BOUND = 3.0

# y (..., D) -> shift, log_scale (..., D), each dimension a function of the earlier ones alone.
Conditioner = Callable[[Array], tuple[Array, Array]]


def ranks(latent_dim: int, is_reversed: bool) -> np.ndarray:
    """The place of every dimension in the order of the step.  -> (D,) of int, from 0."""
    return np.arange(latent_dim)[::-1] if is_reversed else np.arange(latent_dim)


def masks(rank: np.ndarray, width: int, num_layers: int) -> list[np.ndarray]:
    """Which weights there are, of `num_layers` hidden layers and the last one (0 or 1).

    Hidden units have degrees 1, 2, ..., D - 1 in turn, and see units of at most their own; output d
    sees those of degree at most its rank.  -> (D, width), (width, width), ..., (width, D).
    """
    hidden = np.arange(width) % max(len(rank) - 1, 1) + 1
    degrees = [rank + 1, *[hidden] * num_layers]
    between = [below[:, None] <= above for below, above in zip(degrees, degrees[1:], strict=False)]
    return [mask.astype(np.float32) for mask in (*between, hidden[:, None] <= rank)]


class MaskedNet(nn.Module):
    """D -> width -> width -> D shifts and D log-scales."""

    latent_dim: int
    is_reversed: bool
    width: int
    leaky_slope: float
    zero_init: bool
    num_layers: int = 2

    def setup(self) -> None:
        rank = ranks(self.latent_dim, self.is_reversed)
        *between, last = masks(rank, self.width, self.num_layers)
        self.kept = [*between, np.concatenate([last, last], axis=1)]
        default, zeros = nn.linear.default_kernel_init, nn.initializers.zeros
        inits = [*[default] * self.num_layers, zeros if self.zero_init else default]
        self.kernels = [
            self.param(f"kernel_{k}", init, mask.shape)
            for k, (init, mask) in enumerate(zip(inits, self.kept, strict=True))
        ]
        self.biases = [
            self.param(f"bias_{k}", zeros, mask.shape[1:]) for k, mask in enumerate(self.kept)
        ]

    def conditioner(self) -> Conditioner:
        """A function of arrays alone, which loops may call."""
        kernels = [kernel * mask for kernel, mask in zip(self.kernels, self.kept, strict=True)]
        biases, activation = list(self.biases), leaky(self.leaky_slope)

        def shift_and_log_scale(y: Array) -> tuple[Array, Array]:
            for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
                y = activation(y @ kernel + bias)
            shift, raw = jnp.split(y @ kernels[-1] + biases[-1], 2, axis=-1)
            return shift, _BOUND * jnp.tanh(raw / _BOUND)

        return shift_and_log_scale


class AutoregressiveAffine(distrax.Bijector):
    """y_d = x_d exp(s_d) + t_d, where s and t are functions of the y that come before d.

    The inverse is one pass, the forward map one pass per dimension.
    """

    def __init__(self, conditioner: Conditioner, rank: np.ndarray):
        super().__init__(event_ndims_in=1)
        self._conditioner, self._rank = conditioner, rank

    def forward_and_log_det(self, x: Array) -> tuple[Array, Array]:
        """Generation to representation space.  x: (..., D) -> (..., D), (...) nats."""
        rank = jnp.asarray(self._rank)

        def one_more(place: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
            y, log_det = found
            shift, log_scale = self._conditioner(y)
            # All others wait: what they would be now could overflow, and a mask times inf is nan.
            here = rank == place
            y = jnp.where(here, x * jnp.exp(log_scale) + shift, y)
            return y, log_det + jnp.sum(jnp.where(here, log_scale, 0.0), axis=-1)

        start = jnp.zeros_like(x), jnp.zeros(x.shape[:-1], x.dtype)
        return lax.fori_loop(0, len(self._rank), one_more, start)

    def inverse_and_log_det(self, y: Array) -> tuple[Array, Array]:
        """Representation to generation space.  y: (..., D) -> (..., D), (...) nats."""
        shift, log_scale = self._conditioner(y)
        return (y - shift) * jnp.exp(-log_scale), -jnp.sum(log_scale, axis=-1)


class MaskedAutoregressiveFlow(nn.Module):
    """Steps in turn in the order of the dimensions and against it.

    `bijector().forward` maps generation to representation space, as that of a coupling flow.
    """

    latent_dim: int
    num_blocks: int = 6
    width: int = 64
    leaky_slope: float = 0.01
    zero_init: bool = False

    def setup(self) -> None:
        net = (self.width, self.leaky_slope, self.zero_init)
        self.nets = [MaskedNet(self.latent_dim, k % 2 == 1, *net) for k in range(self.num_blocks)]

    def bijector(self) -> distrax.Chain:
        """A distrax bijector with event shape (D,)."""
        steps = [
            AutoregressiveAffine(net.conditioner(), ranks(self.latent_dim, net.is_reversed))
            for net in self.nets
        ]
        return distrax.Chain(steps[::-1])  # a chain applies its last element first
