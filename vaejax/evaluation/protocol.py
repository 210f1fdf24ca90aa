"""What an evaluation is told: numbers of different protocols do not compare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vaejax.config import unknown

SETS = ("random", "low_posterior", "reconstructions", "interpolations")
SETS += ("pixel_midpoints", "low_posterior_data", "pca_mixture", "floor")
_TUPLES = ("metrics", "thresholds", "quantiles", "sets")  # fields
_MOST = 1_000_000  # draws for each example


@dataclass(frozen=True)
class Counts:
    """How much of everything a protocol takes; 20,000 images are those of arXiv 1911.10506."""

    reference: int = 10_000  # training examples whose q(z|x) make the aggregate posterior
    latent: int = 5_000  # draws of the prior, and of the aggregate posterior
    images: int = 20_000  # of every set that is compared with data; fewer than 2,048 if so asked
    pairs: int = 5_000  # of every set, where all distances between two sets are taken
    low_fraction: float = 0.2  # of prior draws that are low-posterior samples

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")


@dataclass(frozen=True)
class Protocol:
    """Raises ValueError for what is out of range."""

    split: str = "test"
    metrics: tuple[str, ...] = ()  # of METRICS, beside the ELBO and all costs; "all" that fit
    importance_samples: int = 1_000  # of the importance-weighted bound; 0 leaves it out
    importance_examples: int = 500  # that it is taken of, at most; the same ones always
    counts: Counts = field(default_factory=Counts)
    sets: tuple[str, ...] = ()  # of SETS, that are compared with training data; none: all that fit
    thresholds: tuple[float, ...] = ()  # of leakage, in nats of log p0; none: its quantiles
    quantiles: tuple[float, ...] = (0.001, 0.01, 0.1)  # the prior's own mass beyond a threshold
    inception: str | Path | None = None  # weights of `inception_features`, not the classifier

    def __post_init__(self) -> None:
        for name in _TUPLES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in self.sets:
            if name not in SETS:
                raise unknown("set of samples", name, SETS)
        if not all(math.isfinite(threshold) for threshold in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}; they must be finite")
        if not all(0 < quantile < 1 for quantile in self.quantiles):
            raise ValueError(f"quantiles are {self.quantiles}; they must be between 0 and 1")
        if not 0 <= self.importance_samples <= _MOST:
            count = self.importance_samples
            raise ValueError(f"importance samples are {count}; at least 0 (none), at most {_MOST}")
        if self.importance_examples < 1:
            count = self.importance_examples
            raise ValueError(f"examples of importance sampling are {count}; at least 1")

    def wants(self, name: str) -> bool:
        """Whether a set is compared."""
        return not self.sets or name in self.sets

    def to_json(self, sha256: str = "") -> dict[str, Any]:
        """JSON-able, with the hash of the weights of `inception` in place of where they are."""
        tree = asdict(self)
        tree |= {name: list(tree[name]) for name in _TUPLES}
        return {**tree, "inception": None if self.inception is None else sha256}


def protocol_of(options: Mapping[str, Any]) -> Protocol:
    """The protocol with these fields.  Raises ValueError, for an unknown name with the nearest."""
    allowed = [each.name for each in fields(Protocol)]
    for name in options:
        if name not in allowed:
            raise unknown("option", name, allowed)
    return Protocol(**options)
