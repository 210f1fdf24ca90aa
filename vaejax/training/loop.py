"""`fit` trains a run, or continues it; `load` reads it back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vaejax.compilation import keep_compiled_programs
from vaejax.config import saved_config, to_json
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from
from vaejax.locks import held
from vaejax.models.vae import VAE
from vaejax.parallel import (
    check_alike,
    from_first_process,
    is_first_process,
    largest_before,
    own,
    together,
    usable_devices,
)
from vaejax.progress import ProgressReport, said
from vaejax.training import feed as feeding
from vaejax.training import workdir as files
from vaejax.training.checkpoint import Checkpoints, saved_steps, set_aside
from vaejax.training.forensics import origin
from vaejax.training.metrics import MetricsLog, NonFiniteError
from vaejax.training.plan import Plan, lone_plan
from vaejax.training.recovery import SPLIT, is_skipped
from vaejax.training.run import Run, model_of
from vaejax.training.signals import Signals
from vaejax.training.state import TrainState, make_initial_state
from vaejax.types import Device, Metrics

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
    """Train until `config.num_steps`, continuing what `workdir` holds.  -> (model, state, config).

    workdir: a folder; it takes the config, checkpoints and `metrics.jsonl`.  What is given back is
    what `load` reads from it: a Flax module, its arrays, and the config as it was trained.  A bar
    shows step, loss and time left, unless `quiet`.  `dataset` replaces the one the config names.
    `num_devices`: by default all that divide the batch evenly.  `checkpoint`: go back to that step;
    later checkpoints move to `set_aside/`.  A SIGTERM saves a checkpoint and returns early; a
    SIGINT saves one and raises KeyboardInterrupt with the step.  Raises ValueError for bad input
    and for a folder that holds another config's run, before anything is written, and NonFiniteError
    when a loss or a gradient is not finite and `config.recovery` has nothing more to try.  Where
    JAX was started with several processes, all of them call this alike; the first one alone needs
    the folder, and a signal to any ends all.

    >>> config = vaejax.load_config("configs/tiny.py:digits")
    >>> model, state, config = vaejax.fit(config, "runs/digits", quiet=True)
    """
    with together():
        run = Run(config, Path(workdir), dataset_from(config, dataset), checkpoint)
        devices = usable_devices(config.batch_size, num_devices)
    check_alike(f"{to_json(run.config)} {len(devices)}", "config, data and number of devices")
    run.lowered = _array_of_first(run.lowered)
    keep_compiled_programs()
    last = max(run.saved, default=0) if checkpoint is None else checkpoint
    step = int(from_first_process(np.int64(last)))

    def state() -> TrainState:
        with together():
            found = _restored(run, step, checkpoint) if run.saved else run.start()
        return from_first_process(found)

    plan = lone_plan(run)._replace(state=state)
    try:
        return run.model, train(plan, step, devices, quiet), run.config
    except NonFiniteError as error:
        if len(run.lowered) >= run.recovery.retreats:
            raise
        with together():
            _retreat(run, error, quiet)
    return fit(config, workdir, dataset, num_devices=num_devices, quiet=quiet)


def _array_of_first(array: np.ndarray) -> np.ndarray:
    """That of process 0, whatever the others have; (n, 2)."""
    num = int(from_first_process(np.int64(len(array))))
    return from_first_process(array if is_first_process() else np.zeros((num, 2)))


def _retreat(run: Run, error: NonFiniteError, quiet: bool) -> None:
    """Let the run go on from its last checkpoint with lower learning rates."""
    if not run.writes:
        return
    step, factor = max(saved_steps(run.workdir), default=0), run.recovery.factor
    with held(run.workdir / ".lock", str(run.workdir)), MetricsLog(run.workdir, step) as log:
        log.write(step, SPLIT, {"failed_step": error.step, "factor": factor})
    if not quiet:
        again = f"goes on from step {step} with learning rates times {factor:g}"
        said(f"recovery: {error}; {again}")


def _restored(run: Run, step: int, checkpoint: int | None) -> TrainState:
    restored = run.checkpoints.restore(run.shapes(), step)
    if checkpoint is not None:
        set_aside(run.workdir, after=checkpoint)
        run.checkpoints.reload()
    return restored


def load(workdir: str | Path, checkpoint: int | None = None) -> tuple[VAE, TrainState, ConfigDict]:
    """(model, state, config) of a run, from its folder alone; the latest checkpoint by default.

    `model.apply(state.variables(), ...)` works under plain `jit`, and `model.bind` of the same
    gives its parts.  Raises ValueError when there is no run, or its checkpoint cannot be read.

    >>> model, state, config = vaejax.load("runs/digits")
    >>> model.bind(state.variables()).prior.sample(jax.random.key(0), 3).shape
    (3, 2)
    """
    workdir = Path(workdir)
    config = saved_config(workdir)
    card = files.saved_card(workdir)
    model, players = model_of(config, card)
    state_of = make_initial_state(model, players, tuple(card["x_shape"]), config.ema_decay)
    like = jax.eval_shape(state_of, np.uint32(0))
    with Checkpoints(workdir) as checkpoints:
        return model, checkpoints.restore(like, checkpoint), config


def train(plan: Plan, step: int, devices: Sequence[Device], quiet: bool) -> TrainState:
    """Steps from `step` on, until all are done or a signal comes.  -> the state then.

    Raises ValueError where the folder of a run cannot be had, KeyboardInterrupt with the step after
    a SIGINT, and NonFiniteError.
    """
    config = plan.runs[0].config
    with Signals() as signals:
        try:
            with together():
                for run in plan.runs:
                    run.claim()
            if step >= config.num_steps:
                return plan.state()
            loop = _Loop(plan, step, devices, quiet)
            state = loop.run(signals)
        finally:
            for run in plan.runs:
                run.close()
    _raise_errors(plan.runs, quiet)
    if signal.SIGINT in (loop.received, signals.received):
        raise KeyboardInterrupt(int(np.ravel(state.step)[0]))
    return state


def _raise_errors(runs: Sequence[Run], quiet: bool) -> None:
    """Raise one NonFiniteError for the runs that ended in one, with where each began."""
    said, steps = [], []
    for run in runs:
        if run.error:
            name = "" if len(runs) == 1 else f"{run.workdir.name}: "
            said.append(f"{name}{run.error}")
            if run.writes:
                said.append(origin(run, run.error.step, quiet))
            steps.append(run.error.step)
    if said:
        raise NonFiniteError("; ".join(said), min(steps))


class _Loop:
    """Dispatches until the end; what a dispatch gave is fetched while the next one runs."""

    def __init__(self, plan: Plan, step: int, devices: Sequence[Device], quiet: bool):
        config, dataset = plan.runs[0].config, plan.runs[0].dataset
        self.plan, self.step, self.num_steps = plan, step, config.num_steps
        supply = plan.supply(devices)
        if not quiet:
            said(feeding.described(dataset, devices, supply.is_resident))
        stops = (config.eval_every, config.checkpoint_every)
        parts = feeding.dispatches(range(step, config.num_steps), supply.most, stops)
        self.feed = feeding.make_feed(supply, supply.source(devices), devices, parts)
        self.program: Any = feeding.mapped_steps(plan.train_step, devices, supply)
        self.first = next(self.feed)
        arguments = plan.state_shapes(devices), *self.first.arguments
        with ThreadPoolExecutor(1) as pool:  # the program compiles while the state is made
            alone = len(own(devices)) == len(devices)  # `pmap` lowers for all or none
            compiling = pool.submit(lambda: alone and self.program.lower(*arguments).compile())
            self.state = plan.placed_state(devices)
            feeding.check_fits(compiling.result(), devices)
        with together():
            for run in plan.runs:
                run.open_log(step)
        for run in plan.runs:
            run.skipped = int(from_first_process(np.int64(run.skipped)))
        self.agreed, self.received = largest_before(devices), 0
        label = f"{config.regularizer} x {config.prior} on {config.dataset}"
        self.progress = ProgressReport(label, step, config.num_steps, quiet)

    def run(self, signals: Signals) -> TrainState:
        """Until the last step or a signal."""
        dispatch, pending, values = self.first, None, [{} for _ in self.plan.runs]
        with self.progress:
            while dispatch is not None and not self._is_stopped(signals):
                with jax.transfer_guard("disallow"):
                    self.state, metrics = self.program(self.state, *dispatch.arguments)
                self.step = dispatch.steps.stop
                if dispatch is self.first:
                    for run in self._going():
                        run.log.compiled(self.step)
                self._log(pending)
                pending = (dispatch.steps, metrics)
                if dispatch is self.first:  # seen at once
                    values, pending = self._log(pending), None
                dispatch = next(self.feed, None)
                if self.plan.runs[0].is_stop(self.step):
                    values, pending = self._log(pending) or values, None
                    self._look(values)
                self.progress.update(self.step)
                if not self._going():
                    break
            values = self._log(pending) or values
            self._save(values)
            with together():
                for run in self._going():
                    run.wait()
        return self.state

    def _is_stopped(self, signals: Signals) -> bool:
        self.received = self.agreed(signals.received or 0)
        return self.received != 0

    def _going(self) -> list[Run]:
        return [run for run in self.plan.runs if run.error is None]

    def _log(self, pending: tuple[range, Metrics] | None) -> list[dict[str, np.ndarray]]:
        """Log the steps of a dispatch that are due.  -> the metrics of its last, of every run."""
        if pending is None:
            return []
        steps, metrics = pending
        fetched = {name: np.asarray(values) for name, values in metrics.items()}
        rows = [self.plan.each({n: v[k] for n, v in fetched.items()}) for k in range(len(steps))]
        # (most, [replicas]): what is not finite, or skipped, is logged whenever it comes.
        finite = np.logical_and.reduce([np.isfinite(values) for values in fetched.values()])
        for step, row, whole in zip(steps, rows, finite, strict=False):
            for run, values, is_finite in zip(self.plan.runs, row, np.ravel(whole), strict=True):
                is_due = run.is_due(step + 1, run.config.log_every) or is_skipped(values)
                if run.error is None and (is_due or not is_finite):
                    self._guarded(run, self._note, run, step + 1, values)
        return rows[-1]

    def _note(self, run: Run, step: int, values: dict[str, np.ndarray]) -> None:
        numbers, rate = run.write(step, values)
        if run is self.plan.runs[0]:
            self.progress.note(step, {name: numbers[name] for name in _SHOWN}, rate)

    def _look(self, values: list[dict[str, np.ndarray]]) -> None:
        """Evaluate and save what is due now, `values` being the metrics of the last step."""
        for run, state, last in zip(
            self.plan.runs, self.plan.each(self.state), values, strict=True
        ):
            if run.error is None:
                self._guarded(run, run.evaluate_and_save, self.step, state, last)

    def _save(self, values: list[dict[str, np.ndarray]]) -> None:
        for run, state, last in zip(
            self.plan.runs, self.plan.each(self.state), values, strict=True
        ):
            if run.error is None:
                self._guarded(run, run.save, state, last)

    def _guarded(self, run: Run, action: Callable[..., None], *arguments: Any) -> None:
        """A run whose numbers are not finite ends; other replicas go on."""
        try:
            action(*arguments)
        except NonFiniteError as error:
            if run.writes:
                run.checkpoints.wait()
            saved = saved_steps(run.workdir) if run.writes else []
            good = f"checkpoint {saved[-1]} is the last good one" if saved else "nothing was saved"
            run.error = NonFiniteError(f"{error}; {good}" if run.writes else str(error), error.step)
