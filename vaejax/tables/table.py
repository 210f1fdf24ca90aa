"""The whole of a table: what is missing is trained, everything evaluated, compared and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vaejax.data.arrays import check_split
from vaejax.evaluation.comparison import Comparison
from vaejax.expost.fit import PRIOR
from vaejax.reporting.summary import is_collapsed
from vaejax.tables.plan import Cell, cells_of
from vaejax.tables.results import cell_values, check_protocols, claims
from vaejax.tables.runs import (
    Comparisons,
    Datasets,
    control_rows,
    evaluated,
    protocol_of,
    run_folders,
    train_cell,
)
from vaejax.tables.write import write_table
from vaejax.training.metrics import NonFiniteError

_NAMES = ("method", "prior", "source")
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
        check_split(datasets.of(cell), table.split)
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
    parts, comparisons = {}, Comparisons(protocol_of(table), quiet)
    for name, *_ in table.datasets:
        own = [cell for cell in cells if cell.dataset == name]
        data, rows = datasets.of(own[0]), []
        for cell, source in _sourced(own):
            say(f"evaluating {cell.name}, {source}")
            failure = failures.get(cell.folder, "")
            compared = comparisons.of(cell, data)
            row = _failed(failure) if failure else _row(table, cell, source, compared)
            rows.append({"method": cell.method, "prior": cell.prior, "source": source, **row})
        if table.control:
            say(f"fitting the control of {name}")
            rows.append(_control(table, own[0], comparisons.of(own[0], data)))
        names = [", ".join(row[key] for key in _NAMES) for row in rows]
        check_protocols({name: row["columns"] for name, row in zip(names, rows, strict=True)})
        parts[name] = {"data_sha256": data.sha256, "rows": rows, "claims": _claims(table, rows)}
    columns = [label for label, *_ in (*table.columns, *table.differences)]
    return {
        "title": table.title,
        "seeds": list(table.seeds),
        "columns": columns,
        "datasets": parts,
    }


def _sourced(cells: list[Cell]) -> list[tuple[Cell, str]]:
    return [(cell, source) for cell in cells for source in cell.sources]


def _row(table: ConfigDict, cell: Cell, source: str, compared: Comparison) -> dict[str, Any]:
    folders = run_folders(cell, table.seeds)
    found = {seed: evaluated(cell, folder, source, compared) for seed, folder in folders.items()}
    metrics = {seed: each["metrics"] for seed, each in found.items()}
    runs = [
        {"folder": str(folders[seed]), **{key: each[key] for key in _PROVENANCE}}
        for seed, each in found.items()
    ]
    collapses = [is_collapsed(cell.config, each) for each in metrics.values()]
    columns = cell_values(table, metrics, f"{cell.name}, {source}")
    return {"failure": "", "collapsed": any(collapses), "columns": columns, "runs": runs}


def _failed(failure: str) -> dict[str, Any]:
    return {"failure": failure, "collapsed": False, "columns": {}, "runs": []}


def _control(table: ConfigDict, cell: Cell, compared: Comparison) -> dict[str, Any]:
    control = control_rows(table, cell, compared)
    columns = cell_values(table, control["runs"], control["name"], lenient=True)
    named = {"method": control["name"], "prior": "control", "source": "", "failure": ""}
    return {**named, "collapsed": False, "columns": columns, "runs": []}


def _claims(table: ConfigDict, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every other prior against the first, and every other source, all else being equal."""
    found = []
    for axis in ("prior", "source"):
        first, *others = [name for name, *_ in table[f"{axis}s"]]
        for other in others:
            pairs, left_out = _pairs(rows, axis, first, other)
            columns = claims(table.compared, pairs)
            both = {"axis": axis, "one": first, "other": other}
            found.append({**both, "left_out": left_out, "columns": columns})
    return found


def _pairs(
    rows: list[dict[str, Any]], axis: str, one: str, other: str
) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Columns of rows that differ in `axis` alone, which are `one` and `other`.

    And the names of rows that say nothing about it: one of the two collapsed, or diverged.
    """
    by_name = {tuple(row[key] for key in _NAMES): row for row in rows}
    found, left_out = [], []
    for name, row in by_name.items():
        partner = by_name.get(_with(name, axis, other))
        if row[axis] != one or partner is None:
            continue
        # Of a collapsed posterior no metric of samples means anything.
        if any(each["collapsed"] or each["failure"] for each in (row, partner)):
            rest = [part for part in _with(name, axis, "") if part not in ("", PRIOR)]
            left_out.append(", ".join(rest))
        else:
            found.append((row["columns"], partner["columns"]))
    return found, left_out


def _with(name: tuple[str, ...], axis: str, value: str) -> tuple[str, ...]:
    place = _NAMES.index(axis)
    return (*name[:place], value, *name[place + 1 :])
