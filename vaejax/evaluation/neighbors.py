"""The nearest training examples of samples: a model that remembers its data is found out here."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.data.arrays import Dataset, normalized
from vaejax.data.transforms import Transform
from vaejax.evaluation.comparison import as_stored, some
from vaejax.evaluation.rows import Row, mean_row, share_row
from vaejax.evaluation.subject import Subject
from vaejax.training.state import observed
from vaejax.types import Array

_ROWS, _QUERIES = 2_000, 1_000  # sides of a matrix of distances
QUANTILE = 0.01  # of the distances of held-out examples
_SHOWN, _SHOWN_NEIGHBORS, _SHOWN_HELD_OUT = 10, 3, 500


class Nearest(NamedTuple):
    """The nearest training examples of M points, nearest first."""

    index: np.ndarray  # (M, K) positions in the train split
    distance: np.ndarray  # (M, K) root of the mean squared difference of a coordinate


class Neighbors(NamedTuple):
    """Samples of the prior, as they were drawn, with their nearest training examples."""

    samples: np.ndarray  # (S, *X)
    neighbors: np.ndarray  # (S, K, *X), nearest first
    distance: np.ndarray  # (S, K)
    held_out: np.ndarray  # (H,) of held-out examples to their nearest training example
    num_train: np.ndarray  # () examples that were searched


def nearest_neighbors(subject: Subject) -> dict[str, Row]:
    """How near the training data the sets that the model decodes are, and held-out data.

    A share far above 1 % nearer than the nearest 1 % of held-out data are copies, or blurred.
    Raises ValueError where training data are the split.
    """
    if lack := no_held_out(subject):
        raise ValueError(lack)
    most = subject.counts.pairs
    sets = {name: subject.decoded(name, most) for name in subject.latents}
    sets["floor"] = data_of(subject, subject.protocol.split, most)
    ends = np.cumsum([len(x) for x in sets.values()])
    every = np.concatenate([as_stored(x) for x in sets.values()])
    distances = nearest_training(every, subject.dataset, subject.transform).distance[:, 0]
    found = dict(zip(sets, np.split(distances, ends[:-1]), strict=True))
    return neighbor_rows(found, _where(subject))


def no_held_out(subject: Subject) -> str:
    """What the protocol lacks for `nearest_neighbors`; "" where nothing."""
    if subject.protocol.split != "train":
        return ""
    return "nearest_neighbors compares with held-out data; the split is 'train'"


def neighbor_rows(distances: dict[str, np.ndarray], where: str) -> dict[str, Row]:
    """Rows of sets of distances (N,) to the nearest training example; "floor" is held-out data."""
    floor = distances["floor"]
    threshold, found = np.quantile(floor, QUANTILE), {}
    for name, each in distances.items():
        how = f"{name}: {len(each)}, each to its nearest {where}"
        found[f"neighbor_distance[rmse, {name}]"] = mean_row(each, how, unit="RMSE")
        if name == "floor":
            continue
        limit = f"no farther than the nearest {100 * QUANTILE:g} % of {len(floor)} held-out"
        # At most, not below: data may have doubles, so that the limit is 0.
        found[f"near_training[rmse, {name}]"] = share_row(
            each <= threshold, f"{limit}, taken as known in the error; {how}", unit="of samples"
        )
    return found


def data_of(
    subject: Subject, split: str, most: int | None = None, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Examples as the search takes them: `most`, the same ones always, or those at `chosen`."""
    rows: Any = subject.dataset.splits[split]
    index = some(len(rows), len(rows) if most is None else most) if chosen is None else chosen
    return np.asarray(_seen(subject.transform, subject.dataset.scale, rows[index], index))


