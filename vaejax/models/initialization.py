"""The first draw of parameters, for which XLA has little to compile.

One program for the whole of `model.init` takes seconds to compile: every parameter has a kernel of
its own, and every fold and every draw the loops of Threefry around it.  Here equal layers share one
program, the forward pass is left out, and Threefry is unrolled and runs over flat arrays.  The
draws are the same, bit by bit, and the numbers made of them up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.random import define_prng_impl
from jax.interpreters.partial_eval import dce_jaxpr

from vaejax.types import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def evaluated_in_parts(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """`function` of a key, operation by operation, without those that the result does not need.

    It is traced once, at the first key.
    """
    traced: list[tuple[Callable[..., Any], Any]] = []

    def evaluated(key: Array) -> Any:
        if not traced:
            closed, shapes = jax.make_jaxpr(function, return_shape=True)(key)
            jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
            program = jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))
            traced.append((program, jax.tree.structure(shapes)))
        program, structure = traced[0]
        return jax.tree.unflatten(structure, program(key))

    return evaluated


def quickly_compiled(key: Array) -> Array:
    """`key`, for the same draws by programs that compile faster and run slower: () -> () key."""
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    settings: Any = jax.config
    if not (is_threefry and settings.jax_threefry_partitionable):  # other draws: the key as it is
        return key
    implementation = define_prng_impl(
        key_shape=(2,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="flat"
    )
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=implementation)


def _threefry(key: Array, low: Array) -> tuple[Array, Array]:
    """Threefry-2x32, 20 rounds (Salmon et al., 2011), of the counters (0, low); uint32."""
    first, second = (lax.broadcast(word, low.shape) for word in (key[0], key[1]))
    third = lax.bitwise_xor(lax.bitwise_xor(first, second), lax.full_like(low, _PARITY))
    schedule = (first, second, third)
    a, b = first, lax.add(low, second)
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            a = lax.add(a, b)
            left = lax.shift_left(b, lax.full_like(b, distance))
            right = lax.shift_right_logical(b, lax.full_like(b, 32 - distance))
            b = lax.bitwise_xor(a, lax.bitwise_or(left, right))
        a = lax.add(a, schedule[(turn + 1) % 3])
        b = lax.add(b, lax.add(schedule[(turn + 2) % 3], lax.full_like(b, turn + 1)))
    return a, b


def _counters(shape: tuple[int, ...]) -> Array:
    return lax.iota(jnp.uint32, math.prod(shape))


def _bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    a, b = _threefry(key, _counters(shape))
    if width == 64:
        bits = (a.astype(jnp.uint64) << jnp.uint64(32)) | b.astype(jnp.uint64)
    else:
        bits = (a ^ b).astype(f"uint{width}")
    return bits.reshape(shape)


@jax.jit
def _fold_in(key: Array, data: Array) -> Array:
    return jnp.stack(_threefry(key, jnp.asarray(data, jnp.uint32)))


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_threefry(key, _counters(shape)), axis=-1).reshape(*shape, 2)


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
