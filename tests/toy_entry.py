"""A small data set for the tests of the cache, which import it in other processes too."""

from pathlib import Path

import numpy as np

from vaejax.data import cache
from vaejax.data.arrays import Dataset

SIZES = {"train": 11, "validation": 4, "test": 3}


def toy(dtype=np.uint8, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Columns by split."""
    draws = np.random.default_rng(seed)
    return {
        split: {
            "x": draws.integers(0, 256, (size, 3, 2, 1)).astype(dtype),
            "labels": draws.integers(0, 9, size),
            "factors": np.stack([draws.permutation(size) for _ in range(2)], 1),
        }
        for split, size in SIZES.items()
    }


def blocks_of(columns: dict, *cuts: int):
    edges = [0, *cuts, len(columns["x"])]
    for first, last in zip(edges, edges[1:], strict=False):
        yield {kind: rows[first:last] for kind, rows in columns.items()}


def write(columns: dict, *cuts: int, key: str = "toy", **options) -> Dataset:
    splits = {split: blocks_of(part, *cuts) for split, part in columns.items()}
    return cache.write(key, "toy", splits, **{"scale": 255.0, "note": "drawn", **options})


def assert_same(entry: Dataset, columns: dict) -> None:
    for kind, found in {
        "x": entry.splits,
        "labels": entry.labels,
        "factors": entry.factors,
    }.items():
        wanted = {split: part[kind] for split, part in columns.items() if kind in part}
        assert found.keys() == wanted.keys()
        for split, rows in wanted.items():
            np.testing.assert_array_equal(found[split], rows)
            assert found[split].dtype == rows.dtype


def file_of(key: str, name: str = "train.x.npy") -> Path:
    return cache.cache_folder() / key / name
