"""The first draw of parameters, for which almost nothing is compiled.

`model.init` as one program takes seconds to compile, and operation by operation every one of its
shapes is a program of its own.  What is left of it without the forward pass is Threefry and a few
kinds of operations that NumPy has too; a spectral norm adds more, which are compiled.  The draws
are the same, bit by bit, on every backend, and the numbers made of them up to rounding.
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

from vaejax.types import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_BLOCK = 2**16  # counters at a time: what is made of them stays in the cache


def evaluated_by_numpy(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` of a key or a seed, () uint32, without what the result does not need.

    It is traced once for every kind of key, at the first argument, which may be a tracer.  What
    NumPy is not known to do alike is left to JAX, operation by operation.
    """
    programs: dict[Any, tuple[ClosedJaxpr, Any]] = {}

    def evaluated(argument: Any) -> Any:
        settings: Any = jax.config
        kind = argument.dtype, settings.jax_default_prng_impl, settings.jax_enable_x64
        if kind not in programs:
            closed, shapes = jax.make_jaxpr(function, return_shape=True)(argument)
            jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
            programs[kind] = ClosedJaxpr(jaxpr, closed.consts), jax.tree.structure(shapes)
        program, structure = programs[kind]
        if isinstance(argument, Tracer):
            return jax.tree.unflatten(structure, jaxpr_as_fun(program)(argument))
        # Numbers, also within what is being traced, and without a word where JAX says none.
        with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
            leaves = _results(program, [argument])
        return jax.tree.unflatten(structure, jax.device_put(leaves))

    return evaluated


def _results(program: ClosedJaxpr, arguments: list[Any]) -> list[Any]:
    """Of a traced function.  Keys are JAX's, and numbers NumPy's."""
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.constvars, program.consts, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Any:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype)
        return known[atom]

    for equation in jaxpr.eqns:
        outputs = _outputs(equation, [value(atom) for atom in equation.invars])
        known |= zip(equation.outvars, outputs, strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def _outputs(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    primitive, settings = equation.primitive, equation.params
    result: Any = equation.outvars[0].aval
    if primitive.name == "jit":
        return _results(settings["jaxpr"], inputs)
    if primitive.name in _DRAWS and _is_threefry(equation):
        data = [jax.random.key_data(value) if _is_key(value) else value for value in inputs]
        drawn = _DRAWS[primitive.name](*map(np.asarray, data), **settings)
        return [_wrapped(drawn) if _is_key(result) else drawn]
    if primitive.name in _OPERATIONS and all(map(_is_real, inputs)):
        found = _OPERATIONS[primitive.name](*inputs)
        return [np.asarray(found, result.dtype)]
    if primitive.name in _LAYOUTS and not any(map(_is_key, inputs)):
        found = _LAYOUTS[primitive.name](np.asarray(inputs[0]), **settings)
        if found is not NotImplemented:
            return [found]
    outputs: Any = primitive.bind(*inputs, **primitive.get_bind_params(settings))
    return list(outputs) if primitive.multiple_results else [outputs]


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _is_real(value: Any) -> bool:
    """Or whole and without a sign."""
    return any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.unsignedinteger))


def _is_threefry(equation: JaxprEqn) -> bool:
    """Whether it is of one key of the usual kind, and of numbers of 32 bits."""
    settings: Any = jax.config
    given: list[Any] = [atom.aval for atom in equation.invars]
    keys: list[Any] = [a for a in (*given, equation.outvars[0].aval) if _is_key(a)]
    return (
        settings.jax_threefry_partitionable
        and all(str(key.dtype) == "key<fry>" for key in keys)
        and all(each.shape == () for each in given)
        and all(_is_key(each) or each.dtype.itemsize <= 4 for each in given)
    )


def _wrapped(data: np.ndarray) -> Array:
    return jax.random.wrap_key_data(jax.device_put(data), impl="threefry2x32")


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
    return np.array([0, seed.astype(np.uint32)], np.uint32)


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


def _converted(x: np.ndarray, *, new_dtype: Any, **_: Any) -> Any:
    is_cut = jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(new_dtype, jnp.floating)
    return NotImplemented if is_cut else x.astype(new_dtype)


def _same_bits(x: np.ndarray, *, new_dtype: Any) -> Any:
    return x.view(new_dtype) if jnp.dtype(new_dtype).itemsize == x.itemsize else NotImplemented


_DRAWS: dict[str, Callable[..., Any]] = {
    "random_bits": _bits,
    "random_fold_in": _fold_in,
    "random_seed": _seed,
    "random_split": _split,
}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "copy": np.copy,  # no two leaves share memory
    "div": np.divide,
    "erf": erf,
    "erf_inv": erfinv,
    "log": np.log,
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
_LAYOUTS: dict[str, Callable[..., Any]] = {
    "bitcast_convert_type": _same_bits,
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _converted,
}
