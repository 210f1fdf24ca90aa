"""The division into train, validation and test, and the hash of what was divided."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vaejax.data.arrays import Columns, Dataset, Part, Rows, hashed, pieces


def divided(dataset: Dataset, *, validation: float, test: float, seed: int) -> Dataset:
    """Take the splits that the data set lacks from its train split, at random, without a copy.

    `validation` and `test` are fractions of the train split as given, rounded to at least one
    example; a fraction of 0, or a split that is there, takes nothing.  A function of the number of
    examples, the fractions and the seed; the splits are disjoint and cover the train split, each in
    an order as random, so that neighbors are no more alike than others.  Raises ValueError when
    nothing would be left to train on.
    """
    fractions = {"validation": validation, "test": test}
    train = dataset.splits["train"]
    wanted = {
        split: max(1, round(fraction * len(train)))
        for split, fraction in fractions.items()
        if fraction > 0 and split not in dataset.splits
    }
    if not wanted:
        return dataset
    left = len(train) - sum(wanted.values())
    if left < 1:
        raise ValueError(
            f"{dataset.name}: {len(train)} examples cannot give {wanted} and leave some to train on"
        )
    order = np.random.Generator(np.random.Philox([seed, len(train)])).permutation(len(train))
    orders, first = {}, 0
    for split, size in {"train": left, **wanted}.items():
        orders[split] = order[first : first + size]
        first += size

    def of(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "train" not in columns:
            return dict(columns)
        return {**columns, **{split: columns["train"][rows] for split, rows in orders.items()}}

    parts = {split: Part(train, rows) for split, rows in orders.items()}
    result = replace(
        dataset,
        splits={**dataset.splits, **parts},
        labels=of(dataset.labels),
        factors=of(dataset.factors),
    )
    return hashed(result, dataset.sha256)


def order_keys(columns: Columns) -> np.ndarray:
    """What the canonical order goes by: the factors, else a hash of an example and its label.

    columns of n examples -> (n, K) integers.
    """
    if "factors" in columns:
        return columns["factors"]
    labels = columns.get("labels", np.zeros(len(columns["x"]))).astype(np.int64)
    digests = [
        hashlib.sha256(row.tobytes() + label.tobytes()).digest()
        for row, label in zip(columns["x"], labels, strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(len(digests), 4)


def canonical_order(keys: np.ndarray) -> np.ndarray:
    """The order that a split has wherever it comes from: TFDS shuffles, raw files do not.

    keys: (N, K) of `order_keys` -> (N,) positions, the first column counting most.
    """
    return np.lexsort(keys.T[::-1])


def with_hash(dataset: Dataset) -> Dataset:
    """The data set with its `sha256`, computed unless it is there.

    It depends on the examples, their order, shape and dtype, the splits they came in and the scale;
    not on the name, labels or factors, nor on where the arrays lie.
    """
    if dataset.sha256:
        return dataset
    described = {
        split: {"shape": rows.shape, "dtype": str(rows.dtype), "sha256": rows_sha256(rows)}
        for split, rows in dataset.splits.items()
    }
    return hashed(dataset, content_sha256(described, dataset.scale))


def rows_sha256(rows: Rows) -> str:
    """SHA-256 of the bytes of all rows, in C order."""
    digest = hashlib.sha256()
    for piece in pieces(rows):
        digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()


def content_sha256(described: Mapping[str, Mapping[str, Any]], scale: float) -> str:
    """The hash of a data set from the shape, dtype and SHA-256 of each of its splits."""
    content = {
        split: [list(facts["shape"]), facts["dtype"], facts["sha256"]]
        for split, facts in described.items()
    }
    return hashlib.sha256(json.dumps([content, float(scale)], sort_keys=True).encode()).hexdigest()
