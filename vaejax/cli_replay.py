"""The part of the command line that takes a step of a run again: flags and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SHOWN = 12  # lines at most


def replay_command(commands: Any) -> None:
    """Add `replay` to the parser's commands."""
    text = "take a step of a run again, and say where numbers stop being finite"
    replay = commands.add_parser("replay", help=text, description=text, allow_abbrev=False)
    replay.set_defaults(command=_replay)
    replay.add_argument("--workdir", required=True, metavar="W", help="folder of the run")
    replay.add_argument(
        "--step", type=int, metavar="N", help="counted from 1; default: the last one logged"
    )
    replay.add_argument("--quiet", action="store_true", help="no progress")


def _replay(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.config import saved_config
    from vaejax.training import forensics
    from vaejax.training.metrics import rows
    from vaejax.training.run import Run, run_dataset

    if overrides:
        raise ValueError(f"a run is replayed as it is, without {overrides[0]}")
    workdir = Path(arguments.workdir)
    config = saved_config(workdir)
    run = Run(config, workdir, run_dataset(workdir, config))
    logged = [row["step"] for row in rows(workdir / "metrics.jsonl")]
    step = arguments.step if arguments.step is not None else max(logged, default=1)
    found = forensics.replay(run, step, arguments.quiet)
    for line in _table([each for each in found.findings if each.bad]):
        print(line)
    print(forensics.described(found))
    print(forensics.write_replay(run, found))
    return 0 if found.first is None else 1


def _table(bad: list[Any]) -> list[str]:
    lines = [
        f"{each.stage:<9} {each.name:<48} {each.bad:>9,} of {each.size:>9,} not finite"
        for each in bad[:_SHOWN]
    ]
    return [*lines, f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else lines
