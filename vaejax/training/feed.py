"""How training rows reach the devices, several steps at a time.

They are taken from an array that lies there, or streamed.  Either way the batches are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.data.arrays import Dataset
from vaejax.data.batches import batch_indices
from vaejax.memory import check_memory, machine_memory, program_memory
from vaejax.parallel import (
    from_first_process,
    own,
    own_part,
    placed,
    pmapped,
    shapes,
    spread,
)
from vaejax.training.step import TrainStep
from vaejax.types import Array, Device

_SHARE = 0.25  # of a device's memory that a resident train split may take
_WORKERS, _AHEAD = 2, 4  # threads that read, and dispatches that they are ahead
_MOST = 20  # steps of a dispatch, by default


class Dispatch(NamedTuple):
    """Steps that the devices take without the host, and the arguments after the state."""

    steps: range
    arguments: tuple[Any, ...]


class Supply(NamedTuple):
    """What the steps of a run see, or those of every replica of a sweep, each by its own seed."""

    dataset: Dataset
    batch_size: int
    seeds: tuple[int, ...]
    is_sweep: bool
    num_streams: int  # 2 where there is to be a second, independent batch
    is_resident: bool
    most: int  # steps of a dispatch

    def source(self, devices: Sequence[Device]) -> Array | None:
        """The train split on all devices; None where it is streamed."""
        train = self.dataset.splits["train"]
        return placed(np.asarray(train), devices) if self.is_resident else None

    def source_shape(self, devices: Sequence[Device]) -> Any:
        """What `source` gives, without data."""
        return shapes(self.dataset.splits["train"], devices) if self.is_resident else None

    def indices(self, step: int) -> np.ndarray:
        """Of the examples of a step.  -> (num_streams, [replicas,] batch_size) int32."""
        num, streams = len(self.dataset.splits["train"]), range(self.num_streams)

        def of(seed: int) -> np.ndarray:
            orders = [batch_indices(seed, step, num, self.batch_size, s) for s in streams]
            return np.stack(orders).astype(np.int32)

        if not self.is_sweep:
            return of(*self.seeds)
        return np.stack([of(seed) for seed in self.seeds], axis=1)


def is_resident(placement: str, dataset: Dataset, devices: Sequence[Device]) -> bool:
    """Whether the train split goes onto the devices; "auto" decides by its size."""
    if placement != "auto":
        return placement == "resident"
    memory = device_memory(own(devices))
    return bool(from_first_process(np.bool(dataset.splits["train"].nbytes <= _SHARE * memory)))


def device_memory(devices: Sequence[Device]) -> float:
    """Bytes that one device has for itself; devices on the CPU share the memory of the machine."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return machine_memory() / len(devices)


def check_fits(compiled: Any, devices: Sequence[Device]) -> None:
    """Raise ValueError where a compiled program, None or False if there is none, is too large."""
    if compiled:
        knobs = "lower config.batch_size, or config.steps_per_dispatch"
        knobs += ", or take config.placement=streamed"
        check_memory(
            program_memory(compiled)["total"], "a step", knobs, device_memory(own(devices))
        )


def described(dataset: Dataset, devices: Sequence[Device], resident: bool) -> str:
    """One line: which data, where they come from, and how they reach the devices."""
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in dataset.splits.items())
    num, processes = len(devices), len(devices) // len(own(devices))
    where = f"{num} {devices[0].platform} device{'s' if num > 1 else ''}"
    where += f" of {processes} processes" if processes > 1 else ""
    bytes_ = dataset.splits["train"].nbytes
    size = f"{bytes_ / 1e6:,.1f} MB" if bytes_ < 1e9 else f"{bytes_ / 1e9:,.1f} GB"
    way = f"{size} resident on {where}" if resident else f"{size} streamed to {where}"
    note = f" ({dataset.note})" if dataset.note else ""
    return f"data: {dataset.name}{note}: {sizes}; {way}"


def steps_per_dispatch(given: int, convolutions: str) -> int:
    """`given` unless 0.  By default 20, but one where a loop would make native ones crawl."""
    crawls = convolutions == "native" and jax.default_backend() == "cpu"
    return given or (1 if crawls else _MOST)


