"""Which examples a step sees: pure functions of (seed, step), so nothing needs a checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from vaejax.data.arrays import Dataset


def batch_indices(
    seed: int, step: int, num_examples: int, batch_size: int, stream: int = 0
) -> np.ndarray:
    """Positions in the train split of the examples of one step, the first step being 0.

    Every epoch is a fresh permutation of all examples, cut into batches; the rest that fills no
    batch is dropped.  Stream 1 is a second order, independent of stream 0: the x' of FactorVAE
    (arXiv 1802.05983, Algorithm 2).

    -> (batch_size,) int64, read-only.  Raises ValueError for a batch larger than the data set.
    """
    if not 1 <= batch_size <= num_examples:
        allowed = f"it must be from 1 to {num_examples}, the number of examples"
        raise ValueError(f"batch_size is {batch_size}; {allowed}")
    epoch, position = divmod(step, num_examples // batch_size)
    first = position * batch_size
    return _epoch_order(seed, stream, epoch, num_examples)[first : first + batch_size]


@functools.lru_cache(maxsize=16)
def _epoch_order(seed: int, stream: int, epoch: int, num_examples: int) -> np.ndarray:
    """-> (num_examples,) int64, read-only because all batches of the epoch are views of it."""
    order = np.random.Generator(np.random.Philox([seed, stream, epoch])).permutation(num_examples)
    order.setflags(write=False)
    return order


def batch_rows(
    dataset: Dataset, seed: int, step: int, batch_size: int, streams: Sequence[int] = (0, 1)
) -> tuple[np.ndarray, ...]:
    """The raw train rows of one step, and the second, independent batch of the same size.

    Every epoch is a fresh permutation, a function of the seed.  -> for every one of `streams` an
    array (batch_size, *X), uint8 or float32.  Raises ValueError for a batch larger than the split
    and a step below 0.

    >>> rows, others = vaejax.batch_rows(dataset, seed=0, step=0, batch_size=50)
    >>> rows.shape
    (50, 8, 8, 1)
    """
    train = dataset.splits["train"]
    if step < 0:
        raise ValueError(f"step is {step}; steps are counted from 0")
    return tuple(
        train[batch_indices(seed, step, len(train), batch_size, stream)] for stream in streams
    )


def blocks(num_examples: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One pass over a split in blocks of equal size, for exact means.

    Yields indices (size,) int64 and mask (size,) bool; where the mask is False the index is 0 and
    the row counts for nothing.
    """
    for first in range(0, num_examples, size):
        indices = np.arange(first, first + size)
        mask = indices < num_examples
        yield np.where(mask, indices, 0), mask
