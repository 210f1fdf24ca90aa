"""Every collective, and everything that depends on where an example lies.

`axis_name` is the name of the mapped device axis, or None when nothing is mapped (plain `jit`);
then gathering and averaging are the identity, so that one objective runs under `jit`, `pmap` and
`vmap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaejax.types import Array, Device

AXIS = "data"


def gathered(tree: Any, axis_name: str | None) -> Any:
    """The global batch on every device.  Leaves (B, ...) -> (global B, ...), in global order."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), tree)


def averaged(tree: Any, axis_name: str | None) -> Any:
    """Mean over devices of every leaf; equal shards make it the mean over the global batch."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def positions(num_rows: int, axis_name: str | None) -> Array:
    """Positions of this device's rows in the global batch.  -> (num_rows,) int32."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_rows
    return first + jnp.arange(num_rows)


def local_rows(array: Array, num_rows: int, axis_name: str | None) -> Array:
    """This device's rows of a global array.  (global B, ...) -> (num_rows, ...)."""
    return array[positions(num_rows, axis_name)]


def example_keys(key: Array, indices: Array) -> Array:
    """One key per example, a function of `key` and its index alone.  (B,) -> (B,) keys."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def replicated(tree: Any, devices: Sequence[Device]) -> Any:
    """`tree` on every device, laid out as `pmap` returns it; any other layout compiles twice."""
    return jax.device_put(tree, NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec()))
