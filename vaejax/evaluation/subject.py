"""A trained model with all that its metrics are made of, each computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from vaejax.data.arrays import Dataset
from vaejax.data.transforms import Transform
from vaejax.evaluation.comparison import Comparison, some
from vaejax.evaluation.control import PCA_MIXTURE, control_of
from vaejax.evaluation.latent import Codes, make_codes
from vaejax.evaluation.pockets import (
    Aggregate,
    Draws,
    base_mass,
    base_quantiles,
    draws_of_both,
    lowest,
)
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.evaluation.samples import FEWEST
from vaejax.evaluation.traversals import decoded
from vaejax.models.programs import halfway, log_prior, prior_draws, program
from vaejax.models.vae import VAE
from vaejax.training.state import METRIC, stream_key
from vaejax.training.validation import num_at_once, over_split
from vaejax.types import Array


@dataclass
class Subject:
    """A model on its data.  Raises ValueError where a metric asks for what is not there."""

    model: VAE
    variables: Mapping[str, Any]
    dataset: Dataset
    transform: Transform
    seed: int
    protocol: Protocol = field(default_factory=Protocol)
    quiet: bool = True
    shared: Comparison | None = None  # that of another subject of the same data and protocol

    def __post_init__(self) -> None:
        if self.protocol.inception is not None:
            _ = self.comparison.features  # refuses wrong weights before anything is computed

    def key(self, purpose: int) -> Array:
        """Every draw of every metric has its purpose."""
        return jax.random.fold_in(stream_key(self.seed, METRIC), purpose)

    @functools.cached_property
    def reference(self) -> Codes:
        """Codes of a fixed part of the train split, with a draw each."""
        if not self.model.posterior.has_density:
            raise ValueError("this metric needs q(z|x) to have a density; the posterior has none")
        rows = self.dataset.splits["train"]
        codes = self._codes(self.variables, rows[some(len(rows), self.counts.reference)])
        if codes.scale is None:
            raise ValueError("this metric needs q(z|x) to be Gaussian; the posterior is not")
        return codes

    @functools.cached_property
    def held_out(self) -> Codes:
        """Codes of the split."""
        return self._codes(self.variables, self.dataset.splits[self.protocol.split])

    @functools.cached_property
    def _codes(self) -> Callable[..., Codes]:
        return make_codes(self.model, transform=self.transform, seed=self.seed)

    @functools.cached_property
    def aggregate(self) -> Aggregate:
        """q(z)."""
        return Aggregate(self.reference.mean, self.reference.scale)

    def log_prior(self, z: np.ndarray) -> np.ndarray:
        """log p(z).  (N, D) -> (N,) nats."""
        return np.asarray(program(log_prior, self.model)(self.variables, z), np.float64)

    @functools.cached_property
    def draws(self) -> tuple[Draws, Draws]:
        """Of the prior and of the aggregate posterior."""
        given = self.model, self.variables, self.aggregate
        return draws_of_both(*given, self.key(0), self.counts.latent)

    @functools.cached_property
    def comparison(self) -> Comparison:
        """With training data."""
        return self.shared or Comparison(self.dataset, self.transform, self.protocol, self.quiet)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """log p0 below which the prior has `levels` of its mass: (T,) -> (T,) nats."""
        p, _ = self.draws
        if self.model.prior.has_normal_base:
            return base_quantiles(levels, p.z.shape[1])
        return np.quantile(p.log_base.astype(np.float64), levels)

    def mass_below(self, threshold: float) -> float:
        """The prior's mass where log p0 is below `threshold`: the inverse of `quantiles`."""
        p, _ = self.draws
        if self.model.prior.has_normal_base:
            return base_mass(threshold, p.z.shape[1])
        return float(np.mean(p.log_base < threshold))

    @property
    def counts(self) -> Counts:
        """Of the protocol."""
        return self.protocol.counts

    @functools.cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """Features of the sets that are compared with training data, by name.  -> (N, F) each.

        "floor" is the held-out data themselves; no model is expected to be nearer.
        "pixel_midpoints" is for interpolations, between the same examples in data space: decoded
        ones must be nearer to data than these.  Low-posterior
        samples are of few kinds even where all are good; "low_posterior_data" is for them: training
        data that are chosen as they are, by the lowest log q(z) of as many candidates.
        "pca_mixture" is the control that random samples must beat.  Only what the protocol wants
        is computed.
        """
        wants, compared = self.protocol.wants, self.comparison
        found = {name: self._decoded_features(z) for name, z in self.latents.items() if wants(name)}
        if wants("pixel_midpoints"):
            found["pixel_midpoints"] = compared.midpoints
        if wants("low_posterior_data") and self.model.posterior.has_density:
            low = self._low_posterior_data()
            if len(low) >= min(FEWEST, compared.num_images):
                found["low_posterior_data"] = low
        if wants(PCA_MIXTURE):
            found[PCA_MIXTURE] = control_of(compared, self.seed).random
        return {**found, **({"floor": compared.floor} if wants("floor") else {})}

    @functools.cached_property
    def latents(self) -> dict[str, np.ndarray]:
        """Codes of those sets that the model decodes, by name.  -> (N, D) each."""
        found = {"random": self._prior(self.comparison.num_images, 1)}
        if self.model.posterior.has_density and self.protocol.wants("low_posterior"):
            found["low_posterior"] = self._low_posterior()
        codes = [self.held_out.mean[index] for index in self.comparison.pairs]
        return {**found, "reconstructions": codes[0], "interpolations": self._midpoints(*codes)}

    def decoded(self, name: str, most: int) -> np.ndarray:
        """The first `most` of a set of `latents`.  -> (N, *X)."""
        return decoded(self.model, self.variables, self.latents[name][:most])

    def _prior(self, count: int, purpose: int) -> np.ndarray:
        drawn = program(prior_draws(count), self.model)(self.variables, self.key(purpose))
        return np.asarray(drawn)

    def _low_posterior(self) -> np.ndarray:
        count = self.comparison.num_images
        candidates = self._prior(round(count / self.counts.low_fraction), 2)
        log_q = np.asarray(self.aggregate.log_prob(candidates))
        # In the order they were drawn: sorted by density, their blocks would be unlike each other.
        return candidates[np.sort(lowest(log_q, self.counts.low_fraction))]

    def _low_posterior_data(self) -> np.ndarray:
        rows: Any = self.dataset.splits["train"]
        count = self.comparison.num_images
        candidates = some(len(rows), round(count / self.counts.low_fraction))
        log_q = np.asarray(self.aggregate.log_prob(self._codes(self.variables, rows[candidates]).z))
        low = np.sort(lowest(log_q, self.counts.low_fraction))
        return self.comparison.of_rows("train", candidates[low[:count]])

    def _midpoints(self, codes: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Half-way between pairs, in generation space."""
        return np.asarray(program(halfway, self.model)(self.variables, codes, others))

    def _decoded_features(self, z: np.ndarray) -> np.ndarray:
        most = num_at_once(self.model, self.variables, self.dataset.x_shape, ("decoder",))
        decode = program(VAE.decode, self.model)

        def decoded(block: np.ndarray, _: Any) -> np.ndarray:
            return self.comparison.features_of(np.asarray(decode(self.variables, block)))

        return over_split(decoded, z, most)
