"""Every weighted cost of a method on a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from vaejax.data.arrays import Rows
from vaejax.data.transforms import Transform
from vaejax.models.vae import VAE
from vaejax.training.state import COSTS, TrainState, stream_key
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

    def block(k: int) -> np.ndarray:
        return rows[k % count * size : (k % count + 1) * size]

    @jax.jit
    def metrics_of(variables: Any, rows: Array, pair_rows: Array, index: int) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for position, player in enumerate(players.values()):
            root = jax.random.fold_in(stream_key(seed, COSTS), position)
            batch = make_batch(
                rows, pair_rows, transform=transform, root=root, step=index, train=False
            )
            loss = nn.apply(player.loss, model)
            found |= loss(variables, batch, state.step, False)[1]
        return found

    variables = state.variables()
    values = []
    for k in range(count):
        # An independent second batch: the block before, or the same one shifted if it is alone.
        pair_rows = block(k - 1) if count > 1 else np.roll(block(k), size // 2, axis=0)
        values.append(metrics_of(variables, block(k), pair_rows, k))
    return {name: np.array([float(v[name]) for v in values]) for name in values[0]}, size
