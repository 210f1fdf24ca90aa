"""Training and evaluation of what a table lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vaejax.config import saved_config
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from, make_transform
from vaejax.evaluation.comparison import Comparison
from vaejax.evaluation.control import control_of
from vaejax.evaluation.evaluate import (
    config_sha256,
    evaluate,
    observation_of,
    told,
)
from vaejax.evaluation.files import evaluation_path, read_evaluation
from vaejax.evaluation.metrics import OF_SAMPLES
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.expost.fit import PRIOR, density_sha256, fit_density
from vaejax.models.vae import make_model
from vaejax.tables.plan import Cell
from vaejax.training.loop import fit
from vaejax.training.replicas import fit_replicas, replica_configs

_ROW = ("value", "unit", "protocol")  # what is used of a metric


def run_folders(cell: Cell, seeds: Sequence[int]) -> dict[int, Path]:
    """Where the runs of a cell are, by seed."""
    names = replica_configs(cell.config, {"seed": seeds})
    return {seed: cell.folder / name for seed, name in zip(seeds, names, strict=True)}


def train_cell(cell: Cell, seeds: Sequence[int], dataset: Dataset, quiet: bool) -> None:
    """Train what is missing and resume what was interrupted.

    Raises KeyboardInterrupt, with the step that was saved, if it is interrupted again.
    """
    if len(seeds) > 1:
        steps = fit_replicas(cell.config, {"seed": seeds}, cell.folder, dataset, quiet=quiet)
    else:
        ((name, config),) = replica_configs(cell.config, {"seed": seeds}).items()
        # The cores of a CPU share a step without being devices.
        devices = 1 if jax.default_backend() == "cpu" else None
        given: dict[str, Any] = {"num_devices": devices, "quiet": quiet}
        _, state, _ = fit(config, cell.folder / name, dataset, **given)
        steps = {cell.folder / name: int(state.step)}
    if (least := min(steps.values())) < cell.config.num_steps:
        raise KeyboardInterrupt(least)


def evaluated(cell: Cell, folder: Path, source: str, comparison: Comparison) -> dict[str, Any]:
    """`evaluation.json` of a complete run, made anew unless it has the protocol of `comparison`.

    A density that is not there yet is fitted first.
    """
    wanted, dataset, config = comparison.protocol, comparison.dataset, saved_config(folder)
    quiet = comparison.quiet
    if source != PRIOR:
        density = cell.sources[source]
        fit_density(folder, name=source, config=density, dataset=dataset, quiet=quiet)
    try:
        path = evaluation_path(folder, wanted.split, dataset, config, source)
        found = read_evaluation(path)
        is_current = found["step"] == config.num_steps
        is_current &= found["config_sha256"] == config_sha256(config)
        is_current &= found["data"]["sha256"] == dataset.sha256
        is_current &= found["density_sha256"] == density_sha256(folder, source)
        is_current &= _covers(found["protocol"], wanted.to_json())
        is_current &= all({*_ROW} <= {*row} for row in found["metrics"].values())
        is_current &= {"versions", "seed"} <= {*found}
    except (OSError, ValueError, KeyError, TypeError):
        is_current = False
    given = {"source": source, "comparison": comparison, "quiet": quiet}
    return found if is_current else evaluate(folder, dataset, **vars(wanted), **given)


def protocol_of(table: ConfigDict) -> Protocol:
    """What every evaluation of the table is told."""
    keys = ("split", "metrics", "sets", "importance_samples", "importance_examples")
    return Protocol(**{key: table[key] for key in keys}, counts=Counts(images=table.samples))


def _covers(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether `found` is `wanted`, or that and more metrics."""
    others = {**wanted, "metrics": found["metrics"]}
    return set(wanted["metrics"]) <= set(found["metrics"]) and found == others


def control_rows(table: ConfigDict, cell: Cell, comparison: Comparison) -> dict[str, Any]:
    """The control's name and metrics for every seed, on the data of a cell."""
    metrics = [OF_SAMPLES[name] for name in table.metrics if name in OF_SAMPLES]
    controls = {seed: control_of(comparison, seed) for seed in table.seeds}
    x = observation_of(cell.config)
    return {
        "name": next(iter(controls.values())).name,
        "runs": {
            seed: {key: told(row, x) for metric in metrics for key, row in metric(control).items()}
            for seed, control in controls.items()
        },
    }


class Comparisons:
    """Features of data, computed once for all cells that see them alike."""

    def __init__(self, protocol: Protocol, quiet: bool) -> None:
        self._given = protocol, quiet
        self._made: dict[tuple[str, str], Comparison] = {}

    def of(self, cell: Cell, dataset: Dataset) -> Comparison:
        """What the runs of a cell are compared with."""
        key = dataset.sha256, observation_of(cell.config)  # evaluation draws x from no more
        if key not in self._made:
            model = make_model(cell.config, dataset.x_shape)
            transform = make_transform(cell.config, dataset, model.likelihood.unit_interval)
            self._made[key] = Comparison(dataset, transform, *self._given)
        return self._made[key]


class Datasets:
    """The data of cells, each loaded once; all cells of one name must have the same."""

    def __init__(self) -> None:
        self._loaded: dict[str, Dataset] = {}
        self._named: dict[str, tuple[Dataset, Any]] = {}

    def of(self, cell: Cell) -> Dataset:
        """Raises ValueError for other data than those of the cells before under this name."""
        config = cell.config.to_dict()
        parts = [config[key] for key in ("dataset", "datasets", "splits", "data_sha256")]
        key = json.dumps(parts, sort_keys=True)
        if key not in self._loaded:
            self._loaded[key] = dataset_from(cell.config)
        found = self._loaded[key]
        first, splits = self._named.setdefault(cell.dataset, (found, config["splits"]))
        if found.sha256 != first.sha256:
            hashes = f"SHA-256 {found.sha256[:12]}..., not {first.sha256[:12]}..."
            raise ValueError(f"{cell.name} is of other data than the rows before it ({hashes})")
        if config["splits"] != splits:
            both = f"{config['splits']}, not {splits}"
            raise ValueError(f"{cell.name} divides its data unlike the rows before it ({both})")
        return found
