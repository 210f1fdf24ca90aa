"""One run: its config, its data, its folder, and what is written there while it trains."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vaejax.config import build, validate
from vaejax.data.arrays import Dataset
from vaejax.data.batches import batch_indices
from vaejax.data.sources import dataset_from, make_transform
from vaejax.locks import held
from vaejax.memory import check_memory
from vaejax.models.vae import VAE
from vaejax.objectives.regularizers import make_method
from vaejax.parallel import is_first_process
from vaejax.training import recovery
from vaejax.training import workdir as files
from vaejax.training.checkpoint import Checkpoints, host_copy, saved_steps
from vaejax.training.metrics import (
    MetricsLog,
    NonFiniteError,
    SilentLog,
    check_finite,
    event_writer,
)
from vaejax.training.state import TrainState, make_initial_state
from vaejax.training.step import TrainStep, make_train_step
from vaejax.training.validation import make_split_terms, means
from vaejax.types import Array


class Run:
    """A config on a data set in a folder.  Raises ValueError for bad input; writes nothing yet."""

    def __init__(
        self, config: ConfigDict, workdir: Path, dataset: Dataset, checkpoint: int | None = None
    ):
        validate(config)
        self.config, self.workdir, self.dataset = _with_hash(config, dataset), workdir, dataset
        self.card = files.dataset_card(dataset)
        self.num_train = len(dataset.splits["train"])
        batch_indices(config.seed, 0, self.num_train, config.batch_size)  # refuses too large a one
        self.model, self.objective = make_method(config, dataset.x_shape, self.num_train)
        self.transform = make_transform(config, dataset, self.model.likelihood.unit_interval)
        self.writes = is_first_process()  # no other process reads or writes the folder
        if self.writes:
            files.check_same_run(workdir, self.config, self.card)
        self.saved = saved_steps(workdir) if self.writes else []
        if checkpoint is not None and self.writes and checkpoint not in self.saved:
            raise ValueError(f"no checkpoint {checkpoint} in {workdir}; {self.saved} are there")
        if config.tensorboard:
            event_writer()  # refuses where the package is missing
        self.recovery = build(recovery.RECOVERIES, "recovery", config)
        log = workdir / "metrics.jsonl"
        last = max(self.saved, default=0) if checkpoint is None else checkpoint
        self.lowered = recovery.lowered(log, last) if self.writes else np.zeros((0, 2))
        self.skipped = 0
        self.held_out = "validation" if "validation" in dataset.splits else "test"
        self.error: NonFiniteError | None = None
        self._open = contextlib.ExitStack()

    def claim(self) -> None:
        """Make the folder that of this run, and keep other trainers out until `close`.

        Raises ValueError where one trains there, or has made it the folder of another run.
        """
        if not self.writes:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(held(self.workdir / ".lock", str(self.workdir)))
        files.check_same_run(self.workdir, self.config, self.card)
        if saved_steps(self.workdir) != self.saved:
            raise ValueError(f"another process has just trained in {self.workdir}; start again")
        files.claim(self.workdir, self.config, self.card)
        checkpoints = Checkpoints(self.workdir, self.config.keep_checkpoints)
        self.checkpoints = self._open.enter_context(checkpoints)

    def start(self) -> TrainState:
        """The state before the first step."""
        return self.state_of(self.config.seed)

    def shapes(self) -> TrainState:
        """Those of its state, without data.  Raises ValueError where that is beyond all memory."""
        found = jax.eval_shape(self.state_of, np.uint32(0))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found))
        knobs = "lower config.latent_dim, or widths and channels of the parts in use"
        check_memory(size, "the parameters and what optimizers know of them", knobs)
        return found

    @functools.cached_property
    def state_of(self) -> Callable[[int | Array], TrainState]:
        """The state before the first step, by seed."""
        players, shape = self.objective.players, self.dataset.x_shape
        return make_initial_state(self.model, players, shape, self.config.ema_decay)

    def train_step(
        self, axis_name: str | None, values: Mapping[str, Any], skips: bool | None = None
    ) -> TrainStep:
        """The step of this run with other `values`, which may be traced, under dotted keys.

        skips: whether a step that is not finite changes nothing; by default as config.recovery.
        """
        config = ConfigDict(self.config.to_dict())
        with config.ignore_type():
            config.update_from_flattened_dict(values)
        model, objective = make_method(
            config, self.dataset.x_shape, self.num_train, axis_name, checked=False
        )
        train_step = make_train_step(
            model,
            objective.players,
            transform=self.transform,
            seed=config.seed,
            ema_decay=config.ema_decay,
            rate=recovery.slowed(self.lowered),
            axis_name=axis_name,
        )
        skips = self.recovery.skips > 0 if skips is None else skips
        return recovery.skipping(train_step) if skips else train_step

    def open_log(self, step: int) -> None:
        """Log from after `step` on."""
        given = self.workdir, step, self.config.tensorboard
        log = MetricsLog(*given) if self.writes else SilentLog()
        self.log = self._open.enter_context(log)
        self.skipped = len(recovery.skipped(self.workdir / "metrics.jsonl")) if self.writes else 0
        transform, seed = self.transform, self.config.seed
        self._split_terms = make_split_terms(self.model, transform=transform, seed=seed)

    def close(self) -> None:
        """Finish what is being written."""
        self._open.close()

    def is_due(self, step: int, every: int) -> bool:
        """Whether something that happens every so many steps happens after `step`."""
        return step % every == 0 or step == self.config.num_steps

    def is_stop(self, step: int) -> bool:
        """Whether the state after `step` is looked at."""
        every = (self.config.eval_every, self.config.checkpoint_every)
        return any(self.is_due(step, each) for each in every)

    def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> tuple[dict[str, float], float]:
        """Log the metrics of a step.  -> them, and the rate in steps per second."""
        values = {name: float(value) for name, value in sorted(metrics.items())}
        self.log.write(step, "train", values)
        self.skipped += recovery.is_skipped(values)
        self._check(step, values)
        return values, self.log.write_timing(step)

    def _check(self, step: int, metrics: Mapping[str, np.ndarray] | Mapping[str, float]) -> None:
        if not recovery.is_skipped(metrics):
            check_finite(step, metrics)
        elif self.skipped > self.recovery.skips:
            check_finite(step, metrics)
            raise NonFiniteError(f"at step {step} what it leads to is not finite", step)

    def evaluate_and_save(
        self, step: int, state: TrainState, metrics: Mapping[str, np.ndarray]
    ) -> None:
        """What is due after `step`."""
        if self.is_due(step, self.config.eval_every):
            terms = self._split_terms(state.variables(), self.dataset.splits[self.held_out])
            self.log.write(step, self.held_out, values := means(terms))
            check_finite(step, values)
        if self.is_due(step, self.config.checkpoint_every):
            self.save(state, metrics)

    def save(self, state: TrainState, metrics: Mapping[str, np.ndarray]) -> None:
        """A checkpoint of `state`, unless it is there; raises NonFiniteError for one of no use."""
        step = int(state.step)
        if self.writes and step in self.checkpoints.steps():
            return
        self._check(step, metrics)
        self.log.sync()
        copy = host_copy(state)
        check_finite(step, _by_path(copy))
        if self.writes:
            self.checkpoints.save(copy)

    def wait(self) -> None:
        """Until what was saved is on disk; raises what went wrong there."""
        if self.writes:
            self.checkpoints.wait()


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _with_hash(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    if "test" not in dataset.splits:
        absent = f"{dataset.name} has no test split, and config.splits.test is 0"
        raise ValueError(f"{absent}; it must be positive")
    config = config.copy_and_resolve_references()
    config.data_sha256 = dataset.sha256
    return config.lock()


def model_of(config: ConfigDict, card: Mapping[str, Any]) -> tuple[VAE, Mapping]:
    """The model and the players of a saved run, for any number of devices."""
    num_examples = card["splits"]["train"]["num_examples"]
    model, objective = make_method(config, tuple(card["x_shape"]), num_examples)
    return model, objective.players


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
    if dataset.x_shape != (shape := tuple(files.saved_card(workdir)["x_shape"])):
        shapes = f"{shape}; {dataset.name!r} has {dataset.x_shape}"
        raise ValueError(f"the run in {workdir} is for data of shape {shapes}")
    if dataset.sha256 != promise and not other_data:
        raise ValueError(
            f"the run in {workdir} was trained on other data than this {dataset.name!r} (SHA-256 "
            f"{promise[:12]}..., not {dataset.sha256[:12]}...); --other-data allows it"
        )
    return dataset