def nearest_training(
    x: np.ndarray, dataset: Dataset, transform: Transform, count: int = 1
) -> Nearest:
    """The `count` nearest training examples of each x, all of which are searched.

    x: (M, *X) -> Nearest.  Training data are as the model sees them, or raw / scale where it sees
    a random draw of that, of which decoded means know nothing.
    """
    rows: Any = dataset.splits["train"]
    count, flat = min(count, len(rows)), x.reshape(len(x), -1).astype(np.float32)
    chunks = [jnp.asarray(flat[k : k + _QUERIES]) for k in range(0, len(flat), _QUERIES)]
    best = [(jnp.full((len(c), count), jnp.inf), jnp.zeros((len(c), count), int)) for c in chunks]
    for first in range(0, len(rows), _ROWS):
        index = np.arange(first, min(first + _ROWS, len(rows)))
        block = _seen(transform, dataset.scale, rows[index], index).reshape(len(index), -1)
        best = [_merged(*each, c, block, first) for each, c in zip(best, chunks, strict=True)]
    index = np.concatenate([np.asarray(each[1]) for each in best])
    return _exact(flat, index, dataset, transform)


@jax.jit
def _merged(
    squared: Array, index: Array, x: Array, block: Array, first: int
) -> tuple[Array, Array]:
    """The nearest of those so far and of a block.  squared, index: (M, K), x: (M, P), (B, P)."""
    center = block.mean(axis=0)  # smaller numbers lose fewer digits
    x, block = x - center, block - center
    products = jnp.dot(x, block.T, precision=jax.lax.Precision.HIGHEST)
    new = (x**2).sum(axis=1)[:, None] + (block**2).sum(axis=1) - 2 * products
    found, position = jax.lax.top_k(-new, min(squared.shape[1], len(block)))
    both = jnp.concatenate([squared, -found], axis=1)
    of_both = jnp.concatenate([index, first + position], axis=1)
    lowest, position = jax.lax.top_k(-both, squared.shape[1])
    return -lowest, jnp.take_along_axis(of_both, position, axis=1)


def _exact(x: np.ndarray, index: np.ndarray, dataset: Dataset, transform: Transform) -> Nearest:
    """With distances as differences: products lose those of near copies."""
    rows: Any = dataset.splits["train"]
    squared = np.zeros(index.shape)
    for start in range(0, len(x), _QUERIES):
        for k in range(index.shape[1]):
            at = index[start : start + _QUERIES, k]
            near = np.asarray(_seen(transform, dataset.scale, rows[at], at)).reshape(len(at), -1)
            squared[start : start + len(at), k] = ((x[start : start + len(at)] - near) ** 2).mean(1)
    order = np.argsort(squared, axis=1, kind="stable")
    parts = (np.take_along_axis(each, order, axis=1) for each in (index, np.sqrt(squared)))
    return Nearest(*parts)


def sample_neighbors(subject: Subject) -> Neighbors:
    """Ten draws of the prior and their three nearest training examples each.

    Raises ValueError where training data are the split.
    """
    if lack := no_held_out(subject):
        raise ValueError(lack)
    x = as_stored(subject.decoded("random", _SHOWN))
    held_out = data_of(subject, subject.protocol.split, _SHOWN_HELD_OUT)
    given = subject.dataset, subject.transform
    found = nearest_training(x, *given, _SHOWN_NEIGHBORS)
    images = data_of(subject, "train", chosen=found.index.ravel())
    num_train = np.asarray(len(subject.dataset.splits["train"]))
    distance = nearest_training(held_out, *given).distance[:, 0]
    shape = (*found.index.shape, *x.shape[1:])
    return Neighbors(x, images.reshape(shape), found.distance, distance, num_train)


def _seen(transform: Transform, scale: float, rows: Any, index: np.ndarray) -> Array:
    """(B, *X) raw -> (B, *X)."""
    return normalized(rows, scale) if transform.is_random else observed(transform, rows, index)


def _where(subject: Subject) -> str:
    count = len(subject.dataset.splits["train"])
    drawn = " before it is drawn" if subject.transform.is_random else ""
    return f"of all {count} training examples in data space{drawn}; seed {subject.seed}"
