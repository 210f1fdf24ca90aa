"""How training rows reach the devices: taken from an array that lies there, or streamed to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vaejax.data.arrays import Dataset
from vaejax.data.batches import batch_indices, batch_rows
from vaejax.parallel import pmapped, replicated
from vaejax.training.step import TrainStep
from vaejax.types import Array, Device, Metrics

_SHARE = 0.25  # of a device's memory that a resident train split may take
_WORKERS, _AHEAD = 2, 8  # threads that read, and steps that they are ahead

# What a mapped step takes after the state, step by step.
Feed = Iterator[tuple[Any, ...]]


def is_resident(placement: str, dataset: Dataset, devices: Sequence[Device]) -> bool:
    """Whether the train split goes onto the devices; "auto" decides by its size."""
    if placement != "auto":
        return placement == "resident"
    return dataset.splits["train"].nbytes <= _SHARE * _memory(devices)


def _memory(devices: Sequence[Device]) -> float:
    """Bytes that one device has for itself; devices on the CPU share the memory of the machine."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(devices)


def described(dataset: Dataset, devices: Sequence[Device], resident: bool) -> str:
    """One line: which data, where they come from, and how they reach the devices."""
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in dataset.splits.items())
    num = len(devices)
    where = f"{num} {devices[0].platform} device{'s' if num > 1 else ''}"
    bytes_ = dataset.splits["train"].nbytes
    size = f"{bytes_ / 1e6:,.1f} MB" if bytes_ < 1e9 else f"{bytes_ / 1e9:,.1f} GB"
    way = f"{size} resident on {where}" if resident else f"{size} streamed to {where}"
    note = f" ({dataset.note})" if dataset.note else ""
    return f"data: {dataset.name}{note}: {sizes}; {way}"


def mapped_step(
    train_step: TrainStep, devices: Sequence[Device], resident: bool, streams: Sequence[int]
) -> TrainStep:
    """`train_step` on all `devices`, taking what the feed of the same kind yields."""
    sharded = (0,) * len(streams)
    if not resident:
        return pmapped(train_step, devices, in_axes=(None, *sharded))

    def from_positions(state: Any, train: Array, *indices: Array) -> tuple[Any, Metrics]:
        return train_step(state, *(_taken(train, i) for i in indices))

    return pmapped(from_positions, devices, in_axes=(None, None, *sharded))


def _taken(rows: Array, indices: Array) -> Array:
    return rows.at[indices].get(mode="promise_in_bounds")


def make_feed(
    dataset: Dataset,
    devices: Sequence[Device],
    resident: bool,
    streams: Sequence[int],
    *,
    seed: int,
    steps: range,
    batch_size: int,
) -> Feed:
    """The arguments of the mapped step for each of `steps`; both kinds give the same batches.

    `streams`: (0,), or (0, 1) where there is to be a second, independent batch.
    """

    def sharded(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(devices), -1, *rows.shape[1:])

    if resident:
        train = replicated(np.asarray(dataset.splits["train"]), devices)
        for step in steps:
            num = len(train)
            orders = (batch_indices(seed, step, num, batch_size, stream) for stream in streams)
            yield train, *(sharded(indices.astype(np.int32)) for indices in orders)
        return

    def shards(step: int) -> tuple[np.ndarray, ...]:
        return tuple(map(sharded, batch_rows(dataset, seed, step, batch_size, streams)))

    yield from _ahead(shards, steps)


def _ahead(function: Callable[[int], Any], steps: range) -> Iterator[Any]:
    """`function` of every step, computed in threads before it is asked for."""
    import grain  # a second to import, for what is streamed alone

    options = grain.ReadOptions(num_threads=_WORKERS, prefetch_buffer_size=_AHEAD)
    yield from (
        grain.MapDataset.range(steps.start, steps.stop).map(function).to_iter_dataset(options)
    )
