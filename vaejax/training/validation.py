"""Exact passes over a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
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


def make_split_terms(
    model: VAE, *, transform: Transform, seed: int, batch_size: int = 500
) -> SplitTerms:
    """Reconstruction, KL and ELBO of every example of a split, in evaluation mode.

    rows: (N, *X) raw -> {name: (N,) float32 nats}.  The draw of an example depends on its index in
    the split alone, so `batch_size` changes nothing but memory.
    """

    @jax.jit
    def terms_of(variables: Mapping[str, Any], rows: Array, indices: Array) -> dict[str, Array]:
        x = observed(transform, rows, indices)
        keys = example_keys(stream_key(seed, EVALUATE), indices)
        terms = nn.apply(VAE.__call__, model)(variables, x, keys)
        elbo = -(terms.reconstruction + terms.kl)
        return {"elbo": elbo, "reconstruction": terms.reconstruction, "kl": terms.kl}

    def split_terms(variables: Mapping[str, Any], rows: Rows) -> dict[str, np.ndarray]:
        pieces = []
        for indices, mask in blocks(len(rows), min(batch_size, len(rows))):
            values = terms_of(variables, rows[indices], indices)
            pieces.append({name: np.asarray(value)[mask] for name, value in values.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    return split_terms


def means(terms: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each, summed in float64 and divided once."""
    return {name: float(np.mean(values, dtype=np.float64)) for name, values in terms.items()}
