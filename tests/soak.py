"""Runs that are killed, edited and moved to other devices again and again, against their twins.

    python tests/soak.py --rounds 20 --seed 0 --folder /tmp/soak

A round is a run of one of six regularizers with one of two priors: started, killed (SIGKILL, at a
moment, inside a save, ...) and started again until it is complete.  All that it then has must be
what an uninterrupted twin has.  `tally.jsonl` gets a line for every round; the same command goes
on after the last one.  The last line of the output is the tally of all; status 1 tells of a
difference, and the folder of such a round is kept.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from test_processes import assert_same_training, start_of
from test_resume import assert_identical, config_of, contents
from trainers import AIMS, Training

import vaejax
from vaejax.training.checkpoint import Checkpoints, saved_steps

REGULARIZERS = ("none", "beta_h", "beta_b", "beta_tc", "factor", "info")
PAIRS = list(itertools.product(REGULARIZERS, ("standard_normal", "decoupled")))
# A round may change how data are fed, or the number of devices, or begin without compiled programs.
KINDS = ("plain", "plain", "edits", "plain", "devices", "plain", "cold")
NUM_STEPS, KEEP = 800, 3
ALLOWED = ("placement=streamed", "placement=resident", "steps_per_dispatch=6")
REFUSED = (
    *(f"--config.{edit}" for edit in ("seed=1", "num_steps=900", "log_every=5", "batch_size=12")),
    *(f"--config.{edit}" for edit in ("latent_dim=3", "datasets.two_moons.num_train=120")),
    *("--devices=5", "--checkpoint=7"),
)


class Twin(NamedTuple):
    """The run that nothing happens to, which keeps all of its checkpoints."""

    folder: Path
    like: Any  # a state
    config: Any = None
    seconds: float = 0  # that it took, with its compilation

    @property
    def lines(self) -> list[str]:
        return (self.folder / "metrics.jsonl").read_text().splitlines(keepends=True)

    def state(self, folder: Path, step: int):
        with Checkpoints(folder) as checkpoints:
            return checkpoints.restore(self.like, step)

    def check_interrupted(self, folder: Path, before: list[int], is_exact: bool):
        """Nothing is lost: neither checkpoints nor the lines of metrics that belong to them."""
        saved, path = max(saved_steps(folder), default=0), folder / "metrics.jsonl"
        assert saved >= max(before, default=0), f"{before} became {saved_steps(folder)}"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        lines = [line for line in lines if line[-1] == "\n"]
        if is_exact:
            assert lines == self.lines[: len(lines)], "metrics differ"
        needed = [line for line in self.lines if json.loads(line)["step"] <= saved > 0]
        assert len(lines) >= len(needed), f"lines of metrics before checkpoint {saved} are lost"
        if is_exact and saved:
            assert_identical(self.state(folder, saved), self.state(self.folder, saved))

    def check_complete(self, folder: Path, is_exact: bool):
        """All that the run has in the end is what the twin has, and nothing else is there."""
        kept = saved_steps(self.folder)[-KEEP:]
        assert saved_steps(folder) == kept, f"checkpoints {saved_steps(folder)}, not {kept}"
        names = [sorted(path.name for path in each.iterdir()) for each in (folder, self.folder)]
        assert names[0] == names[1], f"files {names[0]}, not {names[1]}"
        assert sorted(map(str, kept)) == sorted(p.name for p in (folder / "checkpoints").iterdir())
        keys = [json.loads((each / "config.json").read_text()) for each in (folder, self.folder)]
        assert keys[0] == {**keys[1], "keep_checkpoints": KEEP}, "config.json differs"
        cards = [(each / "dataset.json").read_bytes() for each in (folder, self.folder)]
        assert cards[0] == cards[1], "dataset.json differs"
        if not is_exact:
            start = start_of(self.config)  # a cost that is almost 0 is a difference of large ones
            assert_same_training(folder, self.folder, start, kept, rounding=1e-2)
            return
        assert (folder / "metrics.jsonl").read_text() == "".join(self.lines), "metrics differ"
        for step in kept:
            assert_identical(self.state(folder, step), self.state(self.folder, step))


def trained_twin(folder: Path, config, cache: Path) -> Twin:
    config = config.copy_and_resolve_references()
    config.keep_checkpoints = NUM_STEPS
    training, since = Training(folder, config, cache), time.monotonic()
    training.start()
    if training.status() != 0:
        raise SystemExit(f"the twin {folder} ended: {training.said.read_text()}")
    return Twin(folder, vaejax.load(folder)[1], config, max(time.monotonic() - since, 20.0))


def refuse(training: Training, flag: str):
    """Start with what is not allowed."""
    before = contents(training.folder)
    training.start(flag)
    status, said = training.status(), training.said.read_text()
    assert status == 2, f"{flag}: status {status}: {said[-300:]}"
    assert said.startswith("vaejax: error: "), said
    assert said.count("\n") == 1, said
    assert contents(training.folder) == before, f"{flag} changed files"


def play(training: Training, twin: Twin, kind: str, draws: random.Random, kills: int, row: dict):
    """One round; `row` gets its tally.  Raises AssertionError."""
    is_exact = kind != "devices"
    for _ in range(kills):
        edits, is_claimed = [], (training.folder / "config.json").exists()
        if is_claimed and kind == "edits":
            edits = [f"--config.{edit}" for edit in ALLOWED if draws.random() < 0.4]
            row["edits"] += len(edits)
        if kind == "devices":
            before, training.devices = training.devices, draws.choice((1, 2, 4))
            row["device changes"] += is_claimed and training.devices != before
        if is_claimed and draws.random() < 0.15:
            refuse(training, draws.choice(REFUSED))
            row["refusals"] += 1
        aim = draws.choices(list(AIMS), list(AIMS.values()))[0]
        training.start(*edits)
        if not training.kill_at(aim, draws, twin.seconds / 2):
            said = training.said.read_text()
            assert training.process.exitcode == 0, f"{training.process.exitcode}: {said[-300:]}"
            row["too late"] += 1
            break
        row["kills"].append((aim, training.landing()))
        told = f"round {row['round']}, {row['pair']}: aimed at {aim}, killed {row['kills'][-1][1]}"
        print(f"{told}, checkpoints {training.before} -> {training.saved()}", file=sys.stderr)
        twin.check_interrupted(training.folder, training.before, is_exact)
    training.start()
    status = training.status()
    assert status == 0, f"status {status}: {training.said.read_text()[-300:]}"
    twin.check_complete(training.folder, is_exact)


def tally(rows: list[dict]) -> dict:
    """The sum of all rounds."""
    kills = [tuple(kill) for row in rows for kill in row["kills"]]
    counts = ("starts", "too late", "edits", "device changes", "refusals")
    return {
        "rounds": len(rows),
        "kinds": collections.Counter(row["kind"] for row in rows),
        "runs of": collections.Counter(row["pair"] for row in rows),
        "kills": len(kills),
        "aimed at": collections.Counter(aim for aim, _ in kills),
        "landed": collections.Counter(landing for _, landing in kills),
        **{name: sum(row[name] for row in rows) for name in counts},
        "different": [row for row in rows if row["wrong"]],
    }


def round_of(number: int, options: argparse.Namespace, twins: dict) -> dict:
    """Play it.  -> its row."""
    kind, (regularizer, prior) = KINDS[number % len(KINDS)], PAIRS[number % len(PAIRS)]
    pair, cache = f"{regularizer} x {prior}", options.folder / "cache"
    values = {"optimizer": "sgd"} if kind == "devices" else {}
    values |= {"regularizer": regularizer, "prior": prior, "num_steps": NUM_STEPS}
    config, name = config_of(keep_checkpoints=KEEP, **values), "-".join(map(str, values.values()))
    if name not in twins:
        twins[name] = trained_twin(options.folder / "twins" / name, config, cache)
    folder = options.folder / f"round{number}"
    shutil.rmtree(folder, ignore_errors=True)  # of a soak that was interrupted
    training = Training(folder / "run", config, folder / "cache" if kind == "cold" else cache)
    row = {"round": number, "kind": kind, "pair": pair, "kills": [], "wrong": ""}
    row |= dict.fromkeys(("edits", "device changes", "refusals", "too late"), 0)
    try:
        draws = random.Random(f"{options.seed} {number}")
        play(training, twins[name], kind, draws, options.kills, row)
    except Exception as error:  # also what vaejax raises for what it cannot read
        where = traceback.extract_tb(error.__traceback__)[-1]
        row["wrong"] = f"{type(error).__name__}: {error} in {where.name}: {where.line}"[:600]
    finally:
        training.kill()
    if not row["wrong"]:
        shutil.rmtree(folder)
    return row | {"starts": training.num_started}


def main() -> int:
    """-> exit status: 0, or 1 where a run differs from its twin."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=12, help="of a round, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    flags = " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags
    more = {"JAX_PLATFORMS": "cpu", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0"}
    os.environ.update(more, OPENBLAS_NUM_THREADS="1")  # a fork copies no threads
    multiprocessing.set_forkserver_preload(["__main__"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path, twins = options.folder / "tally.jsonl", {}
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {row["round"]: row for row in map(json.loads, lines)}
    try:
        for number in range(options.rounds):
            if number in rows and not rows[number]["wrong"]:
                continue
            since = time.monotonic()
            row = round_of(number, options, twins) | {"seconds": 0}
            row["seconds"] = round(time.monotonic() - since)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            rows[number] = row
            print(json.dumps(row), flush=True)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
    print(json.dumps(tally(list(rows.values()))))
    return int(any(row["wrong"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
