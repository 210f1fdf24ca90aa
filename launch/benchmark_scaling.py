"""What more devices cost: the time of a training step on simulated devices over that on one.

    .venv/bin/python launch/benchmark_scaling.py --config configs/two_moons.py

Simulated devices share the cores of this machine, so that nothing can get faster than the cores
allow; what is measured is what the division of the work adds.  Strong: the same batch on all
devices together.  Weak: the batch of the config on each of them, so that a step on n devices has
n times the work; its time is divided by n.  The numbers of devices alternate within one process;
medians over the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import os

import jax
import numpy as np

from vaejax.benchmark.stepper import Stepper, our_stepper
from vaejax.config import load_config, overridden
from vaejax.data.sources import dataset_from

COUNTS = (1, 2, 4, 8)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/two_moons.py")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="of a round")
    arguments, overrides = parser.parse_known_args()
    jax.config.update("jax_num_cpu_devices", COUNTS[-1])
    # Devices that wait for each other on few cores need their programs one at a time.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    config = overridden(load_config(arguments.config), overrides).copy_and_resolve_references()
    dataset, batch_size = dataset_from(config), config.batch_size
    name = f"{config.regularizer} x {config.prior} on {dataset.name}"
    print(f"{name}, batch of {batch_size}, {len(os.sched_getaffinity(0))} cores")
    for kind in ("strong", "weak"):
        steppers = {}
        for count in COUNTS:
            with config.unlocked():
                config.batch_size = batch_size * (count if kind == "weak" else 1)
            if config.batch_size % count == 0:
                steppers[count] = our_stepper(config, dataset, jax.local_devices()[:count])
        report(kind, steppers, arguments.rounds, arguments.steps)


def report(kind: str, steppers: dict[int, Stepper], rounds: int, steps: int) -> None:
    """Rounds of every number of devices in turn, and a line for each."""
    seconds: dict[int, list[float]] = {count: [] for count in steppers}
    for stepper in steppers.values():
        stepper.run(3 * stepper.supply.most)  # compiles
    for _ in range(rounds):
        for count, stepper in steppers.items():
            share = count if kind == "weak" else 1
            seconds[count].append(stepper.run(steps) / steps / share)
    base = np.array(seconds[1])
    print(f"{kind} scaling: microseconds of a step, median, and over that on one device (range)")
    for count, values in seconds.items():
        ratios = np.array(values) / base
        print(
            f"  {count} devices {1e6 * np.median(values):>10,.0f}"
            f"   x {np.median(ratios):.2f} ({ratios.min():.2f} .. {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main()
