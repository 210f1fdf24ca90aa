"""Examples per second, by the way that they reach the model; and what a training step costs.

    .venv/bin/python launch/benchmark_data.py --config configs/mnist.py

The ways alternate within one process, so that their ratios hold on a busy machine as well; medians
over the rounds, with the smallest and the largest.  "decoded" takes every example from the TFDS
directory anew, as a loader without a cache would, and is left out where there is no such directory.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from vaejax.benchmark.stepper import Stepper, make_run, our_stepper
from vaejax.config import load_config, overridden
from vaejax.data.batches import batch_indices
from vaejax.data.public import prepared_folder
from vaejax.data.sources import dataset_from
from vaejax.training.plan import lone_plan

WAYS = ("resident", "streamed", "decoded")


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mnist.py")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="training steps per round")
    parser.add_argument("--batches", type=int, default=300, help="batches per round without a step")
    arguments, overrides = parser.parse_known_args()
    config = overridden(load_config(arguments.config), overrides)
    dataset = dataset_from(config)
    devices = jax.local_devices()[:1]
    print(f"{dataset.name}, batches of {config.batch_size}, one {devices[0].device_kind}")
    ways = [way for way in WAYS if way != "decoded" or prepared_folder(str(config.dataset))]
    alone, trained = (
        {way: runner(way, config, dataset, devices) for way in ways}
        for runner in (delivery, training_of)
    )
    rounds, few = arguments.rounds, {"decoded": 10}
    report("delivery alone", alone, dict.fromkeys(WAYS, arguments.batches) | few, rounds, config)
    report("training", trained, dict.fromkeys(WAYS, arguments.steps) | few, rounds, config)


class Runner(Protocol):
    """Takes that many steps, waits for the last, and tells the seconds."""

    def run(self, num_steps: int) -> float:
        """-> seconds."""
        ...


class Decoded:
    """A jitted step whose rows are decoded one batch at a time."""

    def __init__(self, step: Callable[..., Any], state: Any, config: Any):
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(prepared_folder(str(config.dataset)))
        self.source = builder.as_data_source("train")
        self.step, self.state, self.config = jax.jit(step, donate_argnums=0), state, config
        self.steps = itertools.count()

    def run(self, num_steps: int) -> float:
        """-> seconds."""
        began = time.perf_counter()
        for step in itertools.islice(self.steps, num_steps):
            self.state, _ = self.step(self.state, self.rows(step))
        jax.block_until_ready(self.state)
        return time.perf_counter() - began

    def rows(self, step: int) -> np.ndarray:
        """The batch of `step`, decoded.  -> (B, *X)."""
        seed, size = self.config.seed, self.config.batch_size
        indices = batch_indices(seed, step, len(self.source), size)
        return np.stack([row["image"] for row in self.source.__getitems__(indices.tolist())])


def delivery(way: str, config: Any, dataset: Any, devices: Any) -> Runner:
    """Nothing but the rows, on the device and in use."""

    def step(state: Any, rows: Any, *more: Any) -> Any:
        return state + rows.sum(dtype=np.int32), {}

    state = jax.device_put(np.zeros((), np.int32), devices[0])
    if way == "decoded":
        return Decoded(step, state, config)
    plan = lone_plan(make_run(placed(config, way), dataset))
    return Stepper(plan._replace(train_step=step, like=state, state=lambda: state), devices)


def training_of(way: str, config: Any, dataset: Any, devices: Any) -> Runner:
    """The training step of the config."""
    if way != "decoded":
        return our_stepper(placed(config, way), dataset, devices)
    run = make_run(config, dataset)
    return Decoded(run.train_step(None, {}), run.start(), config)


def placed(config: Any, way: str) -> Any:
    """`config` with its train split on the device, or streamed."""
    config = config.copy_and_resolve_references().unlock()
    config.placement = way
    return config


def report(
    what: str, runners: Mapping[str, Runner], counts: dict[str, int], rounds: int, config: Any
) -> None:
    """Rounds of every way in turn, and a line for each."""
    seconds: dict[str, list[float]] = {way: [] for way in runners}
    for runner in runners.values():
        runner.run(3)  # compiles
    for _ in range(rounds):
        for way, runner in runners.items():
            seconds[way].append(runner.run(counts[way]) / counts[way])
    base = np.array(seconds["resident"])
    print(f"{what}: examples/s, median (range), and time of a batch over that of resident")
    for way, values in seconds.items():
        rates, ratios = config.batch_size / np.array(values), np.array(values) / base
        print(
            f"  {way:<9} {np.median(rates):>12,.0f} ({rates.min():,.0f} .. {rates.max():,.0f})"
            f"   x {np.median(ratios):.3f} ({ratios.min():.3f} .. {ratios.max():.3f})"
        )


if __name__ == "__main__":
    main()
