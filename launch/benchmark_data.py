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
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from vaejax.config import load_config, overridden
from vaejax.data.batches import batch_indices
from vaejax.data.public import prepared_folder
from vaejax.data.sources import dataset_from, make_transform
from vaejax.objectives.regularizers import make_method
from vaejax.parallel import AXIS, replicated
from vaejax.training.feed import make_feed, mapped_step
from vaejax.training.state import initial_state
from vaejax.training.step import make_train_step

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
    counts = {"resident": arguments.batches, "streamed": arguments.batches, "decoded": 10}
    feeds = {way: feed_of(way, config, dataset, devices) for way in WAYS}
    if prepared_folder(str(config.dataset)) is None:
        del feeds["decoded"]
    steps = {way: delivery(way, devices) for way in feeds}
    report("delivery alone", config, steps, feeds, counts, arguments)
    steps = {way: training(way, config, dataset, devices) for way in feeds}
    counts = {"resident": arguments.steps, "streamed": arguments.steps, "decoded": 10}
    report("training", config, steps, feeds, counts, arguments)


def feed_of(way: str, config: Any, dataset: Any, devices: Any) -> Iterator[tuple[Any, ...]]:
    """What a mapped step takes, for ever."""
    if way != "decoded":
        given = {"seed": 0, "steps": range(10**6), "batch_size": config.batch_size}
        return make_feed(dataset, devices, way == "resident", (0,), **given)
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(prepared_folder(str(config.dataset))).as_data_source(
        "train"
    )

    def decoded(step: int) -> np.ndarray:
        indices = batch_indices(0, step, len(source), config.batch_size)
        return np.stack([example["image"] for example in source.__getitems__(indices.tolist())])[
            None
        ]

    return ((decoded(step),) for step in itertools.count())


def delivery(way: str, devices: Any) -> Stepper:
    """Nothing but the rows, on the device and in use."""

    def step(state: Any, rows: Any) -> Any:
        return state + rows.sum(dtype=np.int32), {}

    return Stepper(mapped_step(step, devices, way == "resident", (0,)), np.zeros((), np.int32))


def training(way: str, config: Any, dataset: Any, devices: Any) -> Stepper:
    """The training step of the config."""
    num_train = len(dataset.splits["train"])
    model, objective = make_method(config, dataset.x_shape, num_train, AXIS)
    step = make_train_step(
        model,
        objective.players,
        transform=make_transform(config, dataset, model.likelihood.unit_interval),
        seed=0,
        axis_name=AXIS,
    )
    state = initial_state(model, objective.players, 0, dataset.x_shape)
    return Stepper(mapped_step(step, devices, way == "resident", (0,)), replicated(state, devices))


class Stepper:
    """A mapped step and its state; `run` takes some steps and waits for the last."""

    def __init__(self, step: Callable[..., Any], state: Any):
        self.step, self.state = step, state

    def run(self, feed: Iterator[tuple[Any, ...]], count: int) -> float:
        """-> seconds."""
        began = time.perf_counter()
        for arguments in itertools.islice(feed, count):
            self.state, _ = self.step(self.state, *arguments)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began


def report(
    what: str, config: Any, steppers: Any, feeds: Any, counts: dict[str, int], arguments: Any
) -> None:
    """Rounds of every way in turn, and a line for each."""
    rates: dict[str, list[float]] = {way: [] for way in steppers}
    for stepper, feed in zip(steppers.values(), feeds.values(), strict=True):
        stepper.run(feed, 3)  # compiles, and fills what is read ahead
    for _ in range(arguments.rounds):
        for way, stepper in steppers.items():
            seconds = stepper.run(feeds[way], counts[way])
            rates[way].append(counts[way] * config.batch_size / seconds)
    base = np.array(rates["resident"])
    print(f"{what}: examples/s, median (range), and time of a batch over that of resident")
    for way, values in rates.items():
        ratios = base / np.array(values)
        print(
            f"  {way:<9} {np.median(values):>12,.0f} ({min(values):,.0f} .. {max(values):,.0f})"
            f"   x {np.median(ratios):.3f} ({ratios.min():.3f} .. {ratios.max():.3f})"
        )


if __name__ == "__main__":
    main()
