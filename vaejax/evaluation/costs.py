"""Every weighted cost of a method on a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from vaejax.models.vae import VAE
from vaejax.training.state import COSTS, TrainState, stream_key
from vaejax.training.step import make_batch
from vaejax.types import Array, Player


def split_costs(
    model: VAE,
    players: Mapping[str, Player],
    state: TrainState,
    rows: np.ndarray,
    *,
    batch_size: int,
    scale: float,
    seed: int,
) -> tuple[dict[str, np.ndarray], int]:
    """Metrics of every player's loss, in evaluation mode, by block of `batch_size` examples.

    rows: (N, *X) raw -> {name: (num_blocks,)} and the block size.  Some costs estimate a density
    from the examples of a block, so the block size is part of what they mean: the training batch
    size, or the whole split where that is smaller.  The rest that fills no block is left out.
    """
    size = min(batch_size, len(rows))
    count = len(rows) // size
    stacked = rows[: count * size].reshape(count, size, *rows.shape[1:])
    # An independent second batch: the next block, or the same one shifted where there is one only.
    pairs = np.roll(stacked, 1, axis=0) if count > 1 else np.roll(stacked, size // 2, axis=1)

    @jax.jit
    def metrics_of(variables: Any, rows: Array, pair_rows: Array, block: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for position, player in enumerate(players.values()):
            root = jax.random.fold_in(stream_key(seed, COSTS), position)
            batch = make_batch(rows, pair_rows, scale=scale, root=root, step=block)
            loss = nn.apply(player.loss, model)
            found |= loss(variables, batch, state.step, False)[1]
        return found

    variables = state.variables()
    values = [metrics_of(variables, stacked[k], pairs[k], k) for k in range(count)]
    return {name: np.array([float(v[name]) for v in values]) for name in values[0]}, size
