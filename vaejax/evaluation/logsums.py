"""Sums of exponentials that arrive piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaejax.types import Array


class LogSum(NamedTuple):
    """log sum exp of the terms so far, as exp(highest) * total.

    A pair, since a sum of logarithms would be rounded at the size of the result, often hundreds of
    nats, once for every piece.
    """

    highest: Array  # (...) the largest term; a constant to differentiation, as it cancels
    total: Array  # (...) sum of exp(term - highest), at least 1 once there is a finite term

    def merged(self, terms: Array, axis: int) -> LogSum:
        """With the `terms` along one axis added, -inf being no term."""
        highest = jnp.maximum(self.highest, jax.lax.stop_gradient(terms).max(axis=axis))
        added = jnp.exp(terms - jnp.expand_dims(highest, axis)).sum(axis=axis)
        return LogSum(highest, self.total * jnp.exp(self.highest - highest) + added)

    def log(self) -> Array:
        """-> (...) the logarithm of the sum; -inf for no term."""
        return self.highest + jnp.log(self.total)


def no_terms(shape: Sequence[int]) -> LogSum:
    """The empty sum.  Its largest term is finite, as -inf - -inf would not be a number."""
    return LogSum(jnp.full(shape, jnp.finfo(jnp.float32).min), jnp.zeros(shape))
