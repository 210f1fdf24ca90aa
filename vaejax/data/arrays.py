"""A data set as raw arrays, in memory or mapped from a file, and what is checked of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaejax.config import unknown
from vaejax.types import Array

Columns = dict[str, np.ndarray]  # "x" (n, *X), and perhaps "labels" (n,) and "factors" (n, F)
Blocks = Iterator[Columns]  # consecutive pieces of one split, for what may not fit into memory

SPLITS = ("train", "validation", "test")
_BYTES = 2**24  # read at a time from what may not fit into memory


class Part:
    """Some rows of an array, read when they are asked for: a split of what may be a mapped file."""

    def __init__(self, rows: np.ndarray | Part, order: np.ndarray):
        self.whole, self._order = rows, order
        self.shape, self.dtype = (len(order), *rows.shape[1:]), rows.dtype
        self.ndim, self.nbytes = rows.ndim, math.prod(self.shape) * rows.dtype.itemsize

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, item: Any) -> np.ndarray:
        """The rows at an index, a slice, a mask or positions; a tuple takes from further axes."""
        if isinstance(item, tuple):
            first, rest = item[:1], item[1:]
            if first and isinstance(first[0], slice):
                return self[first[0]][(slice(None), *rest)]
            return np.asarray(self)[item]
        return self.whole[self._order[item]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.whole[self._order], dtype)


Rows = np.ndarray | Part


@dataclass(frozen=True)
class Dataset:
    """Raw examples by split; what the model sees is computed inside the jitted step.

    splits: (N, *X) uint8 or float32, of which "train" is needed; "validation" and "test" are taken
    from it where they are missing, as `config.splits` says.  Gray images may lack their channel
    axis.  scale: x = raw / scale, 255 for images of bytes, 1 for points.  labels (N,) and factors
    (N, F), by split, may be left out.

    >>> images = np.zeros((500, 16, 16, 3), np.uint8)
    >>> mine = vaejax.Dataset("mine", {"train": images}, scale=255.0)
    """

    name: str
    splits: Mapping[str, Rows]  # (N, *X) uint8 or float32; float images lie in [0, scale]
    scale: float  # x = raw / scale: 255 for images, 16 for digits, 1 for points
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N,) by split; may be empty
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N, F) by split; likewise
    note: str = ""  # where the arrays come from, and whether they are exact
    # Of the content, before any division; `with_hash` computes it, `replace` forgets it.
    sha256: str = field(default="", init=False)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Event shape *X of one example."""
        return self.splits["train"].shape[1:]


def hashed(dataset: Dataset, sha256: str) -> Dataset:
    """The same data set, its content known to have this SHA-256."""
    copy = replace(dataset)
    object.__setattr__(copy, "sha256", sha256)
    return copy


def normalized(raw: np.ndarray | Array, scale: float) -> Array:
    """raw: (..., *X) uint8 or float32 -> (..., *X) float32, divided by `scale`."""
    return jnp.asarray(raw, jnp.float32) / scale


def default_scale(dtype: str | np.dtype) -> float:
    """255 for uint8 and 1 for floats."""
    return 255.0 if np.dtype(dtype) == np.uint8 else 1.0


