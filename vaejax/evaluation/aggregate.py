"""The density of the aggregate posterior, q(z) = 1/N sum_i q(z|x_i)."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vaejax.evaluation.logsums import LogSum, no_terms
from vaejax.training.validation import even_size
from vaejax.types import Array

# Points times components of a tile: on a CPU what the cache next to a core holds (measured), else
# what keeps a device busy.
_TILES = {"cpu": (128, 160)}
_TILE_ELSEWHERE = (4096, 4096)


def aggregate_log_density(
    points: Array | np.ndarray,
    mean: Array | np.ndarray,
    scale: Array | np.ndarray,
    *,
    chunk: int | None = None,
    component_chunk: int | None = None,
) -> Array:
    """log q(z) = log 1/N sum_i N(z; mean_i, diag(scale_i^2)), exact.  -> (P,) nats.

    points: (P, D); mean, scale: (N, D), one component per example, scale > 0.  One program whose
    memory is that of `chunk` points times `component_chunk` components, which are chosen for speed
    unless given and change nothing else.  Differentiable in all three, in the same memory.  Raises
    ValueError for shapes that do not fit.
    """
    shapes = [np.shape(array) for array in (points, mean, scale)]
    if not (
        [len(shape) for shape in shapes] == [2, 2, 2]
        and shapes[0][1] == shapes[1][1]
        and shapes[1] == shapes[2]
        and min(shapes[0][0], *shapes[1]) > 0
    ):
        raise ValueError(
            "points, mean and scale have shapes {}, {} and {}; ".format(*shapes)
            + "they must be (P, D), (N, D) and (N, D), none of them empty"
        )
    tile = _TILES.get(jax.default_backend(), _TILE_ELSEWHERE)
    tile = (chunk or tile[0], component_chunk or tile[1])
    for name, size in zip(("chunk", "component_chunk"), tile, strict=True):
        if size < 1:
            raise ValueError(f"{name} is {size}; at least 1")
    sizes = [
        even_size(count, most) for count, most in zip((len(points), len(mean)), tile, strict=True)
    ]
    return _log_density(points, mean, scale, *sizes)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _log_density(points: Array, mean: Array, scale: Array, chunk: int, size: int) -> Array:
    dim = mean.shape[-1]
    constant = -jnp.log(scale).sum(axis=-1) - 0.5 * dim * math.log(2 * math.pi)
    components = (
        _pieces(mean, size, 0.0).transpose(0, 2, 1),
        _pieces(1 / scale, size, 1.0).transpose(0, 2, 1),
        _pieces(constant, size, -jnp.inf),
    )

    def log_sum(some: Array) -> Array:
        start = no_terms((chunk,))
        # Recomputed in a backward pass, which would otherwise keep every tile.
        step = jax.checkpoint(functools.partial(_with_components, some.T), prevent_cse=False)
        return lax.scan(lambda sums, part: (step(sums, part), None), start, components)[0].log()

    values = lax.map(log_sum, _pieces(points, chunk, 0.0)).reshape(-1)
    return values[: len(points)] - math.log(len(mean))


def _with_components(z: Array, sums: LogSum, components: tuple[Array, Array, Array]) -> LogSum:
    """z: (D, P); components: mean and 1 / scale (D, n), and the constant of each (n,).

    The squares are summed dimension by dimension.  As a matrix product, z^2 . 1/s^2 - 2 z . m/s^2
    + m^2/s^2, small scales would cancel all digits (by 1 nat at s = |z| / 3000), and on a CPU it is
    no faster than a tile that stays in the cache.
    """
    mean, inverse, constant = components

    def with_dimension(d: Array, terms: Array) -> Array:
        standard = (z[d] - mean[d][:, None]) * inverse[d][:, None]
        return terms - 0.5 * standard**2

    start = jnp.broadcast_to(constant[:, None], (len(constant), z.shape[1]))
    return sums.merged(lax.fori_loop(0, len(z), with_dimension, start), axis=0)


def _pieces(array: Array, size: int, fill: float) -> Array:
    """(n, ...) -> (ceil(n / size), size, ...), the last piece filled up."""
    missing = -len(array) % size
    edges = ((0, missing), *((0, 0),) * (array.ndim - 1))
    padded = jnp.pad(array, edges, constant_values=fill)
    return padded.reshape(-1, size, *array.shape[1:])
