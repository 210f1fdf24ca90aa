"""The few numbers that a page begins with, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vaejax.reporting.metric_table import cell_of, comparable, direction_of, value_cells
from vaejax.reporting.page import escaped


class _Line(NamedTuple):
    start: str  # how the name of the metric begins
    end: str  # and how it ends, behind the map of features
    words: str
    note: str = ""


_LINES = (
    _Line("importance_weighted_nll", "", "\u2212log p(x) of held-out data, at most"),
    _Line("frechet[", ", random]", "Fr\u00e9chet distance of samples to data"),
    _Line("frechet[", ", low_posterior]", "the same, of samples from where codes are rare"),
    _Line("frechet[", ", floor]", "the same, of held-out data", "no model is expected below"),
    _Line("symmetric_kl", "", "KL between prior and codes, both ways"),
    _Line(
        "leak_fraction[0.01]", "", "share of codes in the outermost 1 % of the prior", "0.01 fits"
    ),
    _Line("active_units", "", "dimensions in use"),
)


def headline(labels: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A table of those numbers that there are, a column for each run; "" where there are none.

    evaluations: contents of `evaluation.json`, {} where there is none.  The better one is marked as
    in `metric_table`, and rows whose protocols differ are left to that.
    """
    metrics = [evaluation.get("metrics", {}) for evaluation in evaluations]
    rows, apart = [], 0
    for line in _LINES:
        name = _named(metrics, line)
        cells = [cell_of(each.get(name)) for each in metrics]
        if not any(cells):
            continue
        if not comparable(cells):
            apart += 1
            continue
        notes = "; ".join(
            map(escaped, _notes(name, line, next(cell.unit for cell in cells if cell)))
        )
        kind = ' class="floor"' if line.end == ", floor]" else ""
        head = f'{escaped(line.words)} <span class="error">{notes}</span>'
        columns = "".join(value_cells(name, cells))
        rows.append(f'<tr{kind}><th scope="row">{head}</th>{columns}</tr>')
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{escaped(label)}</th>' for label in labels)
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    body = f"<tbody>{''.join(rows)}</tbody>"
    table = f'<div class="wide"><table class="metrics">{head}{body}</table></div>'
    return table + _legend(len(labels), apart)


def _notes(name: str, line: _Line, unit: str) -> list[str]:
    """Unit, map of features, which is better."""
    notes = ["in nats"] if unit == "nats" else []
    if line.end == ", random]":
        features = name.removeprefix(line.start).removesuffix(line.end)
        notes.append(f"{features} features" + ("" if features == "inception" else ", no FID"))
    if line.note:
        return [*notes, line.note]
    better = direction_of(name)
    return [*notes, f"{better} is better"] if better else notes


def _legend(count: int, apart: int) -> str:
    said = "\u00b1 is one standard error."
    if count > 1:
        said += ' <span class="best">Green</span> is better by more than two of the difference.'
    if apart:
        said += f" {apart} more do not compare, since their protocols differ: see Metrics."
    return f'<p class="legend">{said}</p>'


def _named(metrics: Sequence[Mapping[str, Any]], line: _Line) -> str:
    """The first metric whose name begins and ends like this, "" if there is none."""
    start, end = line.start, line.end
    names = (name for each in metrics for name in each)
    fits = (n for n in names if (n.startswith(start) and n.endswith(end) if end else n == start))
    return next(fits, "")
