"""`metrics.jsonl`, a function of the run alone, and `timing.jsonl`, what the clock said."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaejax.records import check_kinds, parsed
from vaejax.training.workdir import write_text

_NAMES = ("nan", "inf", "-inf")
_KINDS = {"step": int, "split": str}  # all else is numbers


class NonFiniteError(RuntimeError):
    """A loss, a gradient or a parameter that is not finite; `step` is where that was seen."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class MetricsLog:
    """Appends one JSON object per line; resuming at `step` first drops every later line."""

    def __init__(self, workdir: Path, step: int, tensorboard: bool = False):
        self._started = time.monotonic()
        self._before = (step, self._started)
        self._metrics = _resumed(workdir / "metrics.jsonl", step)
        self._timing = _resumed(workdir / "timing.jsonl", step)
        self._events = None
        if tensorboard:
            self._events = event_writer()(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()
        self._timing.close()
        if self._events:
            self._events.close()

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        _append(self._metrics, {"step": step, "split": split, **_plain(values)})
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(f"{split}/{name}", value, step)

    def compiled(self, step: int) -> None:
        """Measure the rate from here: `step`, the first of this process, mostly compiled."""
        self._before = (step, time.monotonic())

    def write_timing(self, step: int) -> float:
        """One line of wall-clock figures.  -> steps per second since the line before."""
        now = time.monotonic()
        last_step, last = self._before
        self._before = (step, now)
        rate = (step - last_step) / max(now - last, 1e-9)
        row = {"step": step, "seconds": round(now - self._started, 3)}
        _append(self._timing, {**row, "steps_per_second": round(rate, 3)})
        return rate

    def sync(self) -> None:
        """Put every line on disk: a checkpoint must not be newer than the lines before it."""
        for file in (self._metrics, self._timing):
            file.flush()
            os.fsync(file.fileno())


class SilentLog(MetricsLog):
    """That of a process that writes nothing: another one has the same numbers."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = (0, self._started)
        self._metrics = self._timing = open(os.devnull, "w")  # noqa: SIM115
        self._events = None

    def sync(self) -> None: ...


def event_writer() -> Any:
    """tensorboardX's SummaryWriter.  Raises ValueError where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError("config.tensorboard needs: pip install 'vaejax[tensorboard]'") from error
    # A skipped step is written as it was; a line for each of its numbers says no more.
    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
    return SummaryWriter


def check_finite(step: int, values: Mapping[str, Any]) -> None:
    """Raise NonFiniteError, naming step and values (numbers or arrays), unless all are finite."""
    bad = [name for name, value in values.items() if not np.isfinite(value).all()]
    if bad:
        names = ", ".join(sorted(bad))
        raise NonFiniteError(f"at step {step} these are not finite: {names}", step)


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, 'nan' and 'inf' as floats; [] where there is no file.

    A last line cut short by a crash is left out.  Raises ValueError for any other damage.
    """
    return [row for _, row in _lines(path, _KINDS)]


def _lines(path: Path, needed: Mapping[str, type]) -> list[tuple[str, dict[str, Any]]]:
    if path.exists() and not path.is_file():  # a pipe, or a device without an end
        raise ValueError(f"{path} is no file")
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
    return [(line, _row(path, number, line, needed)) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: str, needed: Mapping[str, type]) -> dict[str, Any]:
    try:
        row = parsed(line)
        check_kinds(row, needed)
        # JSON has no number for what is not finite.
        others = {k: v for k, v in row.items() if type(v) is not float and k not in _KINDS}
        values = {k: float(v) if v in _NAMES else v for k, v in others.items()}
        check_kinds(values, dict.fromkeys(values, float))
    except ValueError as error:
        raise ValueError(f"{path} line {number} is damaged: {line[:60]!r}") from error
    return {**row, **values}


def _plain(values: Mapping[str, float]) -> dict[str, Any]:
    # JSON has no NaN; the strings 'nan' and 'inf' keep the line readable by any parser.
    return {name: v if math.isfinite(v) else str(v) for name, v in values.items()}


def _append(file: Any, row: Mapping[str, Any]) -> None:
    try:
        file.write(json.dumps(row) + "\n")
        file.flush()
    except OSError as error:  # which does not say of which file
        with contextlib.suppress(OSError):  # what was not written is not tried again
            file.close()
        raise OSError(error.errno, error.strerror, file.name) from error


def _resumed(path: Path, step: int) -> Any:
    if os.path.lexists(path):  # a link gives way to a file of the run
        kept = [line for line, row in _lines(path, {"step": int}) if row["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))
    return path.open("a")
