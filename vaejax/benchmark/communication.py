"""What the devices tell each other in a training step, counted in its jaxpr.

A method says it all by itself: what it reduces or gathers is there to be counted, for any number of
devices, without one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from ml_collections import ConfigDict

from vaejax.benchmark.operations import inner_jaxprs
from vaejax.benchmark.stepper import make_run
from vaejax.data.arrays import Dataset
from vaejax.parallel import AXIS

_FIELDS = {"psum": 0, "psum_invariant": 0, "pmax": 0, "all_gather": 1, "reduce_scatter": 2}


class Communication(NamedTuple):
    """Bytes of whole arrays in a step: summed over devices, gathered, summed and then shared out.

    reduced: gradients and metrics, whatever the batch.  gathered, scattered: what couples the
    examples of a global batch, and its gradient.
    """

    reduced: int
    gathered: int
    scattered: int

    def sent(self, num_devices: int) -> float:
        """Bytes that each device sends around a ring of `num_devices`, which is the least."""
        share = (num_devices - 1) / num_devices
        return share * (2 * self.reduced + self.gathered + self.scattered)


def communication(config: ConfigDict, dataset: Dataset, num_devices: int) -> Communication:
    """Of a step of `config`, whose batch is that of all devices.  Nothing is computed.

    Raises ValueError for a batch that does not divide evenly.
    """
    if config.batch_size % num_devices:
        given = f"batch_size {config.batch_size} does not divide evenly"
        raise ValueError(f"{given} over {num_devices} devices")
    run = make_run(config, dataset)
    shape, dtype = dataset.x_shape, dataset.splits["train"].dtype
    rows = jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    batches = (rows,) if run.model.critic is None else (rows, rows)
    return communication_of(run.train_step(AXIS, {}), num_devices, run.shapes(), *batches)


def communication_of(
    function: Callable[..., Any], num_devices: int, replicated: Any, *shared: Any
) -> Communication:
    """Of `function`, mapped over devices that share the first axis of all but one argument."""
    specs = (PartitionSpec(), *(PartitionSpec(AXIS) for _ in shared))
    mapped = jax.shard_map(
        function,
        mesh=AbstractMesh((num_devices,), (AXIS,)),
        in_specs=specs,
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return Communication(*_of_jaxpr(jax.make_jaxpr(mapped)(replicated, *shared).jaxpr))


def _of_jaxpr(jaxpr: Any) -> list[int]:
    total = [0, 0, 0]
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _FIELDS:
            # The whole array is what comes out of a gather, and goes into the others.
            arrays = equation.outvars if name == "all_gather" else equation.invars
            total[_FIELDS[name]] += sum(_bytes(each.aval) for each in arrays)
            continue
        times = equation.params["length"] if name == "scan" else 1
        for inner in inner_jaxprs(equation.params.values()):
            total = [a + times * b for a, b in zip(total, _of_jaxpr(inner), strict=True)]
    return total


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize
