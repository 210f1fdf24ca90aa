"""How a command ends that cannot go on: in one line, which says what would help, and a status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vaejax.memory import is_exhausted

_LONGEST = 1_000  # characters of a line
# Command -> what takes less memory.
KNOBS = {
    "train": "lower config.batch_size, config.steps_per_dispatch or the widths of the parts, or "
    "take config.placement=streamed",
    "evaluate": "lower --importance-samples or --samples",
    "sample": "lower --num",
    "replay": "lower config.batch_size of the run",
    "figures": "ask for fewer --figures at a time",
    "fit-density": "take another --density, or lower its sizes in config.densities",
    "report": "take fewer runs at a time",
    "table": "lower samples or importance_samples of the table, or batch_size of its runs",
    "bench": "lower config.batch_size or --replicas",
}


class OneLineParser(argparse.ArgumentParser):
    """Whose errors come without the usage that argparse prints first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"vaejax: error: {one_line(message)}; see --help\n")


def one_line(text: str) -> str:
    """`text` in one line that no terminal takes for commands, cut where it is long."""
    words = " ".join(text.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def refuse_strangers(arguments: Sequence[str], overrides: Sequence[str]) -> None:
    """Raise ValueError unless only --config.KEY=VALUE, or --config.KEY VALUE, is left over."""
    for argument in arguments:
        if any(character < " " for character in argument):
            raise ValueError(f"the argument {argument!r} has control characters")
    value_follows = False
    for argument in overrides:
        if not argument.startswith("--config.") and not value_follows:
            raise ValueError(f"unknown argument {argument!r}; see --help")
        value_follows = argument.startswith("--config.") and "=" not in argument


def told(error: Exception, command: str) -> int | None:
    """Print one line about an error.  -> the exit status; None for a bug, of which nothing is said.

    2 is for bad input and a lack of memory, 1 for a diverged run.
    """
    status, text = _status(error), str(error) or type(error).__name__
    if is_exhausted(error):
        knob = KNOBS.get(command, "take a machine with more")
        status, text = 2, f"out of memory ({one_line(text)[:300]}); {knob}"
    if status is not None:
        print(f"vaejax: error: {one_line(text)}", file=sys.stderr)
    return status


def _status(error: Exception) -> int | None:
    if type(error).__name__ == "NonFiniteError":
        return 1
    if isinstance(error, OSError):
        return 2
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    # Our own code raises ValueError for bad input only; one from inside a library is a bug.
    ours = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("vaejax")
    return 2 if ours and isinstance(error, ValueError) else None


def show_warning(message: Any, category: type[Warning], filename: str, *more: Any) -> None:
    """Print one of our own; others are for those who write libraries."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(Path(__file__).parent):
        print(f"vaejax: warning: {one_line(str(message))}", file=sys.stderr)
