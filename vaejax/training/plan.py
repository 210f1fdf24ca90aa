"""What is trained as one program: its runs, its step, what it sees and where it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from vaejax.parallel import AXIS, placed, shapes
from vaejax.training import feed as feeding
from vaejax.training.run import Run
from vaejax.training.state import TrainState
from vaejax.training.step import TrainStep
from vaejax.types import Device


class Plan(NamedTuple):
    """What is trained as one program: a run, or replicas with a leading axis for all they have."""

    runs: Sequence[Run]
    is_sweep: bool
    train_step: TrainStep
    like: TrainState  # shapes
    state: Callable[[], TrainState]  # where it starts

    def each(self, tree: Any) -> list[Any]:
        """`tree` of every run, on the host where it is one of several."""
        if not self.is_sweep:
            return [tree]
        leaves, structure = jax.tree.flatten(jax.device_get(tree))
        each = ([leaf[r] for leaf in leaves] for r in range(len(self.runs)))
        return [structure.unflatten(one) for one in each]

    def supply(self, devices: Sequence[Device]) -> feeding.Supply:
        """What its steps see."""
        run = self.runs[0]
        config, dataset = run.config, run.dataset
        return feeding.Supply(
            dataset,
            config.batch_size,
            tuple(run.config.seed for run in self.runs),
            self.is_sweep,
            num_streams=1 if run.model.critic is None else 2,  # a critic sees a second batch
            is_resident=feeding.is_resident(config.placement, dataset, devices),
            most=feeding.steps_per_dispatch(config.steps_per_dispatch, config.convolutions),
        )

    def placed_state(self, devices: Sequence[Device]) -> TrainState:
        """Where it starts, on `devices`."""
        return placed(self.state(), devices, 0 if self.is_sweep else None)

    def state_shapes(self, devices: Sequence[Device]) -> TrainState:
        """What `placed_state` gives, without data."""
        return shapes(self.like, devices, 0 if self.is_sweep else None)


def lone_plan(run: Run) -> Plan:
    """`run` by itself, from its start, with a batch in parts over devices."""
    return Plan([run], False, run.train_step(AXIS, {}), run.shapes(), run.start)
