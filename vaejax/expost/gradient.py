"""Densities that are trained by gradient, with held-out codes to stop by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from vaejax.expost.density import Standardized
from vaejax.parallel import example_keys
from vaejax.progress import ProgressReport
from vaejax.training.validation import over_split
from vaejax.types import Array

_AT_ONCE = 4_096  # held-out codes

# (params, u (B, D), keys (B,)) -> (B,) nats, what is lowered
Costs = Callable[[Any, Array, Array], Array]


class Trained(NamedTuple):
    """The parameters whose held-out cost was lowest, and how it went."""

    params: Any
    notes: dict[str, Any]


def trained(
    costs: Costs,
    params: Any,
    codes: Standardized,
    row: Mapping[str, Any],
    key: Array,
    progress: ProgressReport,
) -> Trained:
    """Lower the mean of `costs` by Adam, its rate falling to 0 along a cosine.

    Batches are drawn with replacement.  Every `eval_every` steps the held-out mean is taken, each
    code with a key of its own that stays the same; after `patience` evaluations that found no
    better one training ends, and the best parameters count, those of the start included.
    """
    for_batches, for_held_out = jax.random.split(key)
    tx = optax.chain(
        optax.clip_by_global_norm(10.0),  # one outlier must not undo a flow
        optax.adam(optax.cosine_decay_schedule(row["learning_rate"], row["num_steps"])),
    )
    several = _make_steps(costs, tx, jnp.asarray(codes.train, jnp.float32), row, for_batches)
    held_out_cost = _make_held_out_cost(costs, np.asarray(codes.held_out, "f4"), for_held_out)
    carry = _Carry(params, tx.init(params), jnp.zeros((), jnp.int32))
    best, lowest, best_step, since = params, held_out_cost(params), 0, 0
    while int(carry.step) < row["num_steps"] and since < row["patience"]:
        carry = several(carry)
        cost = held_out_cost(carry.params)
        since += 1
        if cost < lowest:
            best, lowest, best_step, since = carry.params, cost, int(carry.step), 0
        progress.update(int(carry.step))
    cost = lowest - codes.log_det  # that of the codes as they are
    notes = {"steps": int(carry.step), "best_step": best_step, "held_out_cost": cost}
    return Trained(jax.tree.map(np.asarray, best), notes)


class _Carry(NamedTuple):
    params: Any
    optimizer: Any
    step: Array


def _make_steps(
    costs: Costs, tx: optax.GradientTransformation, train: Array, row: Mapping[str, Any], key: Array
) -> Callable[[_Carry], _Carry]:
    """The updates between two evaluations."""

    def updated(carry: _Carry, _: None) -> tuple[_Carry, None]:
        draw, noise = jax.random.split(jax.random.fold_in(key, carry.step))
        chosen = jax.random.randint(draw, (row["batch_size"],), 0, len(train))
        keys = jax.random.split(noise, row["batch_size"])
        gradient = jax.grad(lambda params: costs(params, train[chosen], keys).mean())(carry.params)
        updates, optimizer = tx.update(gradient, carry.optimizer, carry.params)
        return _Carry(optax.apply_updates(carry.params, updates), optimizer, carry.step + 1), None

    count = min(row["eval_every"], row["num_steps"])
    return jax.jit(lambda carry: lax.scan(updated, carry, length=count)[0])


def _make_held_out_cost(costs: Costs, held_out: np.ndarray, key: Array) -> Callable[[Any], float]:
    @jax.jit
    def of_block(params: Any, u: Array, indices: Array) -> Array:
        return costs(params, u, example_keys(key, indices))

    def mean(params: Any) -> float:
        values = over_split(lambda *block: of_block(params, *block), held_out, _AT_ONCE)
        return float(np.mean(values, dtype=np.float64))

    return mean
