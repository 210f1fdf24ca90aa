"""The part of the command line that exports models: flags and nothing else."""

from __future__ import annotations

import argparse


def export_flags(command: argparse.ArgumentParser) -> None:
    """Add what `export` can be told."""
    command.add_argument("--out", required=True, metavar="FOLDER", help="to write to")
    command.add_argument("--replace", action="store_true", help="an earlier export in FOLDER")


def exported(arguments: argparse.Namespace) -> int:
    """Write what the flags say, and print its paths.  Raises ValueError."""
    from vaejax.artifact import export

    given = {"source": arguments.source, "checkpoint": arguments.checkpoint}
    for path in export(arguments.workdir, arguments.out, replace=arguments.replace, **given):
        print(path)
    return 0
