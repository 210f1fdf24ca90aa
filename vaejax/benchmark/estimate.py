"""What a run will cost, told before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vaejax.benchmark.communication import communication
from vaejax.benchmark.operations import step_operations
from vaejax.benchmark.stepper import compilation, make_run
from vaejax.data.arrays import Dataset
from vaejax.training.plan import lone_plan
from vaejax.types import Device


def num_parameters(config: ConfigDict, dataset: Dataset) -> dict[str, int]:
    """Parameters by group, those without any left out; nothing is computed."""
    groups = {
        group: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for group, tree in make_run(config, dataset).shapes().params.items()
    }
    return {group: count for group, count in groups.items() if count}


def cost_estimate(
    config: ConfigDict, dataset: Dataset, devices: Sequence[Device] | None = None
) -> dict[str, Any]:
    """Parameters, operations of a step, what it communicates, memory of its program on a device.

    See `operations` and `communication`.  Compiles the step without data, and takes none.
    `devices`: by default the first one.
    """
    devices = devices or jax.local_devices()[:1]
    cost = compilation(lone_plan(make_run(config, dataset)), devices)
    return {
        "parameters": num_parameters(config, dataset),
        "operations_per_step": step_operations(config, dataset),
        "num_steps": config.num_steps,
        "batch_size": config.batch_size,
        "num_devices": len(devices),
        "sent_per_step": communication(config, dataset, len(devices)).sent(len(devices)),
        "memory": cost.memory,
        "train_bytes": dataset.splits["train"].nbytes,
        "compile_seconds": cost.lower_seconds + cost.compile_seconds,
    }


def estimate_text(estimate: Mapping[str, Any]) -> str:
    """`cost_estimate` as one paragraph."""
    groups = estimate["parameters"]
    parts = ", ".join(f"{group} {count:,}" for group, count in groups.items())
    operations, num_steps = estimate["operations_per_step"], estimate["num_steps"]
    memory, num_devices = estimate["memory"], estimate["num_devices"]
    each, sent = "", ""
    if num_devices > 1:
        each = " on each device"
        sent = f" Each device sends {quantity(estimate['sent_per_step'], 'B')} in a step."
    return (
        f"{sum(groups.values()):,} parameters ({parts}). A step of {estimate['batch_size']} "
        f"examples takes {quantity(operations, 'FLOP')} in matrix products and convolutions, "
        f"{num_steps:,} steps {quantity(operations * num_steps, 'FLOP')}. Its program needs "
        f"{quantity(memory['total'], 'B')} of memory{each}: {quantity(memory['arguments'], 'B')} "
        f"of state and data (the train split is {quantity(estimate['train_bytes'], 'B')}), "
        f"{quantity(memory['temporary'], 'B')} of intermediate results. It compiled in "
        f"{estimate['compile_seconds']:.1f} s.{sent}"
    )


def quantity(value: float, unit: str) -> str:
    """Three digits and an SI prefix: 2.81 GFLOP."""
    if value <= 0:
        return f"0 {unit}"
    power = min(max(int(math.log10(value) // 3), 0), 6)
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}"
