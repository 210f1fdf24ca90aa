"""Every collective, and everything that depends on where an example lies.

`axis_name` is the name of the mapped device axis, or None when nothing is mapped (plain `jit`);
then gathering and averaging are the identity, so that one objective runs under `jit`, `pmap` and
`vmap`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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


def placed(tree: Any, devices: Sequence[Device], axis: int | None = None) -> Any:
    """`tree` on every device, or its part of that axis of every leaf.

    Laid out as `pmapped` and `spread` return it; any other layout compiles twice.
    """
    return jax.device_put(tree, _layout(devices, axis))


def shapes(tree: Any, devices: Sequence[Device], axis: int | None = None) -> Any:
    """What `placed` gives, without data, to compile for."""
    layout = _layout(devices, axis)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout), tree
    )


def _layout(devices: Sequence[Device], axis: int | None) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), _partition(axis))


def _partition(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def usable_devices(
    count: int, num_devices: int | None = None, what: str = "batch_size"
) -> Sequence[Device]:
    """The local devices to map over: as many as divide `count` evenly, or the number asked for.

    Raises ValueError when that number is not there or does not divide `count`, which is `what`.
    """
    devices = jax.local_devices()
    if num_devices is None:
        return devices[: _largest_divisor(count, len(devices))]
    if not 1 <= num_devices <= len(devices):
        raise ValueError(f"{num_devices} devices asked for; there are {len(devices)}")
    if count % num_devices:
        raise ValueError(f"{what} {count} does not divide evenly over {num_devices} devices")
    return devices[:num_devices]


def _largest_divisor(count: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if count % n == 0)


def one_device_per_core(count: int) -> None:
    """Make JAX's CPU backend as many devices as there are cores and `count` divides evenly.

    Small programs leave cores idle, which others can use.  To be called before JAX finds its
    devices; leaves a number that the user has chosen.
    """
    settings: Any = jax.config
    chosen = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and settings.jax_num_cpu_devices < 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        jax.config.update("jax_num_cpu_devices", _largest_divisor(count, cores))


def pmapped(
    function: Callable[..., Any], devices: Sequence[Device], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """`function` on all `devices`, its first argument donated and its results without an axis.

    in_axes: 0 for an argument with a leading device axis, None for one that is equal everywhere.
    """
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=None,
        devices=devices,
        donate_argnums=(0,),
    )


def spread(
    function: Callable[..., Any],
    devices: Sequence[Device],
    in_axes: tuple[int | None, ...],
    out_axes: tuple[int | None, ...],
) -> Callable[..., Any]:
    """`function` on every device of `devices` for its part, its first argument donated.

    in_axes, out_axes: the axis that is in parts, None for what is equal everywhere.
    """
    mapped = jax.shard_map(
        function,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=tuple(map(_partition, in_axes)),
        out_specs=tuple(map(_partition, out_axes)),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)
