"""Every collective, and everything that depends on where an example lies.

`axis_name` is the name of the mapped device axis, or None when nothing is mapped (plain `jit`);
then gathering and averaging are the identity, so that one objective runs under `jit`, `pmap` and
`vmap`.
"""

from __future__ import annotations

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


def replicated(tree: Any, devices: Sequence[Device]) -> Any:
    """`tree` on every device, laid out as `pmap` returns it; any other layout compiles twice."""
    return jax.device_put(tree, _layout(devices))


def sharded(tree: Any, devices: Sequence[Device]) -> Any:
    """Leaves (devices, ...), each device with its part."""
    return jax.device_put(tree, _layout(devices, AXIS))


def compile_ahead(
    function: Any, like: Any, arguments: Sequence[Any], devices: Sequence[Device]
) -> None:
    """Compile a `pmapped` function for a replicated first argument of the shapes of `like`."""
    layout = _layout(devices)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout), like
    )
    function.lower(shapes, *arguments).compile()


def _layout(devices: Sequence[Device], *axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*axes))


def usable_devices(batch_size: int, num_devices: int | None = None) -> Sequence[Device]:
    """The local devices to map over: as many as divide the batch evenly, or the number asked for.

    Raises ValueError when that number is not there or does not divide the batch.
    """
    devices = jax.local_devices()
    if num_devices is None:
        largest = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
        return devices[:largest]
    if not 1 <= num_devices <= len(devices):
        raise ValueError(f"{num_devices} devices asked for; there are {len(devices)}")
    if batch_size % num_devices:
        raise ValueError(
            f"batch_size {batch_size} does not divide evenly over {num_devices} devices"
        )
    return devices[:num_devices]


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
