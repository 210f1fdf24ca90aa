"""What every generative claim must beat: principal components and a mixture of ten Gaussians."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from vaejax.evaluation.comparison import Comparison


@dataclass
class Control:
    """A mixture of Gaussians fitted to the principal components of training data.

    It has the samples of a trained model that need no posterior, by the same names.
    """

    comparison: Comparison
    seed: int
    num_dims: int = 32
    num_components: int = 10

    @functools.cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """Features of "random", "reconstructions" and "floor", if wanted.  -> (N, F) each."""
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        compared, most = self.comparison, self.comparison.num_images
        # All of them: fitted to those it is compared with, it would be nearer than other data.
        x = compared.data("train", len(compared.dataset.splits["train"]))
        shape, flat = x.shape[1:], x.reshape(len(x), -1)
        dims = min(self.num_dims, math.prod(shape), len(x) - 1)
        components = PCA(dims, random_state=self.seed).fit(flat)
        mixture = GaussianMixture(self.num_components, random_state=self.seed)
        mixture.fit(components.transform(flat).astype(np.float64))
        held_out = compared.data(compared.protocol.split, most).reshape(-1, flat.shape[1])
        drawn = mixture.sample(most)[0]
        # In random order: they come component by component.
        drawn = np.random.default_rng(self.seed).permutation(drawn)
        codes = {"random": drawn, "reconstructions": components.transform(held_out)}
        found = {
            name: compared.features_of(
                components.inverse_transform(code).reshape(-1, *shape).astype(np.float32)
            )
            for name, code in codes.items()
            if compared.protocol.wants(name)
        }
        return {**found, **({"floor": compared.floor} if compared.protocol.wants("floor") else {})}

    @property
    def name(self) -> str:
        """As it is called in tables."""
        dims = min(self.num_dims, math.prod(self.comparison.dataset.x_shape))
        return f"PCA ({dims}) + mixture of {self.num_components}"
