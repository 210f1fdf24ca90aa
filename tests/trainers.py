"""Trainers in processes of their own, killed at what they are at; `soak.py` starts them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

from vaejax.cli import main
from vaejax.config import to_json
from vaejax.training.checkpoint import saved_steps

AIMS = {"save": 0.42, "moment": 0.25, "metrics": 0.13, "removal": 0.1, "file": 0.1}
PATIENCE = 900  # seconds until a process that does not end is given up


def trainer(flags, said, cache):
    """`vaejax train`, in a process of its own that writes what it says to the file `said`."""
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["VAEJAX_CACHE"] = str(cache)
    sys.exit(main(["train", "--quiet", *flags]))


class Training:
    """A run and its trainers, one after the other; `folder` is the run's."""

    def __init__(self, folder: Path, config, cache: Path):
        self.folder, self.cache, self.said = folder, cache, folder.with_suffix(".said")
        self.config, self.num_started, self.devices = config, 0, 2
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.with_suffix(".json").write_text(to_json(config))

    def start(self, *flags: str):
        given = "--config", self.folder.with_suffix(".json"), "--workdir", self.folder
        flags = (*map(str, given), f"--devices={self.devices}", *flags)
        self.started, self.before = time.time_ns(), self.saved()
        self.num_started += 1
        context = multiprocessing.get_context("forkserver")  # which has imported what is needed
        arguments = flags, self.said, self.cache
        self.process = context.Process(target=trainer, args=arguments, daemon=True)
        self.process.start()

    def status(self) -> int | None:
        """Of a trainer that nothing happens to, at its end."""
        self.process.join(PATIENCE)
        status = self.process.exitcode
        self.kill()
        return status

    def kill(self) -> bool:
        """Whether it was still there."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def is_new(self, path: Path) -> bool:
        """Whether the trainer has touched `path`."""
        try:
            return path.stat().st_ctime_ns > self.started
        except FileNotFoundError:
            return False

    def has_resumed(self) -> bool:
        """Whether what an earlier one left half done is gone."""
        return self.is_new(self.folder / "metrics.jsonl")

    def under_way(self) -> tuple[list[int], list[int]]:
        """Steps of the checkpoints that are being written, and of those that are being removed."""
        names = [path.name for path in (self.folder / "checkpoints").glob("*.orbax-*")]
        steps, newest = [int(name.split(".")[0]) for name in names], max(self.saved(), default=0)
        return [each for each in steps if each > newest], [each for each in steps if each < newest]

    def saved(self) -> list[int]:
        return saved_steps(self.folder)

    def partial(self) -> bool:
        """Whether a file is being replaced."""
        return any(map(self.is_new, self.folder.glob(".*.partial")))

    def kill_at(self, aim: str, draws: random.Random, seconds: float) -> bool:
        """Kill it there, or later where that is over too soon.  -> whether it was still there.

        `seconds`: the longest until a random moment.
        """
        metrics, seen = self.folder / "metrics.jsonl", set()
        first = metrics.stat().st_size if metrics.exists() else 0
        count, size = draws.randint(1, 3), first + draws.randint(1, 6000)
        limit = draws.uniform(0, seconds) if aim == "moment" else PATIENCE

        def is_due() -> bool:
            if aim == "file" and self.partial():
                return True
            if aim == "moment" or not self.has_resumed():
                return False
            written, removed = self.under_way()
            seen.update(written)
            if aim == "save":
                return len(seen) >= count and bool(written)
            if aim == "metrics":
                return metrics.stat().st_size >= size
            return (aim == "removal" and bool(removed)) or len(seen) > 4

        since = time.monotonic()
        while self.process.exitcode is None:
            if is_due() or time.monotonic() - since > limit:
                time.sleep(draws.uniform(0, 0.15) if aim == "save" else 0)
                break
            time.sleep(0.0005)
        return self.kill()

    def landing(self) -> str:
        """What the trainer was at when it was killed, by what is on disk."""
        metrics, saved = self.folder / "metrics.jsonl", self.saved()
        if not (self.folder / "config.json").exists():
            return "before the folder is claimed"
        if self.partial():
            return "while a file is replaced"
        if not self.has_resumed():
            return "before the first step"
        written, removed = self.under_way()
        if written or removed:
            return "inside a save" if written else "inside the removal of a checkpoint"
        text = metrics.read_text()
        if text and text[-1] != "\n":
            return "inside a line of metrics"
        if self.config.num_steps in saved:
            return "after the last save"
        steps = [json.loads(line)["step"] for line in text.splitlines()]
        done = max(self.before, default=0)
        is_going = saved != self.before or max(steps, default=0) > done
        return "between saves" if is_going else "before the first step"
