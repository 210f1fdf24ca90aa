"""A run that is read, with its data: what all figures and pages are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vaejax.data.arrays import Dataset
from vaejax.data.sources import make_transform
from vaejax.data.transforms import Transform
from vaejax.evaluation.evaluate import run_dataset
from vaejax.evaluation.protocol import Protocol
from vaejax.evaluation.subject import Subject
from vaejax.expost.fit import PRIOR, sourced
from vaejax.models.vae import VAE
from vaejax.training.loop import load
from vaejax.training.state import TrainState, observed


class OpenedRun(NamedTuple):
    """A run, read, with its data."""

    workdir: Path
    config: ConfigDict
    model: VAE
    state: TrainState
    dataset: Dataset
    transform: Transform
    source: str = PRIOR

    @property
    def density(self) -> str:
        """What codes are drawn from: the prior, or a density that was fitted to them."""
        is_prior = self.source == PRIOR
        return f"{self.config.prior} prior" if is_prior else f"{self.source} fitted afterwards"

    @property
    def variables(self) -> dict[str, Any]:
        return self.state.variables()

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def name(self) -> str:
        return f"{self.config.regularizer} with {self.density}"

    def subject(self, protocol: Protocol | None = None) -> Subject:
        """As metrics and the paper's figures take it."""
        given = self.model, self.variables, self.dataset, self.transform, self.seed
        return Subject(*given, protocol or Protocol())

    def held_out(self, count: int | None = None) -> np.ndarray:
        """x of the first `count` test examples."""
        rows = self.dataset.splits["test"][:count]
        return np.asarray(observed(self.transform, rows, np.arange(len(rows))))


def opened(
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    source: str = PRIOR,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> OpenedRun:
    """Read the run in `workdir`, with the density named `source` in place of its prior.

    `dataset` replaces the one the config names.  Raises ValueError where `load` and `sourced` do,
    and for data other than those of the run, unless `other_data`.
    """
    workdir = Path(workdir)
    model, state, config = load(workdir, checkpoint)
    model, state = sourced(workdir, model, state, source)
    dataset = run_dataset(workdir, config, dataset, other_data)
    transform = make_transform(config, dataset, model.likelihood.unit_interval)
    return OpenedRun(workdir, config, model, state, dataset, transform, source)
