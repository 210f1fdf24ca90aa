"""The few numbers that a page begins with, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vaejax.reporting.metric_table import cell_of, comparable, value_cells
from vaejax.reporting.page import escaped

# How the name of a metric begins and ends -> what it is; the map of features is in between.
_WORDS = {
    ("importance_weighted_nll", ""): "\u2212log p(x) of held-out data, at most",
    ("frechet[", ", random]"): "Fr\u00e9chet distance of samples to data",
    ("frechet[", ", low_posterior]"): "the same, of samples from where codes are rare",
    ("frechet[", ", floor]"): "the same, of held-out data: no model is expected below",
    ("symmetric_kl", ""): "KL between prior and codes, both ways",
    ("leak_fraction[0.01]", ""): "share of codes where the prior has 1 % of its mass",
    ("active_units", ""): "dimensions in use",
}


def headline(labels: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A table of those numbers that there are, a column for each run; "" where there are none.

    evaluations: contents of `evaluation.json`, {} where there is none.  The better one is marked as
    in `metric_table`; rows whose protocols differ are left to that.
    """
    metrics = [evaluation.get("metrics", {}) for evaluation in evaluations]
    rows = []
    for (start, end), words in _WORDS.items():
        name = _named(metrics, start, end)
        cells = [cell_of(each.get(name)) for each in metrics]
        if not any(cells) or not comparable(cells):
            continue
        unit = next(cell.unit for cell in cells if cell)
        said = f"{words}{' (nats)' if unit == 'nats' else ''}"
        kind = ' class="floor"' if end == ", floor]" else ""
        columns = "".join(value_cells(name, cells))
        rows.append(f'<tr{kind}><th scope="row">{escaped(said)}</th>{columns}</tr>')
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{escaped(label)}</th>' for label in labels)
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table class="metrics">{head}{body}</table></div>'


def _named(metrics: Sequence[Mapping[str, Any]], start: str, end: str) -> str:
    """The first metric whose name begins and ends like this, "" if there is none."""
    names = (name for each in metrics for name in each)
    fits = (n for n in names if (n.startswith(start) and n.endswith(end) if end else n == start))
    return next(fits, "")
