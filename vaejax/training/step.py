"""One update of every player, written for one device's shard and mapped over devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from vaejax.data.transforms import Transform
from vaejax.models.vae import VAE
from vaejax.parallel import averaged, example_keys, positions
from vaejax.training.state import TRAIN, TrainState, owned, stream_key
from vaejax.types import Array, Batch, Metrics, Player

TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_batch(
    rows: Array,
    pair_rows: Array | None,
    *,
    transform: Transform,
    root: Array,
    step: Array | int,
    axis_name: str | None = None,
) -> Batch:
    """Raw rows (B, *X) as a batch whose draws depend on (root, step, global position) alone."""
    key = jax.random.fold_in(root, step)
    example_key, batch_key, row_key, pair_key = jax.random.split(key, 4)
    index = positions(len(rows), axis_name)

    x, corrupted = transform.train(rows, example_keys(row_key, index))
    pair = None
    if pair_rows is not None:
        _, pair = transform.train(pair_rows, example_keys(pair_key, index))
    keys = example_keys(example_key, index)
    return Batch(x, keys, batch_key, pair, None if corrupted is x else corrupted)


def make_train_step(
    model: VAE,
    players: Mapping[str, Player],
    *,
    transform: Transform,
    seed: int,
    ema_decay: float = 0.0,
    rate: Callable[[Array], Array] | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    """`(state, rows, pair_rows=None) -> (state, metrics)`, for `jit`, or `pmap` over `axis_name`.

    rows, pair_rows: (B, *X) raw; the second where a critic needs it.  Draws depend on seed, step
    and position alone.  All players see the parameters before the update, times `rate` of the step.

    >>> step = jax.jit(vaejax.make_train_step(model, players, transform=transform, seed=0))
    >>> after, metrics = step(start, rows)
    """

    def train_step(
        state: TrainState, rows: Array, pair_rows: Array | None = None
    ) -> tuple[TrainState, Metrics]:
        params, opt_state, stats = dict(state.params), dict(state.opt_state), dict(state.stats)
        metrics: dict[str, Array] = {}
        for position, (name, player) in enumerate(players.items()):
            # Every player draws for itself: no two of them share a key.
            root = jax.random.fold_in(stream_key(seed, TRAIN), position)
            batch = make_batch(
                rows,
                pair_rows,
                transform=transform,
                root=root,
                step=state.step,
                axis_name=axis_name,
            )
            grads, seen, new_stats = gradients(model, player, state, batch, axis_name)
            mine = owned(state.params, player)
            updates, opt_state[name] = player.tx.update(grads, state.opt_state[name], mine)
            if rate is not None:
                updates = optax.tree.scale(rate(state.step), updates)
            groups: Any = optax.apply_updates(mine, updates)
            params |= groups
            # A forward pass also advances statistics of groups its player only reads: drop those.
            stats |= {group: new_stats[group] for group in player.owns if group in new_stats}
            metrics |= {**seen, f"grad_norm/{name}": jnp.linalg.norm(ravel_pytree(grads)[0])}
        ema: Any = optax.incremental_update(params, state.ema, 1 - ema_decay) if state.ema else {}
        return TrainState(state.step + 1, params, opt_state, stats, ema), metrics

    return train_step


def gradients(
    model: VAE, player: Player, state: TrainState, batch: Batch, axis_name: str | None = None
) -> tuple[dict[str, Any], Metrics, Mapping[str, Any]]:
    """Gradients of what the player owns, its metrics, and the statistics after its forward pass.

    Gradients and metrics are means over `axis_name`.
    """
    loss = nn.apply(player.loss, model, mutable=["batch_stats"])

    def loss_of_owned(groups: dict[str, Any]) -> tuple[Array, Any]:
        variables = {"params": {**state.params, **groups}, "batch_stats": state.stats}
        (value, metrics), updated = loss(variables, batch, state.step)
        return value, (metrics, updated.get("batch_stats", {}))

    grad = jax.grad(loss_of_owned, has_aux=True)
    grads, (metrics, stats) = grad(owned(state.params, player))
    return *averaged((grads, metrics), axis_name), stats
