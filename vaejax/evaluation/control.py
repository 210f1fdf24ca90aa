"""What every generative claim must beat: principal components and a mixture of ten Gaussians."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaejax.evaluation.comparison import Comparison

PCA_MIXTURE = "pca_mixture"  # as its samples are called beside those of a model


@dataclass
class Control:
    """A mixture of Gaussians fitted to the principal components of training data.

    It has the samples of a trained model that need no posterior, by the same names.
    """

    comparison: Comparison
    seed: int
    num_dims: int = 32
    num_components: int = 10

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """Features of "random", "reconstructions" and "floor", if wanted.  -> (N, F) each."""
        wants, found = self.comparison.protocol.wants, {}
        if wants("random"):
            found["random"] = self.random
        if wants("reconstructions"):
            found["reconstructions"] = self._reconstructions
        return {**found, **({"floor": self.comparison.floor} if wants("floor") else {})}

    @functools.cached_property
    def random(self) -> np.ndarray:
        """Features of as many draws as the protocol says.  -> (N, F)."""
        components, mixture = self._fitted
        codes = mixture.sample(self.comparison.num_images)[0]
        # In random order: they come component by component.
        return self._features(components, np.random.default_rng(self.seed).permutation(codes))

    @functools.cached_property
    def _reconstructions(self) -> np.ndarray:
        compared, (components, _) = self.comparison, self._fitted
        held_out = compared.data(compared.protocol.split, compared.num_images)
        return self._features(components, components.transform(_flat(held_out)))

    @functools.cached_property
    def _fitted(self) -> tuple[Any, Any]:
        from sklearn.decomposition import PCA
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        compared = self.comparison
        # All of them: fitted to those it is compared with, it would be nearer than other data.
        x = _flat(compared.data("train", len(compared.dataset.splits["train"])))
        components = PCA(self._dims, random_state=self.seed).fit(x)
        mixture = GaussianMixture(min(self.num_components, len(x)), random_state=self.seed)
        with warnings.catch_warnings():  # of data with few distinct values: so be it
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(components.transform(x).astype(np.float64))
        return components, mixture

    def _features(self, components: Any, codes: np.ndarray) -> np.ndarray:
        x = components.inverse_transform(codes).astype(np.float32)
        return self.comparison.features_of(x.reshape(-1, *self.comparison.dataset.x_shape))

    @property
    def _dims(self) -> int:
        dataset = self.comparison.dataset
        return min(self.num_dims, math.prod(dataset.x_shape), len(dataset.splits["train"]) - 1)

    @property
    def name(self) -> str:
        """As it is called in tables."""
        return f"PCA ({self._dims}) + mixture of {self.num_components}"


def control_of(comparison: Comparison, seed: int) -> Control:
    """The control of a seed, fitted once for all that is compared with the same data."""
    return comparison.kept.setdefault(("control", seed), Control(comparison, seed))


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)
