"""A table as Markdown, CSV and JSON, which hold the same numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaejax.training.workdir import write_text

Result = Mapping[str, Any]  # what `vaejax.tables.table.filled_table` returns


def write_table(result: Result, folder: Path) -> list[Path]:
    """Write `table.md`, `table.csv` and `table.json`.  -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(result), "csv": csv_text(result)}
    texts["json"] = json.dumps(result, indent=2) + "\n"
    for suffix, text in texts.items():
        write_text(folder / f"table.{suffix}", text)
    return [folder / f"table.{suffix}" for suffix in texts]


def markdown(result: Result) -> str:
    """One table for every data set, what the priors' comparison amounts to, and all protocols."""
    blocks = [f"# {result['title']}"] if result["title"] else []
    for name, part in result["datasets"].items():
        heading = f"## {name}: {_seeds(result['seeds'])}"
        blocks += [heading, _table(part, result["columns"]), *_claims(part["claims"])]
    blocks += ["## Protocols", _protocols(result)]
    return "\n\n".join(blocks) + "\n"


def csv_text(result: Result) -> str:
    """A line for every number: data set, method, prior, source, column, mean, sd, seeds, unit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ("dataset", "method", "prior", "source", "column", "mean", "sd", "seeds", "unit")
    writer.writerow(head)
    for name, part in result["datasets"].items():
        for row in part["rows"]:
            for label, column in row["columns"].items():
                sd = "" if column["sd"] is None else repr(column["sd"])
                numbers = (repr(column["mean"]), sd, len(column["values"]), column["unit"])
                names = (name, row["method"], row["prior"], row["source"], label)
                writer.writerow((*names, *numbers))
    return stream.getvalue()


def number(mean: float, sd: float | None) -> str:
    """`mean` with its spread, to as many places as the spread allows; three digits without one."""
    if sd is None:
        return f"{mean:.3g}" if abs(mean) < 1_000 else f"{mean:.0f}"
    if sd == 0:
        return f"{mean:.3g} ± 0"
    places = min(max(1 - math.floor(math.log10(sd)), 0), 6)
    return f"{mean:.{places}f} ± {sd:.{places}f}"


def _plain(text: str) -> str:
    """A text of `evaluation.json`, which Markdown would take for HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}, no spread"
    return f"mean ± sd over {len(seeds)} seeds"


def _table(part: Mapping[str, Any], labels: Sequence[str]) -> str:
    shown = ["method", "prior", "source"]
    if len({row["source"] for row in part["rows"]} - {""}) < 2:
        shown.remove("source")
    lines = [f"| {' | '.join(shown)} | " + " | ".join(labels) + " |"]
    lines.append("|---" * len(shown) + "|" + "---:|" * len(labels))
    for row in part["rows"]:
        cells = [_cell(row["columns"].get(label)) for label in labels]
        names = [row[key] for key in shown]
        names[0] += " *(collapsed)*" if row["collapsed"] else ""
        if row["failure"]:
            cells = [row["failure"], *[""] * (len(labels) - 1)]
        lines.append(f"| {' | '.join(names)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: Mapping[str, Any] | None) -> str:
    return "" if column is None else number(column["mean"], column["sd"])


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    blocks = []
    for claim in claims:
        both = f"{claim['axis']} {claim['other']} is lower (better) than {claim['one']}"
        lines = [f"Pairs in which {both}:", ""]
        lines += [f"- {row['column']}: {_counts(row)}" for row in claim["columns"]]
        if claim["left_out"]:
            names = "; ".join(map(_plain, claim["left_out"]))
            lines += ["", f"Not among them, since one of the two collapsed or diverged: {names}."]
        blocks.append("\n".join(lines))
    return blocks


def _counts(row: Mapping[str, Any]) -> str:
    if not row["pairs"]:
        return "no pair to compare"
    text = f"{row['lower']} of {row['pairs']}"
    if row["clearly_lower"] is None:
        return text
    counts = f"{row['clearly_lower']} and {row['clearly_higher']}"
    return f"{text}; lower and higher by more than two sd in {counts}"


def _protocols(result: Result) -> str:
    lines = []
    for name, part in result["datasets"].items():
        columns: dict[str, Mapping[str, Any]] = {}
        for row in part["rows"]:
            columns = {**row["columns"], **columns}
        lines.append(f"{name} (data SHA-256 {part['data_sha256'][:12]}):\n")
        lines += [
            f"- {label} ({_plain(c['unit'])}): {_plain(c['protocol'])}"
            for label, c in columns.items()
        ]
        lines.append("")
    lines.append("Every number leads to its runs, their configs, seeds and commits in table.json.")
    return "\n".join(lines)
