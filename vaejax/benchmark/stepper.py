"""Our training step, as `vaejax train` runs it, ready to be timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from vaejax.data.arrays import Dataset
from vaejax.memory import program_memory
from vaejax.training.feed import make_feed, mapped_steps
from vaejax.training.plan import Plan, lone_plan
from vaejax.training.replicas import make_plan, replica_configs
from vaejax.training.run import Run
from vaejax.types import Device


class Compilation(NamedTuple):
    """What it took to make the program of a step, and the memory that the program takes."""

    lower_seconds: float  # tracing and lowering
    compile_seconds: float
    memory: dict[str, int]  # bytes on one device; the train split is an argument if resident


class Stepper:
    """A plan as `vaejax train` runs it, on `devices`; the caller lets it `run`."""

    def __init__(self, plan: Plan, devices: Sequence[Device]):
        self.plan, self.supply, self._devices = plan, plan.supply(devices), devices
        self._program = mapped_steps(plan.train_step, devices, self.supply)
        self._source, self._step = self.supply.source(devices), 0
        self.state = plan.placed_state(devices)

    def run(self, num_steps: int) -> float:
        """That many steps, the last one waited for.  -> seconds; the first call also compiles."""
        most, first, began = self.supply.most, self._step, time.perf_counter()
        self._step += num_steps
        starts = range(first, self._step, most)
        parts = list(map(range, starts, (*starts[1:], self._step)))
        for dispatch in make_feed(self.supply, self._source, self._devices, parts):
            self.state, _ = self._program(self.state, *dispatch.arguments)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began


def make_run(config: ConfigDict, dataset: Dataset) -> Run:
    """A run of `config` that nothing is written of.  Raises ValueError."""
    return Run(config, Path("never written"), dataset)


def our_stepper(config: ConfigDict, dataset: Dataset, devices: Sequence[Device]) -> Stepper:
    """The training of `config` on `devices`, from its first step.  Raises ValueError."""
    return Stepper(lone_plan(make_run(config, dataset)), devices)


def replica_stepper(
    config: ConfigDict,
    dataset: Dataset,
    devices: Sequence[Device],
    num_replicas: int,
    vectorized: bool,
) -> Stepper:
    """`our_stepper` for that many seeds as one program, side by side or in turn."""
    sweep = {"seed": list(range(num_replicas))}
    runs = [make_run(one, dataset) for one in replica_configs(config, sweep).values()]
    return Stepper(make_plan(runs, sweep, vectorized), devices)


def compilation(plan: Plan, devices: Sequence[Device]) -> Compilation:
    """Trace, lower and compile the program of `plan`, without data or the persistent cache."""
    supply = plan.supply(devices)
    program: Any = mapped_steps(plan.train_step, devices, supply)
    first = next(make_feed(supply, supply.source_shape(devices), devices, [range(1)]))
    with _without_cache():
        began = time.perf_counter()
        lowered = program.lower(plan.state_shapes(devices), *first.arguments)
        middle = time.perf_counter()
        compiled = lowered.compile()
        seconds = middle - began, time.perf_counter() - middle
    return Compilation(*seconds, program_memory(compiled))


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it remembers whether it was on
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
