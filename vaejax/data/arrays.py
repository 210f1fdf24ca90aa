"""A data set as raw arrays in memory, and what is checked before anything uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np

from vaejax.types import Array

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """Raw examples by split; the model sees x = raw / scale, computed inside the jitted step."""

    name: str
    splits: Mapping[str, np.ndarray]  # "train", "test": (N, *X) uint8 images or float32 points
    scale: float  # 255 for images, 16 for digits, 1 for points
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N,) by split; may be empty

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Event shape *X of one example."""
        return self.splits["train"].shape[1:]


def normalized(raw: np.ndarray | Array, scale: float) -> Array:
    """The x that the model sees.  raw: (..., *X) uint8 or float32 -> (..., *X) float32."""
    return jnp.asarray(raw, jnp.float32) / scale


def checked(dataset: Dataset) -> Dataset:
    """The same data set with float64 splits as float32.

    Raises ValueError, in one line, for a missing or empty split, a dtype other than uint8, float32
    and float64, splits that differ in event shape or dtype, a non-finite value, labels without a
    split or of another length, or a scale that is not a positive number.
    """
    name = dataset.name
    if not (math.isfinite(dataset.scale) and dataset.scale > 0):
        raise ValueError(f"{name}: scale is {dataset.scale}; it must be positive and finite")
    if sorted(dataset.splits) != sorted(SPLITS):
        raise ValueError(f"{name}: splits are {sorted(dataset.splits)}; they must be train, test")
    splits = {split: _as_stored(f"{name}: {split}", dataset.splits[split]) for split in SPLITS}
    train, test = splits["train"], splits["test"]
    if train.shape[1:] != test.shape[1:]:
        shapes = f"{train.shape[1:]} in train and {test.shape[1:]} in test"
        raise ValueError(f"{name}: event shape is {shapes}; it must be the same")
    if train.dtype != test.dtype:
        dtypes = f"{train.dtype} in train and {test.dtype} in test"
        raise ValueError(f"{name}: dtype is {dtypes}; it must be the same")
    for split, labels in dataset.labels.items():
        if split not in splits:
            raise ValueError(f"{name}: labels are given for an unknown split {split!r}")
        if len(labels) != len(splits[split]):
            lengths = f"{len(labels)} labels for {len(splits[split])} examples"
            raise ValueError(f"{name}: {split} has {lengths}; there must be one per example")
    return replace(dataset, splits=splits)


def _as_stored(where: str, rows: np.ndarray) -> np.ndarray:
    """The rows of one split, checked.  (N, *X) -> (N, *X) uint8 or float32."""
    if rows.dtype not in (np.uint8, np.float32, np.float64):
        raise ValueError(f"{where} has dtype {rows.dtype}; it must be uint8, float32 or float64")
    if rows.ndim < 2:
        raise ValueError(f"{where} has shape {rows.shape}; it must be (N, *X)")
    if len(rows) == 0:
        raise ValueError(f"{where} is empty; it must have at least one example")
    if rows.dtype == np.uint8:
        return rows
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, refused below
        rows = rows.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
    if len(bad):
        count = f"{len(bad)} of {len(rows)} rows do"
        raise ValueError(f"{where} row {bad[0]} holds a non-finite value ({count})")
    return rows