def dispatches(steps: range, most: int, stops: Sequence[int]) -> list[range]:
    """`steps` in parts of up to `most`, each ending at the next multiple of any of `stops`.

    The first part is one step long, so that something is seen soon.
    """
    parts, step, size = [], steps.start, 1
    while step < steps.stop:
        end = min(step + size, steps.stop, *((step // stop + 1) * stop for stop in stops))
        parts.append(range(step, end))
        step, size = end, most
    return parts


def mapped_steps(train_step: TrainStep, devices: Sequence[Device], supply: Supply) -> TrainStep:
    """`(state, *arguments of a Dispatch) -> (state, metrics)` on all `devices`.

    They share every batch of a run; of a sweep each has some of the replicas.  metrics: (most, ...)
    each, of which the first ones count, as many as the dispatch has steps.
    """
    once = jax.jit(train_step)  # traced once, though it is used twice below

    def steps(state: Any, count: Array, source: Array | None, batches: Array) -> tuple[Any, Any]:
        def step(state: Any, k: Array | int) -> tuple[Any, Any]:
            return once(state, *(_taken(source, batch) for batch in batches[k]))

        if supply.most == 1:
            state, metrics = step(state, 0)
            return state, jax.tree.map(lambda value: value[None], metrics)
        _, shapes = jax.eval_shape(step, state, 0)
        blank = jax.tree.map(lambda one: jnp.zeros((supply.most, *one.shape), one.dtype), shapes)

        def body(k: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, kept = carry
            state, metrics = step(state, k)
            return state, jax.tree.map(lambda all_, one: all_.at[k].set(one), kept, metrics)

        return jax.lax.fori_loop(0, count, body, (state, blank))

    if supply.is_sweep:
        return spread(steps, devices, in_axes=(0, None, None, 2), out_axes=(0, 1))
    return pmapped(steps, devices, in_axes=(None, None, None, 0))


def _taken(source: Array | None, batch: Array) -> Array:
    return batch if source is None else source.at[batch].get(mode="promise_in_bounds")


def make_feed(
    supply: Supply, source: Array | None, devices: Sequence[Device], parts: Sequence[range]
) -> Iterator[Dispatch]:
    """A Dispatch for each of `parts`; what a resident `source` and a streamed split give agrees.

    What is beyond the steps of a part, up to `most`, is zero and not used.
    """
    train = supply.dataset.splits["train"]

    def batches(steps: range) -> np.ndarray:  # (most, num_streams, [replicas,] B, ...)
        indices = np.stack([supply.indices(step) for step in steps])
        if not supply.is_sweep:
            indices = own_part(indices, devices, axis=2)
        rows = indices if supply.is_resident else train[indices.ravel()]
        rows = rows.reshape(*indices.shape, *rows.shape[1:] if not supply.is_resident else ())
        rest = np.zeros((supply.most - len(steps), *rows.shape[1:]), rows.dtype)
        rows = np.concatenate([rows, rest])
        return rows if supply.is_sweep else by_device(rows, len(own(devices)), axis=2)

    shards = map(batches, parts) if supply.is_resident else _ahead(batches, parts)
    for steps, shard in zip(parts, shards, strict=True):
        count = placed(np.int32(len(steps)), devices)
        yield Dispatch(steps, (count, source, placed(shard, devices, 2 if supply.is_sweep else 0)))


def by_device(array: np.ndarray, num_devices: int, axis: int) -> np.ndarray:
    """(..., B, ...) -> (num_devices, ..., B / num_devices, ...)."""
    shape = array.shape
    parts = array.reshape(*shape[:axis], num_devices, -1, *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(parts, axis, 0))


def _ahead(function: Callable[[range], Any], parts: Sequence[range]) -> Iterator[Any]:
    """`function` of every part, computed in threads before it is asked for."""
    import grain  # a second to import, for what is streamed alone

    options = grain.ReadOptions(num_threads=_WORKERS, prefetch_buffer_size=_AHEAD)
    yield from grain.MapDataset.source(parts).map(function).to_iter_dataset(options)
