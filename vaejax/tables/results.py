"""From the evaluations of runs to the numbers of a table: mean and spread over seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

Evaluations = Mapping[int, Mapping[str, Any]]  # seed -> metrics by name


def cell_values(
    table: ConfigDict, evaluations: Evaluations, name: str, lenient: bool = False
) -> dict[str, dict[str, Any]]:
    """Every column of a cell: mean, sd over seeds, the seeds' values, unit and protocol.

    A column that no evaluation has is left out where they have others of its kind, or `lenient`.
    Raises ValueError for one that some lack, and for one whose seeds have different protocols.
    """
    found: dict[str, dict[str, Any]] = {}
    for label, pattern in table.columns:
        rows = {seed: _row(metrics, pattern) for seed, metrics in evaluations.items()}
        missing = [seed for seed, row in rows.items() if row is None]
        kind = pattern.partition("[")[0]
        # Of its kind there are others: this one does not exist here, as for few data.
        is_known = any(n.partition("[")[0] == kind for each in evaluations.values() for n in each)
        if len(missing) == len(rows) and (is_known or lenient):
            continue
        if missing:
            raise ValueError(f"{name}, seed {missing[0]}, has no metric {pattern!r} for {label!r}")
        protocols = {without_seed(row["protocol"]): None for row in rows.values() if row}
        units = {row["unit"]: None for row in rows.values() if row}
        if len(protocols) > 1:
            raise ValueError(f"{label} of {name} has different protocols: {' / '.join(protocols)}")
        numbers = {seed: row["value"] for seed, row in rows.items() if row}
        values = {seed: value for seed, value in numbers.items() if value is not None}
        if not values:  # as the mean over leaks where nothing leaks
            continue
        found[label] = _spread(values, next(iter(units)), next(iter(protocols)))
    for label, one, other in table.differences:
        if one in found and other in found:
            pairs = (found[one]["values"], found[other]["values"])
            values = {
                seed: pairs[0][seed] - pairs[1][seed] for seed in pairs[0] if seed in pairs[1]
            }
            if not values:
                continue
            found[label] = _spread(values, found[one]["unit"], f"{one} - {other}")
    return found


def _row(metrics: Mapping[str, Any], pattern: str) -> Mapping[str, Any] | None:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    names = [name for name in metrics if re.fullmatch(expression, name)]
    return metrics[names[0]] if len(names) == 1 else None


def without_seed(protocol: str) -> str:
    """A protocol without what differs between the seeds of one."""
    return re.sub(r"seed \d+", "its seed", protocol)


def _spread(values: Mapping[int, float], unit: str, protocol: str) -> dict[str, Any]:
    numbers = np.array(list(values.values()), np.float64)
    sd = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    mean = float(numbers.mean())
    return {"mean": mean, "sd": sd, "values": dict(values), "unit": unit, "protocol": protocol}


def check_protocols(cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Raise ValueError where a column of these cells, by name, has different protocols."""
    first: dict[str, tuple[str, str]] = {}
    for name, columns in cells.items():
        for label, column in columns.items():
            before, protocol = first.setdefault(label, (name, column["protocol"]))
            if column["protocol"] != protocol:
                raise ValueError(
                    f"{label} of {name} and of {before} have different protocols: "
                    f"{column['protocol']} / {protocol}; without its evaluation.json, a run is "
                    "evaluated anew"
                )


def claims(
    columns: Sequence[str],
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """In how many pairs (one, other) of cells `other` is lower, column by column.

    "clearly" counts the differences beyond twice the larger sd: None for one seed, or no pair.
    """
    found = []
    for label in columns:
        both = [
            (one[label], other[label]) for one, other in pairs if label in one and label in other
        ]
        drops = [one["mean"] - other["mean"] for one, other in both]
        spreads = [max(each["sd"] or 0.0 for each in pair) for pair in both]
        known = both and all(each["sd"] is not None for pair in both for each in pair)
        clear = [abs(drop) > 2 * sd for drop, sd in zip(drops, spreads, strict=True)]
        found.append(
            {
                "column": label,
                "pairs": len(both),
                "lower": sum(drop > 0 for drop in drops),
                "clearly_lower": _count(drops, clear, 1) if known else None,
                "clearly_higher": _count(drops, clear, -1) if known else None,
            }
        )
    return found


def _count(drops: Sequence[float], clear: Sequence[bool], sign: int) -> int:
    return sum(sign * drop > 0 and is_clear for drop, is_clear in zip(drops, clear, strict=True))
