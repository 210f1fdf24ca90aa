"""Progress of a run: a bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class ProgressReport:
    """`update` after every step, `note` with figures now and then.

    The number of steps is 0 where it is not known beforehand.
    """

    def __init__(self, label: str, step: int, num_steps: int, quiet: bool = False):
        self._label, self._num_steps, self._first = label, num_steps, step
        self._started = self._said = time.monotonic()
        self._bar, self._has_figures = None, False
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            columns += (TextColumn("{task.fields[note]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, transient=False)
            self._task = self._bar.add_task(label, total=num_steps or None, completed=step, note="")

    def __enter__(self) -> ProgressReport:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int) -> None:
        """Say that `step` updates are done."""
        if self._bar:
            self._bar.update(self._task, completed=step)
        elif not self._has_figures and self._is_time():
            total = f"/{self._num_steps:,}" if self._num_steps else ""
            print(f"{self._label}  {step:,}{total}", file=sys.stderr)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if self._quiet or now - self._said < _SECONDS_BETWEEN_LINES:
            return False
        self._said = now
        return True

    def note(self, step: int, values: Mapping[str, float], rate: float) -> None:
        """Show the figures of `step` and the rate in steps per second."""
        self._has_figures = True  # then plain lines wait for these
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        text = f"{text}  {rate:.3g} steps/s"
        if self._bar:
            self._bar.update(self._task, note=text)
            return
        if not (self._is_time() or (step == self._num_steps and not self._quiet)):
            return
        left = (self._num_steps - step) / max(rate, 1e-9)
        print(
            f"{self._label}  step {step}/{self._num_steps}  {text}  {left:.0f} s left",
            file=sys.stderr,
        )
