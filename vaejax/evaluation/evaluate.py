"""One evaluation of a run: every number with its protocol."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import vaejax
from vaejax.config import to_json, unknown
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from, make_transform
from vaejax.data.transforms import Transform
from vaejax.evaluation.costs import split_costs
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.objectives.regularizers import make_method
from vaejax.progress import ProgressReport
from vaejax.training.loop import load
from vaejax.training.validation import make_split_terms
from vaejax.training.workdir import saved_card, write_text

_LIBRARIES = ("jax", "jaxlib", "flax", "distrax", "tfp-nightly", "optax", "numpy")


def evaluate(
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    split: str = "test",
    importance_samples: int = 1_000,
    checkpoint: int | None = None,
    other_data: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Evaluate the run in `workdir` and write `evaluation.json` there.  -> what it holds.

    For a split other than "test" the file is `evaluation_<split>.json`; for data other than those
    of the run, which `other_data` must allow, it ends in their hash.  Exact means over `split` of
    ELBO, reconstruction and KL; every weighted cost; the importance-weighted bound with
    `importance_samples` draws (0 leaves it out).  Raises ValueError for an unknown split, or data
    other than those of the run.
    """
    workdir = Path(workdir)
    model, state, config = load(workdir, checkpoint)
    dataset = run_dataset(workdir, config, dataset, other_data)
    transform = make_transform(config, dataset, model.likelihood.unit_interval)
    _check(dataset, split, importance_samples)
    rows, seed = dataset.splits[split], config.seed
    drawn = "; x drawn once per example" if transform.is_random else ""
    where = f"{split} split, all {len(rows)} examples{drawn}"
    terms = make_split_terms(model, transform=transform, seed=seed)(state.variables(), rows)
    protocol = f"{where}; one draw of q(z|x) each; key = (seed {seed}, index)"
    metrics = {name: _mean(values, protocol) for name, values in terms.items()}
    metrics |= _costs(model, config, dataset, transform, state, split)
    if importance_samples and model.posterior.has_density:
        given = {"num_samples": importance_samples, "transform": transform, "seed": seed}
        with ProgressReport("importance-weighted bound", 0, len(rows), quiet) as progress:
            given["progress"] = progress.update
            bound = importance_weighted_bound(model, state.variables(), rows, **given)
        protocol = f"{where}; {importance_samples} draws of q(z|x) each; key = (seed {seed}, index)"
        metrics["importance_weighted_nll"] = _mean(-bound, protocol)
    result = {
        "step": int(state.step),
        "split": split,
        "num_examples": len(rows),
        "data": {"name": dataset.name, "sha256": dataset.sha256, "note": dataset.note},
        "seed": seed,
        **_provenance(config),
        "metrics": metrics,
    }
    write_text(workdir / _name(split, dataset, config), json.dumps(result, indent=2) + "\n")
    return result


def _check(dataset: Dataset, split: str, importance_samples: int) -> None:
    if split not in dataset.splits:
        raise unknown("split", split, dataset.splits)
    if importance_samples < 0:
        raise ValueError(f"importance samples are {importance_samples}; at least 0 (none)")


def _name(split: str, dataset: Dataset, config: ConfigDict) -> str:
    which = "" if split == "test" else f"_{split}"
    other = "" if dataset.sha256 == config.data_sha256 else f"_{dataset.sha256[:8]}"
    return f"evaluation{which}{other}.json"


def run_dataset(
    workdir: Path,
    config: ConfigDict,
    dataset: Dataset | None = None,
    other_data: bool = False,
) -> Dataset:
    """The data of a run, from its config unless given.

    Raises ValueError when they are others, which `other_data` allows for the same event shape.
    """
    promise, config = config.data_sha256, config.copy_and_resolve_references()
    config.data_sha256 = ""
    dataset = dataset_from(config, dataset)
    if dataset.x_shape != (shape := tuple(saved_card(workdir)["x_shape"])):
        shapes = f"{shape}; {dataset.name!r} has {dataset.x_shape}"
        raise ValueError(f"the run in {workdir} is for data of shape {shapes}")
    if dataset.sha256 != promise and not other_data:
        raise ValueError(
            f"the run in {workdir} was trained on other data than this {dataset.name!r} (SHA-256 "
            f"{promise[:12]}..., not {dataset.sha256[:12]}...); --other-data allows it"
        )
    return dataset


def _mean(values: np.ndarray, protocol: str) -> dict[str, Any]:
    """Mean and its standard error over examples, both in float64."""
    values = values.astype(np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    mean = float(values.mean())
    return {"value": mean, "standard_error": error, "unit": "nats", "protocol": protocol}


def _costs(
    model: Any,
    config: ConfigDict,
    dataset: Dataset,
    transform: Transform,
    state: Any,
    split: str,
) -> dict[str, Any]:
    rows, num_train = dataset.splits[split], len(dataset.splits["train"])
    _, objective = make_method(config, dataset.x_shape, num_train)
    values, size = split_costs(
        model,
        objective.players,
        state,
        rows,
        batch_size=config.batch_size,
        transform=transform,
        seed=config.seed,
    )
    count = len(next(iter(values.values())))
    protocol = f"{split} split, {count} blocks of {size}, {len(rows) - count * size} left over"
    protocol += f"; weights of step {int(state.step)}; N = {num_train}; seed {config.seed}"
    costs = {}
    for name, per_block in values.items():
        if "/" in name or name == "loss":
            costs[name] = _mean(per_block, protocol)
    return costs


def _provenance(config: ConfigDict) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "config_sha256": hashlib.sha256(to_json(config).encode()).hexdigest(),
        "versions": {"vaejax": vaejax.__version__, "commit": _commit(), **versions},
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
