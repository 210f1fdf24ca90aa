"""The part of the command line that makes a page of runs: flags and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def report_command(commands: Any) -> None:
    """Add `report` to the parser's commands."""
    text = "one HTML file about a run, or about several side by side"
    report = commands.add_parser("report", help=text, description=text, allow_abbrev=False)
    report.set_defaults(command=_report)
    report.add_argument("workdirs", nargs="+", type=Path, metavar="W", help="folder of a run")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html of one run, comparison.html in the first of several",
    )
    report.add_argument(
        "--source",
        nargs="+",
        default=["prior"],
        metavar="S",
        help="what codes are drawn from: prior (default), or densities of fit-density",
    )


def _report(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if overrides:
        raise ValueError(f"report takes no config; leave out {overrides[0]!r}")
    from vaejax.compilation import keep_compiled_programs
    from vaejax.reporting.report import write_report

    keep_compiled_programs()
    given = {"sources": arguments.source, "quiet": False}
    print(write_report(arguments.workdirs, arguments.out, **given))
    return 0
