"""A sweep over seeds and scalar hyper-parameters, trained as one program."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vaejax.compilation import keep_compiled_programs
from vaejax.config import CHOICES, check_key
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from
from vaejax.parallel import AXIS, local_rows, usable_devices
from vaejax.training.loop import train
from vaejax.training.plan import Plan
from vaejax.training.run import Run
from vaejax.training.state import TrainState
from vaejax.training.step import TrainStep
from vaejax.types import Array, Metrics

# Tables whose numbers may differ between replicas; anything else changes shapes or programs.
_TABLES = ("regularizers", "likelihoods", "optimizers", "schedules")

Sweep = Mapping[str, Sequence[Any]]  # dotted key -> the values it takes


def parsed_sweep(texts: Sequence[str], config: ConfigDict) -> dict[str, list[Any]]:
    """Texts such as "seed=0:8" and "regularizers.beta_tc.beta=1,4,6" as a Sweep.

    A range is of integers and excludes its end.  Raises ValueError for a key that cannot be swept,
    and for values that are not numbers of its kind.
    """
    sweep: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not like seed=0:8 or {key}=1,4,6")
        kind = _kind(config, key)
        if key in sweep:
            raise ValueError(f"config.{key} is swept twice")
        sweep[key] = _values(text, key, values, kind)
    return sweep


def _kind(config: ConfigDict, key: str) -> type:
    check_key(config, key)
    kind = type(_value(config, key))
    if key != "seed" and not (key.partition(".")[0] in _TABLES and kind is float):
        allowed = f"seed, and the numbers with a fraction in {', '.join(_TABLES)}"
        raise ValueError(f"config.{key} cannot differ between replicas; these can: {allowed}")
    for choice, table in CHOICES.items():
        if key.startswith(f"{table}.") and key.split(".")[1] != config[choice]:
            raise ValueError(f"config.{key} is not in use: config.{choice} is {config[choice]!r}")
    return kind


def _value(config: ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _values(text: str, key: str, values: str, kind: type) -> list[Any]:
    first, colon, last = values.partition(":")
    try:
        found = list(range(int(first), int(last))) if colon else map(kind, values.split(","))
        found = [kind(value) for value in found]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{text!r} is not like {key}=0:8 (from, to before) or {key}=1,4,6")
    return found


def replica_configs(config: ConfigDict, sweep: Sweep) -> dict[str, ConfigDict]:
    """One config for every combination of the values, by a name such as "seed=3,beta=4.0"."""
    for key in sweep:
        _kind(config, key)
    configs = {}
    shorts = [key.rpartition(".")[2] for key in sweep]
    names = [s if shorts.count(s) == 1 else k for k, s in zip(sweep, shorts, strict=True)]
    for values in itertools.product(*sweep.values()):
        replica = config.copy_and_resolve_references()
        replica.update_from_flattened_dict(dict(zip(sweep, values, strict=True)))
        name = ",".join(f"{n}={v}" for n, v in zip(names, values, strict=True))
        configs[name] = replica.lock()
    return configs


def fit_replicas(
    config: ConfigDict,
    sweep: Sweep,
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    num_devices: int | None = None,
    vectorized: bool | None = None,
    quiet: bool = False,
) -> dict[Path, int]:
    """Train a run for every combination in `sweep`, all at once.  -> the step of every folder.

    Each has the results of its lone run, up to rounding, and all that `fit` writes.  Complete ones
    are left alone; the others go on from the last checkpoint that all of them have.  `num_devices`:
    by default all that divide the replicas evenly; each has its replicas and whole batches.
    `vectorized`: whether those run side by side, by `vmap`, or one after the other within a step;
    by default what is faster.  A replica that diverges ends alone, and is the error raised at the
    end.  Raises ValueError for bad input, before anything is written.
    """
    if jax.process_count() > 1:
        raise ValueError(f"replicas need one process, not {jax.process_count()}: leave them out")
    dataset = dataset_from(config, dataset)
    configs = replica_configs(config, sweep)
    runs = {n: Run(c, Path(workdir) / n, dataset) for n, c in configs.items()}
    _check_recovery(list(runs.values()))
    going = {n: run for n, run in runs.items() if config.num_steps not in run.saved}
    if not going:
        return {run.workdir: config.num_steps for run in runs.values()}
    devices = usable_devices(len(going), num_devices, "number of replicas")
    step = _common_step(going)
    plan = make_plan(list(going.values()), sweep, vectorized, step)
    keep_compiled_programs()
    state = train(plan, step, devices, quiet)
    done = dict(zip(going, np.asarray(state.step).tolist(), strict=True))
    return {run.workdir: done.get(name, config.num_steps) for name, run in runs.items()}


def _check_recovery(runs: Sequence[Run]) -> None:
    """All take the same step at once: none can go back alone."""
    if any(run.recovery.retreats or len(run.lowered) for run in runs):
        alone = "learning rates are lowered for a run by itself, not for replicas"
        raise ValueError(f"{alone}; take config.recovery 'none' or 'skip', or train one by one")


def make_plan(
    runs: Sequence[Run], sweep: Sweep, vectorized: bool | None = None, step: int = 0
) -> Plan:
    """`runs`, which differ in the keys of `sweep` alone, as one program from `step` on."""
    lead = runs[0]
    values = {key: _array(key, [_value(run.config, key) for run in runs]) for key in sweep}
    if vectorized is None:
        # Convolutions fill the cores by themselves, and with a kernel for every replica a GPU
        # computes them in groups.  What is tiny gains most.
        vectorized = (lead.config.encoder, lead.config.decoder) == ("mlp", "mlp")

    def state() -> TrainState:
        states = [_state(run, lead, step) for run in runs]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    one = lead.shapes()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(runs), *x.shape), x.dtype), one)
    return Plan(runs, True, _replicated(lead, values, vectorized), like, state)


def _array(key: str, values: list[Any]) -> Array:
    return jnp.array(values, jnp.uint32 if key == "seed" else jnp.float32)  # seeds: below 2**32


def _state(run: Run, lead: Run, step: int) -> TrainState:
    if step:
        return run.checkpoints.restore(lead.shapes(), step)
    # Of what may differ, a likelihood's numbers alone are where parameters start.
    is_alike = run.config.likelihoods == lead.config.likelihoods
    return (lead if is_alike else run).state_of(run.config.seed)


def _common_step(runs: Mapping[str, Run]) -> int:
    """The last checkpoint that all have; 0 where none has any."""
    if not any(run.saved for run in runs.values()):
        return 0
    common = set.intersection(*(set(run.saved) for run in runs.values()))
    if not common:
        steps = "; ".join(f"{name} has {run.saved or 'none'}" for name, run in runs.items())
        raise ValueError(f"these replicas have no checkpoint in common: {steps}; sweep fewer")
    return max(common)


def _replicated(lead: Run, values: Mapping[str, Array], vectorized: bool) -> TrainStep:
    """The step of a device's replicas: of `lead`, each with its `values`.

    Leaves of `values`: (all replicas,); those of a state: (replicas, ...).
    """

    def one(values: Any, state: TrainState, *rows: Array) -> tuple[TrainState, Metrics]:
        return lead.train_step(None, values)(state, *rows)

    def every(state: TrainState, *rows: Array) -> tuple[TrainState, Metrics]:
        own = {key: local_rows(value, len(rows[0]), AXIS) for key, value in values.items()}
        if vectorized:
            return jax.vmap(one)(own, state, *rows)
        return jax.lax.map(lambda arguments: one(*arguments), (own, state, *rows))

    return every
