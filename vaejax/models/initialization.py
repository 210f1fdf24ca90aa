"""The first draw of parameters, for which nothing is compiled.

`model.init` as one program takes seconds to compile, and operation by operation every one of its
shapes is a program of its own.  What is left of it without the forward pass is twenty kinds of
operations that NumPy has too, and Threefry.  The draws are the same, bit by bit, on every backend,
and the numbers made of them up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr
from scipy.special import erf, erfinv

_THREEFRY = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_BLOCK = 2**16  # counters at a time: what is made of them stays in the cache


def evaluated_by_numpy(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` of a key or a seed, () uint32, without what the result does not need.

    It is traced once, at the first argument, which may be a tracer.  Operations that NumPy lacks
    are JAX's, one by one; so are all of them where keys are not those of Threefry.
    """
    traced: list[tuple[ClosedJaxpr, Any]] = []

    def evaluated(argument: Any) -> Any:
        if not traced:
            closed, shapes = jax.make_jaxpr(function, return_shape=True)(argument)
            jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
            traced.append((ClosedJaxpr(jaxpr, closed.consts), jax.tree.structure(shapes)))
        program, structure = traced[0]
        if isinstance(argument, Tracer) or not _draws_by_threefry(argument):
            return jax.tree.unflatten(structure, jaxpr_as_fun(program)(argument))
        with jax.ensure_compile_time_eval():  # numbers, also within what is being traced
            leaves = _results(program, [_data(argument)])
        return jax.tree.unflatten(structure, jax.device_put(leaves))

    return evaluated


def _draws_by_threefry(argument: Any) -> bool:
    settings: Any = jax.config
    kind = jax.random.key_impl(argument) if _is_key(argument) else settings.jax_default_prng_impl
    return str(kind) == _THREEFRY and settings.jax_threefry_partitionable


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _data(value: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(value) if _is_key(value) else value)


def _results(program: ClosedJaxpr, arguments: list[np.ndarray]) -> list[np.ndarray]:
    """Of a traced function; keys are their data, (..., 2) uint32."""
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.constvars, map(_data, program.consts), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> np.ndarray:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype)
        return known[atom]

    for equation in jaxpr.eqns:
        outputs = _outputs(equation, [value(atom) for atom in equation.invars])
        known |= zip(equation.outvars, outputs, strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def _outputs(equation: JaxprEqn, inputs: list[np.ndarray]) -> list[np.ndarray]:
    name = equation.primitive.name
    avals: list[Any] = [atom.aval for atom in equation.invars]
    if name == "jit":
        return _results(equation.params["jaxpr"], inputs)
    if name in _OPERATIONS:
        result: Any = equation.outvars[0].aval
        return [np.asarray(_OPERATIONS[name](*inputs), result.dtype)]
    if name in _WITH_SETTINGS and not any(_is_key(aval) and aval.ndim for aval in avals):
        return [_WITH_SETTINGS[name](*inputs, **equation.params)]
    arguments = [
        jax.random.wrap_key_data(jnp.asarray(value), impl=_THREEFRY) if _is_key(aval) else value
        for value, aval in zip(inputs, avals, strict=True)
    ]
    outputs: Any = equation.primitive.bind(*arguments, **equation.params)
    return [_data(o) for o in (outputs if equation.primitive.multiple_results else [outputs])]


def _threefry(key: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32, 20 rounds (Salmon et al., 2011), of the counters (0, low): (n,) uint32."""
    if low.size > _BLOCK:
        blocks = (low[i : i + _BLOCK] for i in range(0, low.size, _BLOCK))
        a, b = zip(*(_threefry(key, block) for block in blocks), strict=True)
        return np.concatenate(a), np.concatenate(b)
    first, second = key[:1], key[1:]
    schedule = (first, second, first ^ second ^ np.uint32(_PARITY))
    a, b = np.broadcast_to(first, low.shape).copy(), low + second
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            a += b
            left = b << np.uint32(distance)
            b >>= np.uint32(32 - distance)
            b |= left
            b ^= a
        a += schedule[(turn + 1) % 3]
        b += schedule[(turn + 2) % 3] + np.uint32(turn + 1)
    return a, b


def _counters(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.uint32)


def _seed(seed: np.ndarray, **_: Any) -> np.ndarray:
    return np.stack([np.zeros_like(seed), seed], axis=-1).astype(np.uint32)


def _fold_in(key: np.ndarray, data: np.ndarray) -> np.ndarray:
    return np.concatenate(_threefry(key, data.reshape(1).astype(np.uint32)))


def _split(key: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(_threefry(key, _counters(shape)), axis=-1).reshape(*shape, 2)


def _bits(key: np.ndarray, *, bit_width: int, shape: tuple[int, ...]) -> np.ndarray:
    a, b = _threefry(key, _counters(shape))
    if bit_width == 64:
        bits = (a.astype(np.uint64) << np.uint64(32)) | b
    else:
        bits = (a ^ b).astype(f"uint{bit_width}")
    return bits.reshape(shape)


def _broadcast(
    x: np.ndarray, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...], **_: Any
) -> np.ndarray:
    sizes = [1] * len(shape)
    for size, axis in zip(x.shape, broadcast_dimensions, strict=True):
        sizes[axis] = size
    return np.broadcast_to(x.reshape(sizes), shape)


def _converted(x: np.ndarray, *, new_dtype: Any, **_: Any) -> np.ndarray:
    return x.astype(new_dtype)


def _same_bits(x: np.ndarray, *, new_dtype: Any) -> np.ndarray:
    return x.view(new_dtype)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "copy": np.copy,
    "div": np.divide,
    "erf": erf,
    "erf_inv": erfinv,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "nextafter": np.nextafter,
    "or": np.bitwise_or,
    "shift_right_logical": np.right_shift,
    "sqrt": np.sqrt,
    "stop_gradient": np.asarray,
    "sub": np.subtract,
}
_WITH_SETTINGS: dict[str, Callable[..., Any]] = {
    "bitcast_convert_type": _same_bits,
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _converted,
    "random_bits": _bits,
    "random_fold_in": _fold_in,
    "random_seed": _seed,
    "random_split": _split,
}
