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
from vaejax.data.sources import make_transform
from vaejax.models.vae import VAE
from vaejax.objectives.regularizers import make_method
from vaejax.parallel import AXIS, replicated
from vaejax.training.feed import (
    Dispatch,
    Supply,
    is_resident,
    make_feed,
    mapped_steps,
    steps_per_dispatch,
)
from vaejax.training.replicas import make_plan, replica_configs
from vaejax.training.run import Run
from vaejax.training.state import TrainState, initial_state
from vaejax.training.step import TrainStep, make_train_step
from vaejax.types import Device


class Compilation(NamedTuple):
    """What it took to make the program of a step, and the memory that the program takes."""

    lower_seconds: float  # tracing and lowering
    compile_seconds: float
    memory: dict[str, int]  # bytes on one device; the train split is an argument if resident


class Stepper:
    """A program of several steps, its state and its feed; the caller lets it `run`."""

    def __init__(self, program: Any, state: TrainState, supply: Supply, devices: Sequence[Device]):
        self._program, self.state, self.supply, self._devices = program, state, supply, devices
        self._source, self._step = supply.source(devices), 0

    def run(self, num_steps: int) -> float:
        """That many steps, the last one waited for.  -> seconds; the first call also compiles."""
        began = time.perf_counter()
        for dispatch in self._feed(num_steps):
            self.state, _ = self._program(self.state, *dispatch.arguments)
        jax.block_until_ready(self.state)
        self._step += num_steps
        return time.perf_counter() - began

    def compilation(self) -> Compilation:
        """Trace, lower and compile the program anew, without the persistent compilation cache."""
        arguments = self.state, *next(self._feed(1)).arguments
        with _without_cache():
            began = time.perf_counter()
            lowered = self._program.lower(*arguments)
            middle = time.perf_counter()
            compiled = lowered.compile()
            seconds = middle - began, time.perf_counter() - middle
        return Compilation(*seconds, program_memory(compiled))

    def _feed(self, num_steps: int) -> Iterator[Dispatch]:
        starts = range(self._step, self._step + num_steps, self.supply.most)
        ends = (*starts[1:], self._step + num_steps)
        return make_feed(self.supply, self._source, self._devices, list(map(range, starts, ends)))


def our_stepper(config: ConfigDict, dataset: Dataset, devices: Sequence[Device]) -> Stepper:
    """The training of `config` on `devices`, from its first step.  Raises ValueError."""
    model, step, state = training(config, dataset, AXIS)
    resident = is_resident(str(config.placement), dataset, devices)
    most = steps_per_dispatch(config.steps_per_dispatch, str(config.convolutions))
    streams = 1 if model.critic is None else 2
    supply = Supply(dataset, config.batch_size, config.seed, streams, resident, most)
    program = mapped_steps(step, devices, supply)
    return Stepper(program, replicated(state(), devices), supply, devices)


def replica_stepper(
    config: ConfigDict,
    dataset: Dataset,
    devices: Sequence[Device],
    num_replicas: int,
    vectorized: bool,
) -> Stepper:
    """`our_stepper` for that many seeds as one program, side by side or in turn."""
    sweep = {"seed": list(range(num_replicas))}
    configs = replica_configs(config, sweep)
    runs = [Run(replica, Path("not written"), dataset) for replica in configs.values()]
    plan = make_plan(runs, sweep, vectorized)
    supply = our_stepper(config, dataset, devices).supply._replace(seeds=plan.seeds)
    program = mapped_steps(plan.train_step, devices, supply)
    return Stepper(program, replicated(plan.state(), devices), supply, devices)


def training(
    config: ConfigDict, dataset: Dataset, axis_name: str | None = None
) -> tuple[VAE, TrainStep, Any]:
    """The model of `config`, its training step, and a function that gives the first state."""
    num_train = len(dataset.splits["train"])
    model, objective = make_method(config, dataset.x_shape, num_train, axis_name)
    transform = make_transform(config, dataset, model.likelihood.unit_interval)
    given: Any = {"seed": config.seed, "ema_decay": config.ema_decay}
    step = make_train_step(
        model, objective.players, transform=transform, axis_name=axis_name, **given
    )

    def state() -> TrainState:
        return initial_state(model, objective.players, x_shape=dataset.x_shape, **given)

    return model, step, state


def program_memory(compiled: Any) -> dict[str, int]:
    """Bytes that a compiled program needs on one device; what it overwrites counts once."""
    found = compiled.memory_analysis()
    arguments, results = found.argument_size_in_bytes, found.output_size_in_bytes
    sizes = {
        "arguments": arguments,
        "results": results - found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
    return {**sizes, "total": sum(sizes.values())}


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
