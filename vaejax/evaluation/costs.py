"""Every weighted cost of a method on a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from vaejax.data.arrays import Rows
from vaejax.data.transforms import Transform, scaled
from vaejax.models.vae import VAE
from vaejax.training.state import COSTS, TrainState, observed, stream_key
from vaejax.training.step import make_batch
from vaejax.types import Array, Player


def split_costs(
    model: VAE,
    players: Mapping[str, Player],
    state: TrainState,
    rows: Rows,
    *,
    batch_size: int,
    transform: Transform,
    seed: int,
) -> tuple[dict[str, np.ndarray], int]:
    """Metrics of every player's loss, in evaluation mode, by block of `batch_size` examples.

    rows: (N, *X) raw -> {name: (num_blocks,)} and the block size.  Some costs estimate a density
    from the examples of a block, so the block size is part of what they mean: the training batch
    size, or the whole split where that is smaller.  The rest that fills no block is left out.
    """
    size = min(batch_size, len(rows))
    count = len(rows) // size

    @jax.jit
    def metrics_of(
        variables: Any, rows: Array, pair_rows: Array, indices: Array, pair: Array, block: int
    ) -> dict[str, Array]:
        x, pair_x = (observed(transform, *each) for each in ((rows, indices), (pair_rows, pair)))
        found: dict[str, Array] = {}
        for position, player in enumerate(players.values()):
            root = jax.random.fold_in(stream_key(seed, COSTS), position)
            batch = make_batch(x, pair_x, transform=scaled(1.0), root=root, step=block)
            loss = nn.apply(player.loss, model)
            found |= loss(variables, batch, state.step, False)[1]
        return found

    variables, values = state.variables(), []
    for k in range(count):
        indices = np.arange(k * size, (k + 1) * size)
        # An independent second batch: the block before, or the same one shifted if it is alone.
        pair = (indices - size) % (count * size) if count > 1 else np.roll(indices, size // 2)
        values.append(metrics_of(variables, rows[indices], rows[pair], indices, pair, k))
    return {name: np.array([float(v[name]) for v in values]) for name in values[0]}, size
