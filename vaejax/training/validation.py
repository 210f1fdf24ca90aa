"""Exact passes over a split."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.data.arrays import Rows
from vaejax.data.batches import blocks
from vaejax.data.transforms import Transform
from vaejax.models.vae import VAE
from vaejax.parallel import example_keys
from vaejax.training.state import EVALUATE, observed, stream_key
from vaejax.types import Array

# (variables, rows) -> {name: (N,)}
SplitTerms = Callable[[Mapping[str, Any], Rows], dict[str, np.ndarray]]


# Bytes of the largest layer of all examples that pass through a network at once: on a CPU what its
# caches hold (at five times as much, half the rate or less), elsewhere what keeps a device busy.
_LAYER_BYTES = {"cpu": 2**21}
_LAYER_BYTES_ELSEWHERE = 2**29


def make_split_terms(
    model: VAE, *, transform: Transform, seed: int, batch_size: int | None = None
) -> SplitTerms:
    """Reconstruction, KL and ELBO of every example of a split, in evaluation mode.

    rows: (N, *X) raw -> {name: (N,) float32 nats}.  The draw of an example depends on its index in
    the split alone, so `batch_size`, by `num_at_once` unless given, changes nothing but memory.
    """

    @jax.jit
    def terms_of(variables: Mapping[str, Any], rows: Array, indices: Array) -> dict[str, Array]:
        x = observed(transform, rows, indices)
        keys = example_keys(stream_key(seed, EVALUATE), indices)
        terms = nn.apply(VAE.__call__, model)(variables, x, keys)
        elbo = -(terms.reconstruction + terms.kl)
        return {"elbo": elbo, "reconstruction": terms.reconstruction, "kl": terms.kl}

    def split_terms(variables: Mapping[str, Any], rows: Rows) -> dict[str, np.ndarray]:
        if (shape := rows.shape[1:]) not in sizes:
            sizes[shape] = batch_size or num_at_once(model, variables, shape)
        return over_split(functools.partial(terms_of, variables), rows, sizes[shape])

    sizes: dict[tuple[int, ...], int] = {}
    return split_terms


def make_over_examples(
    function: Callable[[VAE, Array, Array], Any],
    model: VAE,
    *,
    transform: Transform,
    key: Array,
    parts: Sequence[str] = ("encoder", "decoder"),
    batch_size: int | None = None,
) -> Callable[[Mapping[str, Any], Rows], Any]:
    """`function` of (bound model, x, keys) on whole splits: (variables, rows) -> leaves (N, ...).

    x: (B, *X) as evaluation sees it, keys: (B,), folded from `key` and the index in the split.  So
    `batch_size`, by `num_at_once` of the `parts` in use unless given, changes nothing but memory.
    """

    @jax.jit
    def of_block(variables: Mapping[str, Any], rows: Array, indices: Array) -> Any:
        x = observed(transform, rows, indices)
        return nn.apply(function, model)(variables, x, example_keys(key, indices))

    def of_split(variables: Mapping[str, Any], rows: Rows) -> Any:
        size = batch_size or num_at_once(model, variables, rows.shape[1:], parts)
        return over_split(functools.partial(of_block, variables), rows, size)

    return of_split


def num_at_once(
    model: VAE,
    variables: Mapping[str, Any],
    x_shape: Sequence[int],
    parts: Sequence[str] = ("encoder", "decoder"),
) -> int:
    """How many examples, or draws, `parts` of the model take at once, by the size of their layers.

    It is for this backend's speed and bounds the memory; nothing else depends on it.
    """

    def layers_of(variables: Any, x: Array, keys: Array) -> Any:
        terms_and_layers = nn.apply(VAE.__call__, model, capture_intermediates=True)
        layers = terms_and_layers(variables, x, keys)[1]["intermediates"]
        return [layers[part] for part in parts]

    x, keys = jax.ShapeDtypeStruct((1, *x_shape), jnp.float32), jax.random.key(0)[None]
    layers = jax.tree.leaves(jax.eval_shape(layers_of, variables, x, keys))
    largest = max(layer.size * layer.dtype.itemsize for layer in layers)
    return max(1, _LAYER_BYTES.get(jax.default_backend(), _LAYER_BYTES_ELSEWHERE) // largest)


def over_split(function: Callable[[Any, Any], Any], rows: Rows, batch_size: int) -> Any:
    """`function` of (rows, indices) on a whole split.  -> its tree of leaves (N, ...), on the host.

    All blocks have the same number of rows, at most `batch_size`, so that it compiles once.
    """
    size = even_size(len(rows), batch_size)
    pieces = [values for values, _ in in_blocks(function, rows, size)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def in_blocks(
    function: Callable[[Any, Any], Any], rows: Rows, batch_size: int
) -> Iterator[tuple[Any, int]]:
    """The pieces of `over_split`, each with the number of examples done.

    A block is fetched only when the next one is on its way, so that the device does not wait for
    the host; more than two are never held.
    """
    running: list[tuple[Any, np.ndarray, np.ndarray]] = []
    for indices, mask in blocks(len(rows), min(batch_size, len(rows))):
        running.append((function(rows[indices], indices), indices, mask))
        if len(running) > 1:
            yield _fetched(*running.pop(0))
    for block in running:
        yield _fetched(*block)


def even_size(count: int, most: int) -> int:
    """The size of the fewest blocks of at most `most`, filled as evenly as they can be."""
    return math.ceil(count / math.ceil(count / max(most, 1)))


def _fetched(values: Any, indices: np.ndarray, mask: np.ndarray) -> tuple[Any, int]:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[mask], values), int(indices[mask][-1]) + 1


def means(terms: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each, summed in float64 and divided once."""
    return {name: float(np.mean(values, dtype=np.float64)) for name, values in terms.items()}