def pieces(rows: Rows) -> Iterator[np.ndarray]:
    """The rows in order, a few megabytes at a time."""
    size = max(1, _BYTES // max(1, rows[:1].nbytes))
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def extremes(rows: Rows) -> tuple[float, float]:
    """The smallest and the largest value, of a part those of the array that it is a part of."""
    while isinstance(rows, Part):
        rows = rows.whole  # in the order of its file, which is many times faster
    ends = [(float(piece.min()), float(piece.max())) for piece in pieces(rows)]
    return min(low for low, _ in ends), max(high for _, high in ends)


def check_split(dataset: Dataset, split: str) -> None:
    """Raise ValueError, which says how to get one, unless the data set has this split."""
    if split not in dataset.splits:
        if split not in SPLITS:
            raise unknown("split", split, dataset.splits)
        has = f"{dataset.name} has no {split} split, but {' and '.join(dataset.splits)}"
        raise ValueError(f"{has}; config.splits.{split} is the fraction of train that makes one")


def checked(dataset: Dataset) -> Dataset:
    """The same data set, with float64 as float32 and gray images with a channel axis.

    Raises ValueError, in one line, for a missing, unknown or empty split, a dtype other than uint8,
    float32 and float64, splits that differ in event shape or dtype, a non-finite value, float
    images outside [0, scale], labels or factors without a split, of another length or no integers
    (N,) and (N, F), a scale that is not a positive number, and what is no data set.
    """
    _check_kinds(dataset)
    name, scale = dataset.name, float(dataset.scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"{name}: scale is {scale}; it must be positive and finite")
    for split in dataset.splits:
        if split not in SPLITS:
            raise ValueError(f"{name}: unknown split {split!r}; one of {', '.join(SPLITS)}")
    if "train" not in dataset.splits:
        raise ValueError(f"{name}: splits are {sorted(dataset.splits)}; 'train' is missing")
    splits = {
        split: _as_stored(f"{name}: {split}", dataset.splits[split], scale)
        for split in SPLITS
        if split in dataset.splits
    }
    train = splits["train"]
    for split, rows in splits.items():
        if rows.shape[1:] != train.shape[1:]:
            shapes = f"{train.shape[1:]} in train and {rows.shape[1:]} in {split}"
            raise ValueError(f"{name}: event shape is {shapes}; it must be the same")
        if rows.dtype != train.dtype:
            dtypes = f"{train.dtype} in train and {rows.dtype} in {split}"
            raise ValueError(f"{name}: dtype is {dtypes}; it must be the same")
    labels = _integers(f"{name}: labels", dataset.labels, splits, ndim=1)
    factors = _integers(f"{name}: factors", dataset.factors, splits, ndim=2)
    result = replace(dataset, splits=splits, scale=scale, labels=labels, factors=factors)
    is_same = all(rows is dataset.splits[split] for split, rows in splits.items())
    return hashed(result, dataset.sha256 if is_same else "")


def _check_kinds(dataset: Dataset) -> None:
    if not isinstance(dataset, Dataset):
        raise ValueError(f"a vaejax.Dataset is needed, not {type(dataset).__name__}")
    for kind in ("splits", "labels", "factors"):
        given = getattr(dataset, kind)
        if not isinstance(given, Mapping):
            wanted = 'arrays by split, as in {"train": ...}'
            raise ValueError(f"{dataset.name}: {kind} are a {type(given).__name__}, not {wanted}")
    if isinstance(dataset.scale, bool) or not isinstance(dataset.scale, Real):
        raise ValueError(f"{dataset.name}: scale is {dataset.scale!r}; it must be a number")


def _integers(
    where: str, columns: Mapping[str, Any], splits: Mapping[str, Rows], ndim: int
) -> dict[str, np.ndarray]:
    found = {split: np.asarray(column) for split, column in columns.items()}
    for split, column in found.items():
        if split not in splits:
            raise ValueError(f"{where} are given for an unknown split {split!r}")
        if column.ndim != ndim or column.dtype.kind not in "iu":
            wanted = f"integers of shape {'(N,)' if ndim == 1 else '(N, F)'}"
            given = f"{column.dtype} of shape {column.shape}"
            raise ValueError(f"{where} in {split} are {given}; they must be {wanted}")
        if len(column) != len(splits[split]):
            lengths = f"{len(column)} in {split} for {len(splits[split])} examples"
            raise ValueError(f"{where}: {lengths}; there must be one per example")
    return {split: column.astype(np.int64, copy=False) for split, column in found.items()}


def _as_stored(where: str, rows: Rows, scale: float) -> Rows:
    """The rows of one split, checked.  (N, *X) -> (N, *X) uint8 or float32."""
    if not isinstance(rows, Part):
        rows = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
    if rows.dtype not in (np.uint8, np.float32, np.float64):
        raise ValueError(f"{where} has dtype {rows.dtype}; it must be uint8, float32 or float64")
    if rows.ndim < 2:
        raise ValueError(f"{where} has shape {rows.shape}; it must be (N, *X)")
    if 0 in rows.shape:
        raise ValueError(f"{where} is empty, {rows.shape}; it must have at least one example")
    if isinstance(rows, np.ndarray) and rows.ndim == 3:
        rows = rows[..., None]
    if isinstance(rows, Part) or rows.dtype == np.uint8:
        return rows  # a Part is a division of rows that were checked
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, refused below
        rows = rows.astype(np.float32, copy=False)
    _check_floats(where, rows, scale)
    return rows


def _check_floats(where: str, rows: np.ndarray, scale: float) -> None:
    axes = tuple(range(1, rows.ndim))
    is_finite = np.concatenate([np.isfinite(piece).all(axis=axes) for piece in pieces(rows)])
    bad = np.flatnonzero(~is_finite)
    if len(bad):
        count = f"{len(bad)} of {len(rows)} rows do"
        raise ValueError(f"{where} row {bad[0]} holds a non-finite value ({count})")
    low, high = extremes(rows) if rows.ndim == 4 else (0.0, 0.0)
    if low < 0 or high > scale:
        raise ValueError(
            f"{where} holds float images in [{low:.4g}, {high:.4g}]; they must lie in "
            f"[0, {scale:g}], the scale (or be uint8 with scale 255)"
        )
