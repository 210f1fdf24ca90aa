"""`fit` trains a run, or continues it; `load` reads it back."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from ml_collections import ConfigDict

from vaejax.config import saved_config, validate
from vaejax.data.arrays import Dataset
from vaejax.data.batches import batch_indices
from vaejax.data.sources import dataset_from, make_transform
from vaejax.data.transforms import Transform
from vaejax.models.vae import VAE
from vaejax.objectives.regularizers import make_method
from vaejax.parallel import AXIS, replicated, usable_devices
from vaejax.progress import ProgressReport
from vaejax.training import workdir as files
from vaejax.training.checkpoint import Checkpoints, host_copy, saved_steps, set_aside
from vaejax.training.feed import described, is_resident, make_feed, mapped_step
from vaejax.training.metrics import MetricsLog, NonFiniteError, check_finite, event_writer
from vaejax.training.state import TrainState, initial_state
from vaejax.training.step import TrainStep, make_train_step
from vaejax.training.validation import make_split_terms, means
from vaejax.types import Device, Objective

_SHOWN = ("loss", "elbo", "kl")


def fit(
    config: ConfigDict,
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    num_devices: int | None = None,
    checkpoint: int | None = None,
    quiet: bool = False,
) -> tuple[VAE, TrainState, ConfigDict]:
    """Train until `config.num_steps`, continuing what `workdir` holds.  -> what `load` gives.

    `dataset` replaces the one the config names.  `num_devices`: by default all that divide the
    batch evenly.  `checkpoint`: go back to that step; later checkpoints move to `set_aside/`.  A
    SIGTERM saves a checkpoint and returns early; a SIGINT saves one and raises KeyboardInterrupt
    with the step.  Raises ValueError for bad input, before anything is written, and NonFiniteError
    when a loss or a gradient is not finite.
    """
    validate(config)
    workdir = Path(workdir)
    dataset = dataset_from(config, dataset)
    config = _with_hash(config, dataset)
    num_train = len(dataset.splits["train"])
    batch_indices(config.seed, 0, num_train, config.batch_size)  # refuses too large a batch
    devices = usable_devices(config.batch_size, num_devices)
    mapped_model, objective = make_method(config, dataset.x_shape, num_train, AXIS)
    transform = make_transform(config, dataset, mapped_model.likelihood.unit_interval)
    card = files.dataset_card(dataset)
    _check_workdir(workdir, config, card, checkpoint)
    files.claim(workdir, config, card)
    with _Signals() as signals, Checkpoints(workdir, config.keep_checkpoints) as checkpoints:
        state = _start(config, dataset, mapped_model, objective)
        if saved_steps(workdir):
            state = checkpoints.restore(state, checkpoint)
        if checkpoint is not None:
            set_aside(workdir, after=checkpoint)
            checkpoints.reload()
        model, _ = _unmapped(config, card)
        run = _Run(config, workdir, dataset, transform, model, checkpoints, quiet)
        settings = {"transform": transform, "seed": config.seed, "ema_decay": config.ema_decay}
        step = make_train_step(mapped_model, objective.players, axis_name=AXIS, **settings)
        try:
            state = run.train(step, state, devices, signals)
        except NonFiniteError as error:
            good = f"checkpoint {max(saved_steps(workdir), default=None)} is the last good one"
            raise NonFiniteError(f"{error}; {good}") from error
    if signals.received == signal.SIGINT:
        raise KeyboardInterrupt(int(state.step))
    return model, state, config


def load(workdir: str | Path, checkpoint: int | None = None) -> tuple[VAE, TrainState, ConfigDict]:
    """(model, state, config) of a run, from its folder alone; the latest checkpoint by default.

    `model.apply(state.variables(), ...)` works under plain `jit`.  Raises ValueError when there is
    no run, or its checkpoint cannot be read.
    """
    workdir = Path(workdir)
    config = saved_config(workdir)
    card = files.saved_card(workdir)
    model, players = _unmapped(config, card)
    like = jax.eval_shape(
        lambda: initial_state(model, players, config.seed, tuple(card["x_shape"]), config.ema_decay)
    )
    with Checkpoints(workdir) as checkpoints:
        return model, checkpoints.restore(like, checkpoint), config


def _check_workdir(
    workdir: Path, config: ConfigDict, card: dict[str, Any], checkpoint: int | None
) -> None:
    files.check_same_run(workdir, config, card)
    steps = saved_steps(workdir)
    if checkpoint is not None and checkpoint not in steps:
        raise ValueError(f"no checkpoint {checkpoint} in {workdir}; {steps} are there")
    if config.tensorboard:
        event_writer()  # refuses where the package is missing


def _with_hash(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    if "test" not in dataset.splits:
        absent = f"{dataset.name} has no test split, and config.splits.test is 0"
        raise ValueError(f"{absent}; it must be positive")
    config = config.copy_and_resolve_references()
    config.data_sha256 = dataset.sha256
    return config.lock()


def _start(config: ConfigDict, dataset: Dataset, model: VAE, objective: Objective) -> TrainState:
    return initial_state(model, objective.players, config.seed, dataset.x_shape, config.ema_decay)


def _unmapped(config: ConfigDict, card: Mapping[str, Any]) -> tuple[VAE, Mapping]:
    num_examples = card["splits"]["train"]["num_examples"]
    model, objective = make_method(config, tuple(card["x_shape"]), num_examples)
    return model, objective.players


class _Run:
    """The loop and what it writes."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        dataset: Dataset,
        transform: Transform,
        model: VAE,
        checkpoints: Checkpoints,
        quiet: bool,
    ):
        self.config, self.workdir, self.dataset = config, workdir, dataset
        self.checkpoints, self.quiet = checkpoints, quiet
        self.streams = (0,) if model.critic is None else (0, 1)  # a critic sees a second batch
        self.held_out = "validation" if "validation" in dataset.splits else "test"
        self.split_terms = make_split_terms(model, transform=transform, seed=config.seed)

    def train(
        self,
        train_step: TrainStep,
        state: TrainState,
        devices: Sequence[Device],
        signals: _Signals,
    ) -> TrainState:
        """Steps until `num_steps` or a signal."""
        config, step = self.config, int(state.step)
        if step >= config.num_steps:
            return state
        resident = is_resident(config.placement, self.dataset, devices)
        if not self.quiet:
            print(described(self.dataset, devices, resident), file=sys.stderr)
        train_step = mapped_step(train_step, devices, resident, self.streams)
        feed = make_feed(
            self.dataset,
            devices,
            resident,
            self.streams,
            seed=config.seed,
            steps=range(step, config.num_steps),
            batch_size=config.batch_size,
        )
        state = replicated(state, devices)
        label = f"{config.regularizer} x {config.prior} on {config.dataset}"
        with (
            MetricsLog(self.workdir, step, config.tensorboard) as log,
            ProgressReport(label, step, config.num_steps, self.quiet) as progress,
        ):
            pending, metrics, first = None, {}, step + 1
            while step < config.num_steps and not signals.received:
                state, metrics = train_step(state, *next(feed))
                step += 1
                if step == first:
                    log.compiled(step)
                # What the last logged step gave is fetched only now, while this one runs.
                self._log(pending, log, progress)
                pending = (step, metrics) if self._due(step, config.log_every) else None
                if self._due(step, config.eval_every) or self._due(step, config.checkpoint_every):
                    self._log(pending, log, progress)
                    pending = None
                    self._evaluate_and_save(step, state, metrics, log)
                progress.update(step)
            self._log(pending, log, progress)
            if step not in self.checkpoints.steps():
                self._save(state, metrics, log)
            self.checkpoints.wait()
        return state

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.config.num_steps

    def _log(self, pending: Any, log: MetricsLog, progress: ProgressReport) -> None:
        if pending is None:
            return
        step, metrics = pending
        values = {name: float(value) for name, value in sorted(metrics.items())}
        log.write(step, "train", values)
        progress.note(step, {name: values[name] for name in _SHOWN}, log.write_timing(step))

    def _evaluate_and_save(
        self, step: int, state: TrainState, metrics: Mapping[str, Any], log: MetricsLog
    ) -> None:
        if self._due(step, self.config.eval_every):
            terms = self.split_terms(state.variables(), self.dataset.splits[self.held_out])
            log.write(step, self.held_out, means(terms))
        if self._due(step, self.config.checkpoint_every):
            self._save(state, metrics, log)

    def _save(self, state: TrainState, metrics: Mapping[str, Any], log: MetricsLog) -> None:
        step = int(state.step)
        check_finite(step, metrics)
        log.sync()
        copy = host_copy(state)
        leaves = jax.tree.leaves_with_path(copy)
        check_finite(step, {jax.tree_util.keystr(path): leaf for path, leaf in leaves})
        self.checkpoints.save(copy)


class _Signals:
    """SIGTERM and SIGINT end the loop after the current step; a second one acts as usual."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])
