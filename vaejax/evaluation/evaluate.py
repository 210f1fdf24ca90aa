"""One evaluation of a run: every number with its protocol."""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import vaejax
from vaejax.config import choice_text, config_sha256
from vaejax.data.arrays import Dataset, check_split
from vaejax.data.sources import make_transform
from vaejax.evaluation.comparison import Comparison, some
from vaejax.evaluation.costs import split_costs
from vaejax.evaluation.files import evaluation_path, write_evaluation
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.evaluation.metrics import USES, Row, fitting, left_out, mean_row, metrics_of, timed
from vaejax.evaluation.protocol import Protocol, protocol_of
from vaejax.evaluation.subject import Subject
from vaejax.expost.fit import PRIOR, density_sha256, sourced
from vaejax.objectives.regularizers import make_method
from vaejax.progress import ProgressReport
from vaejax.training.checkpoint import saved_steps
from vaejax.training.loop import load
from vaejax.training.run import run_dataset
from vaejax.training.state import EVALUATE, stream_key
from vaejax.training.validation import make_split_terms

_LIBRARIES = ("jax", "jaxlib", "flax", "distrax", "tfp-nightly", "optax", "numpy")


def evaluate(
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    source: str = PRIOR,
    checkpoint: int | None = None,
    other_data: bool = False,
    quiet: bool = True,
    seconds: dict[str, float] | None = None,
    comparison: Comparison | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate the run in `workdir` and write `evaluation.json` there.  -> what it holds.

    Every row of `["metrics"]` has value, unit, standard_error and protocol.  options: split,
    metrics, importance_samples, importance_examples, counts, sets, thresholds, quantiles and
    inception, the fields of `vaejax.evaluation.protocol.Protocol`.  source: the prior, or a fitted
    density.  The file of another split is `evaluation_<split>.json`, of another source it goes on
    with that, of other data (`other_data`) with their hash, of an earlier `checkpoint` with its
    step.  Its numbers of the same weights stay if not made again.  `seconds` takes the time of each
    metric; the `comparison` of another evaluation of the same data and protocol saves some.  Raises
    ValueError for a name that is unknown or not allowed here, wrong weights, and other data.

    >>> elbo = vaejax.evaluate("runs/digits", importance_samples=0)["metrics"]["elbo"]["value"]
    """
    workdir, protocol = Path(workdir), protocol_of(options)
    model, state, config = load(workdir, checkpoint)
    model, state = sourced(workdir, model, state, source)
    dataset = run_dataset(workdir, config, dataset, other_data)
    _check(protocol, dataset, comparison)
    transform = make_transform(config, dataset, model.likelihood.unit_interval)
    given = model, state.variables(), dataset, transform, config.seed
    subject = Subject(*given, protocol, quiet, comparison)
    result = {
        "step": int(state.step),
        "source": source,
        "density_sha256": density_sha256(workdir, source),
        "split": protocol.split,
        "num_examples": len(dataset.splits[protocol.split]),
        "seed": config.seed,
        **_provenance(config, dataset),
        **_findings(subject, config, state, {} if seconds is None else seconds),
    }
    step = None if checkpoint in (None, saved_steps(workdir)[-1]) else checkpoint
    path = evaluation_path(workdir, protocol.split, dataset, config, source, step)
    return write_evaluation(path, result)


def _check(protocol: Protocol, dataset: Dataset, comparison: Comparison | None) -> None:
    check_split(dataset, protocol.split)
    if comparison is not None:
        is_same = comparison.protocol == protocol and comparison.dataset.sha256 == dataset.sha256
        if not is_same:
            raise ValueError("this comparison is of another protocol or of other data")


def _findings(
    subject: Subject, config: ConfigDict, state: Any, seconds: dict[str, float]
) -> dict[str, Any]:
    """All that an evaluation was told and found."""
    protocol = subject.protocol
    metrics = fitting(subject, protocol.metrics)
    rows = _rows(subject, metrics, config, state, seconds)
    features = subject.comparison.used
    told = protocol.to_json(features.get("sha256", ""))
    every = {**told, **told["counts"]}
    return {
        "protocol": {**told, "metrics": metrics},
        "settings": {name: {each: every[each] for each in USES[name]} for name in metrics},
        "features": features,
        "left_out": left_out(subject, protocol.metrics),
        "metrics": rows,
    }


def _rows(
    subject: Subject,
    metrics: Sequence[str],
    config: ConfigDict,
    state: Any,
    seconds: dict[str, float],
) -> dict[str, Row]:
    """Every number of an evaluation."""
    named = metrics_of(subject, metrics, seconds)  # first: it may refuse
    with timed(seconds, "terms and costs"):
        found = _terms(subject, config) | _costs(subject, config, state)
    with timed(seconds, "importance_weighted_nll"):
        found |= _bound(subject)
    told = f"{observation_of(config)}; {choice_text(config, 'likelihood')}"
    return _told(found, told) | _told(named, observation_of(config))


def _told(rows: dict[str, Row], more: str) -> dict[str, Row]:
    """With more to every protocol."""
    return {name: told(each, more) for name, each in rows.items()}


def told(row: Row, more: str) -> Row:
    """With more to its protocol."""
    return {**row, "protocol": f"{row['protocol']}; {more}"}


def observation_of(config: ConfigDict) -> str:
    """How raw data become x, for protocols."""
    return f"x {choice_text(config, 'observation')}"


def _terms(subject: Subject, config: ConfigDict) -> dict[str, Row]:
    """Exact means of the ELBO and its parts, and what the paper's table calls NLL."""
    split_terms = make_split_terms(subject.model, transform=subject.transform, seed=subject.seed)
    terms = split_terms(subject.variables, subject.dataset.splits[subject.protocol.split])
    protocol = f"{_where(subject)}; one draw of q(z|x) each; key = (seed {subject.seed}, index)"
    found = {name: mean_row(values, protocol) for name, values in terms.items()}
    if config.likelihood != "gaussian":  # without its weight there is no such number
        return found
    weight, batch = config.likelihoods.gaussian.mse_weight, config.batch_size
    constant = 0.5 * math.prod(subject.dataset.x_shape) * math.log(math.pi / weight)
    costs = terms["reconstruction"] - constant + terms["kl"]
    of_batch = f"summed over batches of {batch}, by 1000 w with w = {weight:g}; {protocol}; the "
    of_batch += "authors' code leaves -D/2 out of a decoupled KL, which adds B D / (2000 w)"
    scaled = costs * (batch / (1_000 * weight))
    return found | {"nll_published": mean_row(scaled, of_batch, "1000 squared errors")}


def _bound(subject: Subject) -> dict[str, Row]:
    """The importance-weighted bound, where there are samples and a density."""
    protocol = subject.protocol
    num_samples = protocol.importance_samples
    if not (num_samples and subject.model.posterior.has_density):
        return {}
    rows: Any = subject.dataset.splits[protocol.split]
    chosen = some(len(rows), protocol.importance_examples)
    with ProgressReport("importance-weighted bound", 0, len(chosen), subject.quiet) as progress:
        bound = importance_weighted_bound(
            subject.model,
            subject.variables,
            rows[chosen],
            indices=chosen,
            num_samples=num_samples,
            transform=subject.transform,
            key=stream_key(subject.seed, EVALUATE),
            progress=progress.update,
        )
    which = "all" if len(chosen) == len(rows) else "the same always"
    where = f"{protocol.split} split, {len(chosen)} of {len(rows)} examples ({which})"
    drawn = f"{num_samples} draws of q(z|x) each; key = (seed {subject.seed}, index)"
    return {"importance_weighted_nll": mean_row(-bound, f"{where}; {drawn}")}


def _where(subject: Subject) -> str:
    drawn = "; x drawn once per example" if subject.transform.is_random else ""
    count = len(subject.dataset.splits[subject.protocol.split])
    return f"{subject.protocol.split} split, all {count} examples{drawn}"


def _costs(subject: Subject, config: ConfigDict, state: Any) -> dict[str, Row]:
    """Every weighted cost of the method."""
    split, dataset = subject.protocol.split, subject.dataset
    rows, num_train = dataset.splits[split], len(dataset.splits["train"])
    _, objective = make_method(config, dataset.x_shape, num_train)
    values, size = split_costs(
        subject.model,
        objective.players,
        state,
        rows,
        batch_size=config.batch_size,
        transform=subject.transform,
        seed=config.seed,
    )
    count = len(next(iter(values.values())))
    protocol = f"{split} split, {count} blocks of {size}, {len(rows) - count * size} left over"
    protocol += f"; weights of step {int(state.step)}; N = {num_train}; seed {config.seed}"
    costs = {}
    for name, per_block in values.items():
        if "/" in name or name == "loss":
            costs[name] = mean_row(per_block, protocol)
    return costs


def _provenance(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "data": {"name": dataset.name, "sha256": dataset.sha256, "note": dataset.note},
        "config_sha256": config_sha256(config),
        "versions": {"vaejax": vaejax.__version__, "commit": _commit(), **versions},
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
