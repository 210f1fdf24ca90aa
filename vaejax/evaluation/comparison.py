"""Training data beside sets of samples, in the features of one map, whoever made the samples."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vaejax.data.arrays import Dataset
from vaejax.data.transforms import Transform
from vaejax.evaluation.features import (
    FeatureMap,
    classifier_features,
    fourier_features,
    no_classifier,
)
from vaejax.evaluation.inception import check_images, inception_features
from vaejax.evaluation.protocol import Protocol
from vaejax.evaluation.samples import FEWEST
from vaejax.training.state import observed

_FEWEST = 20  # samples, for clusters of them


@dataclass
class Comparison:
    """The side of the data, computed once: the same for every model that is compared."""

    dataset: Dataset
    transform: Transform
    protocol: Protocol = field(default_factory=Protocol)
    quiet: bool = True
    kept: dict[Any, Any] = field(default_factory=dict)  # what others make of it, once

    @functools.cached_property
    def features(self) -> FeatureMap:
        """In which images are compared, or points."""
        if self.protocol.inception is not None:
            check_images(self.dataset.x_shape)
            return inception_features(self.protocol.inception)
        if self.lack:
            raise ValueError(self.lack)
        if len(self.dataset.x_shape) == 1:
            return fourier_features(self.dataset)
        return classifier_features(self.dataset, quiet=self.quiet)

    @property
    def lack(self) -> str:
        """Why there is no map of features for these data; "" where there is one."""
        if self.protocol.inception is not None or len(self.dataset.x_shape) == 1:
            return ""
        lack = no_classifier(self.dataset)
        return f"{lack}; --inception FILE is a map without labels" if lack else ""

    @property
    def shortage(self) -> str:
        """Why there are too few samples for any comparison; "" where there are enough."""
        if self._count >= _FEWEST:
            return ""
        told = f"at least {_FEWEST} (--samples, and examples of either split)"
        return f"{self._count} samples are too few to compare; {told}"

    @property
    def _count(self) -> int:
        sizes = [len(self.dataset.splits[name]) for name in ("train", self.protocol.split)]
        return min(self.protocol.counts.images, *sizes)

    @property
    def used(self) -> dict[str, Any]:
        """What the map of features is, JSON-able; {} where nothing was compared in it."""
        if "features" not in vars(self):
            return {}
        name, sha256, facts, _ = self.features
        return {"name": name, "sha256": sha256, **facts}

    @property
    def fewest(self) -> int:
        """Samples of a Frechet distance: a covariance of few dimensions needs fewer.

        And who asks for fewer gets them.
        """
        return min(FEWEST, 100 * self.real.shape[1], self.protocol.counts.images)

    @property
    def num_images(self) -> int:
        """Of every set, since a Frechet distance depends on it: no more than either split has.

        Raises ValueError for fewer than 20.
        """
        if self.shortage:
            raise ValueError(self.shortage)
        return self._count

    @functools.cached_property
    def real(self) -> np.ndarray:
        """Features of as many training examples as there are samples.  -> (N, F)."""
        return self._of_split("train")

    @functools.cached_property
    def floor(self) -> np.ndarray:
        """Features of the held-out data; no model is expected to be nearer.  -> (N, F)."""
        return self._of_split(self.protocol.split)

    def features_of(self, x: np.ndarray) -> np.ndarray:
        """Of images as a file would hold them, in [0, 1] and 256 levels; of points as they are.

        x: (N, *X) -> (N, F).
        """
        return self.features.features_of(as_stored(x))

    def data(self, split: str, most: int) -> np.ndarray:
        """x of at most `most` examples, the same ones always.  -> (N, *X)."""
        rows: Any = self.dataset.splits[split]
        index = some(len(rows), most)
        return np.asarray(observed(self.transform, rows[index], index))

    def of_rows(self, split: str, *chosen: np.ndarray) -> np.ndarray:
        """Features of the examples at these positions, of several the means.  (N,) -> (N, F)."""
        rows: Any = self.dataset.splits[split]
        parts = []
        for first in range(0, len(chosen[0]), 1_000):
            every = [each[first : first + 1_000] for each in chosen]
            x = [np.asarray(observed(self.transform, rows[index], index)) for index in every]
            parts.append(self.features_of(np.mean(x, axis=0) if len(x) > 1 else x[0]))
        return np.concatenate(parts)

    @functools.cached_property
    def midpoints(self) -> np.ndarray:
        """Features of what is half-way between held-out examples, in data space.  -> (N, F)."""
        return self.of_rows(self.protocol.split, *self.pairs)

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the held-out examples that are interpolated between.  -> (N,) each."""
        chosen = some(len(self.dataset.splits[self.protocol.split]), self.num_images)
        return chosen, np.roll(chosen, 1)

    def _of_split(self, split: str) -> np.ndarray:
        return self.of_rows(split, some(len(self.dataset.splits[split]), self.num_images))


def as_stored(x: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) as a file holds them, in [0, 1] and 256 levels; points as they are."""
    return x if x.ndim < 3 else np.round(np.clip(x, 0, 1) * 255) / 255


def some(count: int, most: int) -> np.ndarray:
    """`most` of `count` positions, the same ones always.  -> (min(most, count),).

    In random order, so that any part of them is like all: data may come class by class.
    """
    return np.random.Generator(np.random.Philox(0)).permutation(count)[:most]
