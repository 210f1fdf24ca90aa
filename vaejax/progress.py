"""Progress of a run: a bar in a terminal or a notebook, plain lines anywhere else."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_SHOWN = 0.2  # in a notebook


def said(line: str) -> None:
    """Show a line; not where a notebook would make it look like an error."""
    print(line, file=sys.stdout if _is_notebook() else sys.stderr)


def _is_notebook() -> bool:
    """Whether output goes to a cell."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


class NotebookBar:
    """One output of a cell, replaced as often as it is shown; what stays is the last."""

    def __init__(self, label: str, num_steps: int):
        from IPython.display import display  # there is one where there is a notebook

        self._label, self._num_steps, self._note, self._shown = label, num_steps, "", 0.0
        self._handle: Any = display(self._content(0), raw=True, display_id=True)

    def show(self, step: int, note: str | None = None, now: bool = False) -> None:
        """Show what is done, and the note, unless it was shown a moment ago."""
        self._note = self._note if note is None else note
        if now or time.monotonic() - self._shown >= _SECONDS_BETWEEN_SHOWN:
            self._shown = time.monotonic()
            self._handle.update(self._content(step), raw=True)

    def _content(self, step: int) -> dict[str, str]:
        total = f" of {self._num_steps:,}" if self._num_steps else ""
        text = f"{self._label}: {step:,}{total}" + (f"  {self._note}" if self._note else "")
        share = f' max="{self._num_steps}" value="{step}"' if self._num_steps else ""
        bar = f'<progress{share} style="width: 12em"></progress> <code>{html.escape(text)}</code>'
        return {"text/plain": text, "text/html": bar}


class ProgressReport:
    """`update` after every step, `note` with figures now and then.

    The number of steps is 0 where it is not known beforehand.
    """

    def __init__(self, label: str, step: int, num_steps: int, quiet: bool = False):
        self._label, self._num_steps, self._first = label, num_steps, step
        self._started = self._said = time.monotonic()
        self._bar, self._cell, self._has_figures = None, None, False
        self._quiet = quiet
        self._step = step
        if not quiet and _is_notebook():
            self._cell = NotebookBar(label, num_steps)
        elif not quiet and sys.stderr.isatty():
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
        if self._cell:
            self._cell.show(self._step, now=True)

    def update(self, step: int) -> None:
        """Say that `step` updates are done."""
        self._step = step
        if self._bar:
            self._bar.update(self._task, completed=step)
        elif self._cell:
            self._cell.show(step)
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
        if self._cell:
            self._cell.show(self._step, text)
            return
        if not (self._is_time() or (step == self._num_steps and not self._quiet)):
            return
        left = (self._num_steps - step) / max(rate, 1e-9)
        print(
            f"{self._label}  step {step}/{self._num_steps}  {text}  {left:.0f} s left",
            file=sys.stderr,
        )
