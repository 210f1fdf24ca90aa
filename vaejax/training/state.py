"""Everything that training changes: arrays, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from vaejax.data.transforms import Transform
from vaejax.models.initialization import evaluated_by_numpy
from vaejax.models.vae import VAE, traced_variables
from vaejax.parallel import example_keys
from vaejax.types import Array, Player

# Streams of random numbers: folded into the seed's key first, so that no two purposes share a draw.
INIT, TRAIN, EVALUATE, COSTS, SAMPLE, OBSERVE, METRIC, CHAIN, DENSITY = range(9)


class TrainState(struct.PyTreeNode):
    """step: () int32, the number of updates done; opt_state by player; ema {} when it is off."""

    step: Array
    params: Mapping[str, Any]
    opt_state: Mapping[str, Any]
    stats: Mapping[str, Any]
    ema: Mapping[str, Any]

    def variables(self) -> dict[str, Any]:
        """What evaluation and sampling use: the averaged parameters where they are kept."""
        return {"params": self.ema or self.params, "batch_stats": self.stats}


def averaged_weights(states: Sequence[TrainState]) -> TrainState:
    """The last of `states`, with the mean of the parameters of all for evaluation and sampling.

    The mean is of what each of them evaluates with, as in arXiv 1803.05407, and so are statistics
    of batch norm, which that paper would take anew from the data.  Parameters that are trained
    further are left as they were.  They are to be states of one run: what is checked is that they
    have one shape.  Raises ValueError without states, and for those of different shapes.

    >>> steps = vaejax.saved_steps("runs/digits")
    >>> states = [vaejax.load("runs/digits", step)[1] for step in steps]
    >>> z = vaejax.embed(model, vaejax.averaged_weights(states), x)
    """
    each = [state.variables() for state in states]
    shapes = {str(jax.tree.map(jnp.shape, variables)) for variables in each}
    if len(shapes) != 1:
        raise ValueError(f"{len(each)} states of {len(shapes)} models; at least one, all of one")
    mean = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), axis=0), *each)
    return states[-1].replace(ema=mean["params"], stats=mean["batch_stats"])


def stream_key(seed: int | Array, stream: int) -> Array:
    """The root key of one purpose.  -> () typed key."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def observed(transform: Transform, rows: Array | np.ndarray, indices: Array | np.ndarray) -> Array:
    """x of examples of a split, in evaluation.  rows: (B, *X) raw, indices: (B,) -> (B, *X).

    What is drawn depends on the index alone: all runs are evaluated on the same x.
    """
    return transform.evaluate(
        jnp.asarray(rows), example_keys(stream_key(0, OBSERVE), jnp.asarray(indices))
    )


def owned(params: Mapping[str, Any], player: Player) -> dict[str, Any]:
    """The parameter groups that `player` updates."""
    return {group: params[group] for group in player.owns}


def _word(seed: int | Array) -> np.uint32:
    number = operator.index(seed)
    if not 0 <= number < 2**32:
        raise ValueError(f"seed {number} is not from 0 to {2**32 - 1}")
    return np.uint32(number)


def initial_state(
    model: VAE,
    players: Mapping[str, Player],
    seed: int,
    x_shape: tuple[int, ...],
    ema_decay: float = 0.0,
) -> TrainState:
    """The state before the first update, a function of the seed alone.

    x_shape: of one example, `dataset.x_shape`.  ema_decay: above 0, an average of the parameters is
    kept, as `make_train_step` of the same decay updates it.  Raises ValueError for a seed that is
    not from 0 to 2**32 - 1, and TypeError for what is not an integer.

    >>> start = vaejax.initial_state(model, players, seed=0, x_shape=(8, 8, 1))
    >>> int(start.step), sorted(start.params)[:2]
    (0, ['critic', 'decoder'])
    """
    return make_initial_state(model, players, x_shape, ema_decay)(seed)


def make_initial_state(
    model: VAE, players: Mapping[str, Player], x_shape: tuple[int, ...], ema_decay: float = 0.0
) -> Callable[[int | Array], TrainState]:
    """`initial_state` of several seeds, traced once; of one that is traced, too."""

    def traced(seed: Array) -> TrainState:
        params, stats = traced_variables(model, x_shape, stream_key(seed, INIT))
        opt_state = {name: each.tx.init(owned(params, each)) for name, each in players.items()}
        ema = jax.tree.map(jnp.copy, params) if ema_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, stats, ema)

    evaluated = evaluated_by_numpy(traced)

    def state_of(seed: int | Array) -> TrainState:
        return evaluated(seed if isinstance(seed, Tracer) else _word(seed))

    return state_of
