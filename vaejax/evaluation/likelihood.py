"""Importance-weighted bounds on log p(x)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.data.arrays import Rows
from vaejax.data.transforms import Transform
from vaejax.evaluation.logsums import LogSum, no_terms
from vaejax.models.likelihoods import event_log_prob
from vaejax.models.vae import VAE
from vaejax.parallel import example_keys
from vaejax.training.state import observed
from vaejax.training.validation import even_size, in_blocks, num_at_once
from vaejax.types import Array

_EXAMPLES = 10  # a block of examples where each has many samples; progress is by block


class _Block(NamedTuple):
    """Examples, and what all their samples share."""

    x: Array  # (B, *X)
    features: Array  # (B, F)
    keys: Array  # (B,)


def importance_weighted_bound(
    model: VAE,
    variables: Mapping[str, Any],
    rows: Rows,
    *,
    num_samples: int,
    transform: Transform,
    key: Array,
    indices: np.ndarray | None = None,
    batch_size: int | None = None,
    chunk: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x) with z_s ~ q(z|x) (arXiv 1509.00519, eq. 8).

    rows: (N, *X) raw -> (N,) nats, below log p(x) in expectation, less so with more samples.
    indices: (N,) of the rows in their data set, by which they draw; else 0 to N - 1.  `batch_size`
    times at most `chunk` are decoded at once.  Raises ValueError without samples.
    """
    if num_samples < 1:
        raise ValueError(f"the number of importance samples is {num_samples}; at least 1")
    at_once = num_at_once(model, variables, rows.shape[1:], ("decoder",))
    most = min(at_once, max(_EXAMPLES, at_once // num_samples))
    batch_size = min(batch_size or even_size(len(rows), most), len(rows))
    chunk = even_size(num_samples, chunk or at_once // batch_size)

    @jax.jit
    def encoded(variables: Any, rows: Array, indices: Array) -> _Block:
        x = observed(transform, rows, indices)
        keys = example_keys(key, indices)
        return _Block(x, nn.apply(VAE.features, model)(variables, x), keys)

    def with_chunk(sums: LogSum, variables: Any, block: _Block, first: Array) -> LogSum:
        samples = first + jnp.arange(chunk)
        terms = nn.apply(_log_weights, model)(variables, block, samples)
        return sums.merged(jnp.where(samples[:, None] < num_samples, terms, -jnp.inf), axis=0)

    over_chunks = _over_chunks(with_chunk, np.arange(0, num_samples, chunk))
    numbers = np.arange(len(rows)) if indices is None else indices

    def sums_of(rows: np.ndarray, positions: np.ndarray) -> LogSum:
        return over_chunks(variables, encoded(variables, rows, numbers[positions]))

    pieces = []
    for sums, done in in_blocks(sums_of, rows, batch_size):
        highest, total = (part.astype(np.float64) for part in sums)
        pieces.append(highest + np.log(total) - np.log(num_samples))
        progress(done)
    return np.concatenate(pieces)


def _log_weights(vae: VAE, block: _Block, samples: Array) -> Array:
    """log p(x|z) + log p(z) - log q(z|x).  samples: (S,) -> (S, B) nats."""
    x, features, keys = block
    # + 1: sample 0 of an example is not the draw that its ELBO uses.
    draws = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, samples + 1)
    z, log_q = jax.vmap(lambda keys: vae.posterior(features, keys)[:2])(draws)
    flat = z.reshape(-1, z.shape[-1])
    output = vae.output(flat).reshape(*log_q.shape, *x.shape[1:])
    log_likelihood = jax.vmap(lambda output: event_log_prob(vae.likelihood(output), x))(output)
    return log_likelihood + vae.prior.log_prob(flat).reshape(log_q.shape) - log_q


def _over_chunks(
    with_chunk: Callable[..., LogSum], firsts: np.ndarray
) -> Callable[[Any, _Block], LogSum]:
    """`with_chunk` for all `firsts`, as one program."""

    @jax.jit
    def program(variables: Any, block: _Block) -> LogSum:
        def step(sums: LogSum, first: Array) -> tuple[LogSum, None]:
            return with_chunk(sums, variables, block, first), None

        return jax.lax.scan(step, no_terms((len(block.x),)), jnp.asarray(firsts))[0]

    return program
