"""The whole of a table: what is missing is trained, everything evaluated, compared and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vaejax.config import unknown
from vaejax.reporting.summary import is_collapsed
from vaejax.tables.plan import Cell, cells_of
from vaejax.tables.results import cell_values, check_protocols, claims
from vaejax.tables.runs import (
    Datasets,
    control_rows,
    evaluated,
    protocol_of,
    run_folders,
    train_cell,
)
from vaejax.tables.write import write_table
from vaejax.training.metrics import NonFiniteError

_PROVENANCE = ("config_sha256", "versions", "step", "seed")


def fill_table(
    table: ConfigDict,
    workdir: str | Path,
    configs: str | Path,
    *,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Train, evaluate and tabulate in `workdir`.  -> table.md, table.csv, table.json.

    configs: the folder that the table's config files are in.  Complete runs and evaluations of the
    same protocol are taken as they are.  A run that diverges has no numbers but its own line.
    Raises ValueError for bad input, before anything is trained, and for numbers that do not belong
    into one column; KeyboardInterrupt, with the saved step, when interrupted.
    """
    workdir = Path(workdir)
    cells = cells_of(table, workdir, Path(configs))
    datasets, _ = Datasets(), protocol_of(table)
    for cell in cells:
        if table.split not in (splits := datasets.of(cell).splits):
            raise unknown("split", table.split, splits)
    failures = {}
    for number, cell in enumerate(cells, 1):
        say(f"[{number}/{len(cells)}] {cell.name}")
        try:
            train_cell(cell, table.seeds, datasets.of(cell), quiet)
        except NonFiniteError as error:
            failures[cell.folder] = f"diverged: {error}"
            say(failures[cell.folder])
    return write_table(filled_table(table, cells, datasets, failures, quiet, say), workdir)


def filled_table(
    table: ConfigDict,
    cells: list[Cell],
    datasets: Datasets,
    failures: Mapping[Path, str],
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All numbers of trained cells with where they come from; JSON-able."""
    parts = {}
    for name, *_ in table.datasets:
        own = [cell for cell in cells if cell.dataset == name]
        data = datasets.of(own[0])
        rows = []
        for cell in own:
            say(f"evaluating {cell.name}")
            failure = failures.get(cell.folder, "")
            rows.append(_row(table, cell, data, quiet) if not failure else _failed(cell, failure))
        if table.control:
            say(f"fitting the control of {name}")
            rows.append(_control(table, own[0], data, quiet))
        check_protocols({f"{row['method']}, {row['prior']}": row["columns"] for row in rows})
        parts[name] = {"data_sha256": data.sha256, "rows": rows, "claims": _claims(table, rows)}
    columns = [label for label, *_ in (*table.columns, *table.differences)]
    return {
        "title": table.title,
        "seeds": list(table.seeds),
        "columns": columns,
        "datasets": parts,
    }


def _row(table: ConfigDict, cell: Cell, data: Any, quiet: bool) -> dict[str, Any]:
    folders = run_folders(cell, table.seeds)
    found = {seed: evaluated(table, folder, data, quiet) for seed, folder in folders.items()}
    metrics = {seed: each["metrics"] for seed, each in found.items()}
    runs = [
        {"folder": str(folders[seed]), **{key: each[key] for key in _PROVENANCE}}
        for seed, each in found.items()
    ]
    collapses = [is_collapsed(cell.config, each) for each in metrics.values()]
    columns = cell_values(table, metrics, cell.name)
    named = {"method": cell.method, "prior": cell.prior, "failure": ""}
    return {**named, "collapsed": any(collapses), "columns": columns, "runs": runs}


def _failed(cell: Cell, failure: str) -> dict[str, Any]:
    named = {"method": cell.method, "prior": cell.prior, "failure": failure}
    return {**named, "collapsed": False, "columns": {}, "runs": []}


def _control(table: ConfigDict, cell: Cell, data: Any, quiet: bool) -> dict[str, Any]:
    control = control_rows(table, cell, data, quiet)
    columns = cell_values(table, control["runs"], control["name"], lenient=True)
    named = {"method": control["name"], "prior": "control", "failure": ""}
    return {**named, "collapsed": False, "columns": columns, "runs": []}


def _claims(table: ConfigDict, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every other prior against the first, method by method."""
    by_name = {(row["method"], row["prior"]): row for row in rows}
    first, *others = [name for name, *_ in table.priors]
    found = []
    for other in others:
        both = [(by_name[m, first], by_name[m, other]) for m, *_ in table.methods]
        # Of a collapsed posterior no metric of samples means anything.
        sound = [pair for pair in both if not any(row["collapsed"] for row in pair)]
        pairs = [(a["columns"], b["columns"]) for a, b in sound]
        found.append({"one": first, "other": other, "columns": claims(table.compared, pairs)})
    return found
