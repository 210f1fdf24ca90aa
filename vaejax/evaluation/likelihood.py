"""Importance-weighted bounds on log p(x)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.scipy.special import logsumexp

from vaejax.data.arrays import Rows
from vaejax.data.batches import blocks
from vaejax.data.transforms import Transform
from vaejax.models.vae import VAE
from vaejax.parallel import example_keys
from vaejax.training.state import EVALUATE, observed, stream_key
from vaejax.types import Array


def importance_weighted_bound(
    model: VAE,
    variables: Mapping[str, Any],
    rows: Rows,
    *,
    num_samples: int,
    transform: Transform,
    seed: int,
    batch_size: int = 50,
    chunk: int = 20,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x) with z_s ~ q(z|x) (arXiv 1509.00519, eq. 8).

    rows: (N, *X) raw -> (N,) nats, a lower bound on log p(x) in expectation that tightens with
    S = `num_samples`.  `batch_size` examples times `chunk` samples are decoded at once; they bound
    the memory and change nothing else, since a draw depends on (seed, example, sample) alone.
    Raises ValueError without samples.
    """
    if num_samples < 1:
        raise ValueError(f"the number of importance samples is {num_samples}; at least 1")
    chunk = min(chunk, num_samples)

    @jax.jit
    def encoded(rows: Array, indices: Array) -> tuple[Array, Array, Array]:
        x = observed(transform, rows, indices)
        features = nn.apply(lambda vae, x: vae.encoder(x), model)(variables, x)
        return x, features, example_keys(stream_key(seed, EVALUATE), indices)

    @jax.jit
    def log_sum(variables: Any, x: Array, features: Array, keys: Array, first: Array) -> Array:
        def log_weight(sample: Array) -> Array:
            # + 1: sample 0 of an example is not the draw that its ELBO uses.
            draw = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, sample + 1)
            return nn.apply(VAE.log_weight, model)(variables, x, features, draw)

        samples = first + jnp.arange(chunk)
        log_weights = jax.vmap(log_weight)(samples)
        return logsumexp(jnp.where(samples[:, None] < num_samples, log_weights, -jnp.inf), axis=0)

    pieces = []
    for indices, mask in blocks(len(rows), min(batch_size, len(rows))):
        inputs = encoded(rows[indices], indices)
        # A loop, not lax.scan: the CPU backend runs convolutions inside loops many times slower.
        sums = [log_sum(variables, *inputs, first) for first in range(0, num_samples, chunk)]
        total = np.logaddexp.reduce(np.stack(sums).astype(np.float64), axis=0)
        pieces.append(total[mask] - np.log(num_samples))
        progress(indices[mask][-1] + 1)
    return np.concatenate(pieces)
