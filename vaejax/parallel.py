"""Every collective, and everything that depends on where an example lies.

`axis_name` is the name of the mapped device axis, or None when nothing is mapped (plain `jit`);
then, and on one device, gathering and averaging are the identity, so that one objective runs under
`jit`, `pmap` and `vmap`.

Several processes run the same program, each on its own devices, and see each other only here.  What
a process places or fetches are arrays of its own; `pmapped` puts them together.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaejax.types import Array, Device

AXIS = "data"


def is_shared(axis_name: str | None) -> bool:
    """Whether the mapped axis has other devices; of one, a collective would copy all it sees."""
    return axis_name is not None and jax.lax.axis_size(axis_name) > 1


def gathered(tree: Any, axis_name: str | None) -> Any:
    """The global batch on every device.  Leaves (B, ...) -> (global B, ...), in global order."""
    if not is_shared(axis_name):
        return tree
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), tree)


def averaged(tree: Any, axis_name: str | None) -> Any:
    """Mean over devices of every leaf; equal shards make it the mean over the global batch."""
    return jax.lax.pmean(tree, axis_name) if is_shared(axis_name) else tree


def positions(num_rows: int, axis_name: str | None) -> Array:
    """Positions of this device's rows in the global batch.  -> (num_rows,) int32."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_rows
    return first + jnp.arange(num_rows)


def local_rows(array: Array, num_rows: int, axis_name: str | None) -> Array:
    """This device's rows of a global array.  (global B, ...) -> (num_rows, ...)."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_rows
    return jax.lax.dynamic_slice_in_dim(array, first, num_rows)


def example_keys(key: Array, indices: Array) -> Array:
    """One key per example, a function of `key` and its index alone.  (B,) -> (B,) keys."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def placed(tree: Any, devices: Sequence[Device], axis: int | None = None) -> Any:
    """`tree` on every device of this process, or its part of that axis of every leaf.

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
    return NamedSharding(Mesh(np.array(own(devices)), (AXIS,)), _partition(axis))


def _partition(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def usable_devices(
    count: int, num_devices: int | None = None, what: str = "batch_size"
) -> Sequence[Device]:
    """The devices to map over: as many as divide `count` evenly, or the number asked for.

    Of several processes each has as many, and its ones stand together, in the order of processes.
    Raises ValueError when that number is not there or does not divide `count`, which is `what`.
    """
    processes = [jax.local_devices(process_index=p) for p in range(jax.process_count())]
    num, most = len(processes), min(map(len, processes))
    if num_devices is None:
        if count % num:
            raise ValueError(f"{what} {count} does not divide evenly over {num} processes")
        num_devices = num * _largest_divisor(count // num, most)
    if not 1 <= num_devices <= num * most:
        raise ValueError(f"{num_devices} devices asked for; there are {num * most}")
    if num_devices % num:
        raise ValueError(f"{num_devices} devices do not divide evenly over {num} processes")
    if count % num_devices:
        raise ValueError(f"{what} {count} does not divide evenly over {num_devices} devices")
    return [device for local in processes for device in local[: num_devices // num]]


def own(devices: Sequence[Device]) -> Sequence[Device]:
    """Those of `devices` that this process drives."""
    return [device for device in devices if device.process_index == jax.process_index()]


def own_part(array: np.ndarray, devices: Sequence[Device], axis: int) -> np.ndarray:
    """What the devices of this process see of `array`, whose `axis` all devices share evenly."""
    num, mine = len(devices), own(devices)
    first, size = devices.index(mine[0]), array.shape[axis]
    stop = first + len(mine)
    return array[(slice(None),) * axis + (slice(size * first // num, size * stop // num),)]


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
    if len(own(devices)) < len(devices):
        # It joins the arrays of processes; but it never frees a program.
        settings: Any = {"in_axes": in_axes, "out_axes": None, "devices": devices}
        return jax.pmap(function, AXIS, donate_argnums=0, **settings)

    def of_one(*arguments: Any) -> Any:
        parts = [
            argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
            for argument, axis in zip(arguments, in_axes, strict=True)
        ]
        return function(*parts)

    return spread(of_one, devices, in_axes, out_axes=None)


def spread(
    function: Callable[..., Any],
    devices: Sequence[Device],
    in_axes: tuple[int | None, ...],
    out_axes: tuple[int | None, ...] | None,
) -> Callable[..., Any]:
    """`function` on every device of `devices` for its part, its first argument donated.

    in_axes, out_axes: the axis that is in parts, None for what is equal everywhere.
    """
    mapped = jax.shard_map(
        function,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=tuple(map(_partition, in_axes)),
        out_specs=tuple(map(_partition, out_axes)) if out_axes else _partition(None),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def is_first_process() -> bool:
    """Whether this is the one process that writes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that all processes leave in order, or none: each waits for the others at its end.

    Raises ValueError where an exception ended it in others alone.
    """
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except Exception:
        _of_all(np.uint8(1))
        raise
    if failed := np.flatnonzero(_of_all(np.uint8(0))).tolist():
        raise ValueError(f"stopped because of an error in process {failed[0]}, which tells it")


def check_alike(text: str, what: str) -> None:
    """Raise ValueError, in all processes, unless all have the same text, which is `what`."""
    if jax.process_count() > 1:
        digests = _of_all(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
        if others := np.flatnonzero((digests != digests[0]).any(axis=1)).tolist():
            raise ValueError(f"processes 0 and {others[0]} have not the same {what}")


def from_first_process(tree: Any) -> Any:
    """The arrays of process 0 in every process, bit for bit; the others give any of such shapes."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    flat = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves]  # sums of
    first = multihost_utils.broadcast_one_to_all(flat)  # floats with zero would lose signs of zeros
    found = zip(leaves, first, strict=True)
    return structure.unflatten([new.view(old.dtype).reshape(old.shape) for old, new in found])


def largest_before(devices: Sequence[Device]) -> Callable[[int], int]:
    """What the largest of all processes' numbers was in the call before; 0 in the first call.

    So nobody waits: the devices compare them while the host goes on.  A process alone gets back its
    number of now.
    """
    if len(own(devices)) == len(devices):
        return lambda value: value
    largest = jax.pmap(
        lambda value: jax.lax.pmax(value, AXIS), AXIS, in_axes=0, out_axes=None, devices=devices
    )
    asked: list[Any] = [0]

    def agreed(value: int) -> int:
        mine = np.full(len(own(devices)), value, np.int32)
        asked.append(largest(placed(mine, devices, 0)))
        return int(asked.pop(0))

    return agreed


def _of_all(value: np.ndarray | np.generic) -> np.ndarray:
    """`value` of every process.  (...) -> (processes, ...)."""
    firsts = [jax.local_devices(process_index=p)[0] for p in range(jax.process_count())]
    mesh = Mesh(np.array(firsts), ("process",))
    parts = NamedSharding(mesh, PartitionSpec("process"))
    shared = jax.make_array_from_process_local_data(parts, np.asarray(value)[None])
    everywhere = NamedSharding(mesh, PartitionSpec())
    return np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(shared))
