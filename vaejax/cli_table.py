"""The part of the command line that makes tables: flags and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def table_command(commands: Any) -> None:
    """Add `table` to the parser's commands."""
    text = "train, evaluate and tabulate methods x priors x data sets"
    table = commands.add_parser("table", help=text, description=text, allow_abbrev=False)
    table.set_defaults(command=_table)
    table.add_argument("--config", required=True, metavar="F", help="as configs/table_digits.py")
    table.add_argument("--workdir", required=True, metavar="W", help="folder of all its runs")
    table.add_argument("--quiet", action="store_true", help="no progress")
    table.set_defaults(checkpoint=None)


def _table(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.compilation import keep_compiled_programs
    from vaejax.parallel import one_device_per_core
    from vaejax.tables.plan import load_table
    from vaejax.tables.table import fill_table

    table = load_table(arguments.config, overrides)
    if len(table.seeds) > 1:
        one_device_per_core(len(table.seeds))
    keep_compiled_programs()
    say = (lambda line: None) if arguments.quiet else print
    configs = Path(arguments.config).parent
    given: dict[str, Any] = {"quiet": arguments.quiet, "say": say}
    for path in fill_table(table, arguments.workdir, configs, **given):
        print(path)
    return 0
