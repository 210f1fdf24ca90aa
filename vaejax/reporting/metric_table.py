"""The metrics of one or several runs side by side, each number with its protocol, as HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vaejax.reporting.page import escaped, signed

Row = Mapping[str, Any]

# Family (a name up to its bracket) -> which is better, and what it is.
_FAMILIES = {
    "importance_weighted_nll": ("lower", "upper bound of \u2212log p(x)"),
    "elbo": ("higher", "lower bound of log p(x); of codes without noise log p(x|z) + log p(z)"),
    "reconstruction": ("", "\u2212log p(x|z)"),
    "kl": ("", "KL(q(z|x) \u2016 p(z))"),
    "symmetric_kl": ("lower", "KL(q \u2016 p) + KL(p \u2016 q), aggregate posterior and prior"),
    "symmetric_kl_knn": ("lower", "the same, from distances between draws"),
    "kl_aggregate_to_prior": ("lower", "KL(q(z) \u2016 p(z)): leaks"),
    "kl_prior_to_aggregate": ("lower", "KL(p(z) \u2016 q(z)): pockets"),
    "mutual_information": ("", "what a code tells about its example"),
    "total_correlation": ("", "what the dimensions of q(z) tell about each other"),
    "dimension_kl": ("", "the rest of the KL: product of the marginals of q(z), and prior"),
    "nll_published": ("lower", "what the authors' code computes, a scaled negative ELBO"),
    "active_units": ("", "dimensions in use"),
    "leakage": ("lower", "data where the prior has next to none of its mass"),
    "leakage_conditional": ("lower", "the same, averaged over the leaks alone"),
    "leakage_with_log_det": ("lower", "leakage, both densities of representation space"),
    "leakage_conditional_with_log_det": ("lower", "the same, averaged over the leaks alone"),
    "leak_fraction": ("", "share of the aggregate posterior below the threshold"),
    "frechet": ("lower", "distance between Gaussians fitted to features"),
    "kernel_distance": ("lower", "squared MMD between features"),
    "precision": ("higher", "samples that lie where data lie"),
    "recall": ("higher", "data that lie where samples lie"),
    "prd_precision": ("higher", "precision at one end of a curve, over clusters"),
    "prd_recall": ("higher", "recall at its other end"),
    "approximate_elbo": ("higher", "log p(x) by the curvature around a code, no bound"),
    "approximate_elbo_flattened": ("", "codes where the density of the prior curves up"),
    "neighbor_distance": ("", "to the nearest training example"),
    "near_training": ("", "samples as near training data as the nearest of held-out data"),
    "accuracy": ("higher", "of a classifier with few labels"),
}
# Shown when asked for: others say nearly the same.
_RARE = ("kernel_distance", "prd_precision", "prd_recall", "neighbor_distance", "near_training")
_RARE += ("leakage_conditional", "leakage_conditional_with_log_det", "approximate_elbo_flattened")
_GROUPS = (
    "Evidence",
    "Samples against data",
    "Prior and aggregate posterior",
    "Training costs",
    "Few labels",
)
_EVIDENCE = ("importance_weighted_nll", "elbo", "reconstruction", "kl", "approximate_elbo")
_EVIDENCE += ("approximate_elbo_flattened", "nll_published")
_DRAWS_ARE_NEW = re.compile(r",? ?\(?seed \d+,? ?")  # other draws by the same protocol


class Cell(NamedTuple):
    """A number as the table shows it."""

    value: float
    error: float | None
    unit: str
    protocol: str


def metric_table(labels: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each metric and a column for each run.

    evaluations: contents of `evaluation.json`, {} where there is none.  Of numbers that differ by
    more than two standard errors the better one is marked, less so where no error is known; where
    protocols differ nothing is, and the row says that its numbers do not compare.  Floors and
    controls are said to be such.
    """
    metrics = [evaluation.get("metrics", {}) for evaluation in evaluations]
    names = list(dict.fromkeys(name for each in metrics for name in each))
    rare = [name for name in names if _family(name) in _RARE or _group(name) == _GROUPS[3]]
    table = _table(labels, metrics, [name for name in names if name not in rare])
    if not rare:
        return table
    return (
        f"{table}<details><summary>{len(rare)} more: costs of training, neighbors, other "
        f"distances</summary>{_table(labels, metrics, rare)}</details>"
    )


def _table(
    labels: Sequence[str], metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> str:
    groups: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for name in names:
        groups[_group(name)].append(name)
    heads = "".join(f'<th scope="col">{escaped(label)}</th>' for label in labels)
    rows = [f'<thead><tr><th scope="col">metric</th>{heads}</tr></thead>']
    for group, members in groups.items():
        if not members:
            continue
        rows.append(f'<tbody><tr class="group"><th colspan="{len(labels) + 1}" scope="colgroup">')
        rows.append(f"{group}</th></tr>")
        for name in members:
            rows.append(_row(name, labels, [cell_of(each.get(name)) for each in metrics]))
        rows.append("</tbody>")
    return f'<div class="wide"><table class="metrics">{"".join(rows)}</table></div>'


def comparable(cells: Sequence[Cell | None]) -> bool:
    """Whether all numbers that are there came about in the same way, apart from the seed."""
    protocols = {(_DRAWS_ARE_NEW.sub("", cell.protocol), cell.unit) for cell in cells if cell}
    return len(protocols) < 2


def best(name: str, cells: Sequence[Cell | None]) -> int | None:
    """The position of the better number, or None where that cannot be said.

    Not for a floor or a control, for one number, for those that do not compare, for metrics of no
    direction, and within two standard errors of the difference to any other.
    """
    direction = direction_of(name)
    found = [cell for cell in cells if cell is not None]
    if not direction or mark_of(name) or len(found) < 2 or not comparable(cells):
        return None
    if not all(math.isfinite(cell.value) for cell in found):
        return None
    if len({cell.error is None for cell in found}) > 1:  # 0 of nothing that leaks, for one
        return None
    sign = 1 if direction == "lower" else -1
    first, second, *_ = sorted(found, key=lambda cell: sign * cell.value)
    others = [cell for cell in found if cell is not first]
    for other in others:
        noise = math.hypot(first.error or 0.0, other.error or 0.0)
        if abs(first.value - other.value) <= 2 * noise or first.value == second.value:
            return None
    return list(cells).index(first)


def direction_of(name: str) -> str:
    """Which numbers of a metric are better: "lower", "higher", or "" where neither is."""
    return _FAMILIES.get(_family(name), ("", ""))[0]


def mark_of(name: str) -> str:
    """Whether a metric is of something else than the model: "floor", "control" or ""."""
    _, _, of_what = name.rstrip("]").partition("[")
    words = {word for part in of_what.split(",") for word in part.strip().split("_")}
    marks = dict.fromkeys(("data", "pixel", "pixels", "pca"), "control") | {"floor": "floor"}
    return next((mark for word, mark in marks.items() if word in words), "")


def shown_number(cell: Cell) -> str:
    """Value and standard error, to two digits of the error; four digits without one."""
    value, error = cell.value, cell.error
    if not math.isfinite(value):
        return str(value)
    if error is None or not math.isfinite(error) or error == 0:
        plain = f"{value:.4g}"
        return signed(plain if "e" in plain or abs(value) < 1e4 else f"{value:,.0f}")
    places = max(0, 1 - math.floor(math.log10(error)))
    if places > 6:
        return signed(f"{value:.3g}") + f' <span class="error">\u00b1\u00a0{error:.1g}</span>'
    text = signed(f"{value:,.{places}f}")
    return f'{text} <span class="error">\u00b1\u00a0{error:,.{places}f}</span>'


def cell_of(row: Row | None) -> Cell | None:
    """A row of `evaluation.json`; None where there is none, or no number in it."""
    if row is None or row.get("value") is None:
        return None
    error = row.get("standard_error")
    unit, protocol = str(row.get("unit", "")), str(row.get("protocol", ""))
    return Cell(float(row["value"]), None if error is None else float(error), unit, protocol)


def _row(name: str, labels: Sequence[str], cells: Sequence[Cell | None]) -> str:
    compare = comparable(cells)
    direction, meaning = _FAMILIES.get(_family(name), ("", ""))
    unit = next((cell.unit for cell in cells if cell), "")
    notes = [meaning, f"in {unit}" if unit == "nats" else unit]
    notes += [{"lower": "lower is better", "higher": "higher is better"}.get(direction, "")]
    mark = mark_of(name)
    badge = f' <span class="badge">{mark}: not samples of this model</span>' if mark else ""
    if not compare:
        badge += ' <span class="badge bad">protocols differ: not comparable</span>'
    said = "; ".join(escaped(note) for note in notes if note)
    breakable = re.sub(r"([_\[,/])", r"\1<wbr>", escaped(name))
    head = f"<summary><code>{breakable}</code>{badge}</summary>"
    details = f'<details>{head}<div class="how"><p>{said}</p>{_protocols(labels, cells)}</div>'
    columns = value_cells(name, cells)
    kind = f' class="{mark}"' if mark else ("" if compare else ' class="apart"')
    return f'<tr{kind}><th scope="row">{details}</details></th>{"".join(columns)}</tr>'


def value_cells(name: str, cells: Sequence[Cell | None]) -> list[str]:
    """The numbers of one metric, the better one marked, as cells of a table."""
    winner, columns = best(name, cells), []
    for k, cell in enumerate(cells):
        certain = cell is not None and cell.error is not None
        kind = f' class="{"best" if certain else "ahead"}"' if k == winner else ""
        columns.append(f"<td{kind}>{_value(cell, k == winner)}</td>")
    return columns


def _value(cell: Cell | None, wins: bool) -> str:
    if cell is None:
        return '<span class="none">no number</span>'
    exact = f"{cell.value!r}" + ("" if cell.error is None else f" \u00b1 {cell.error!r}")
    better = '<span class="hidden"> (better)</span>' if wins else ""
    return (
        f'<data value="{cell.value!r}" title="{escaped(exact)}">{shown_number(cell)}</data>{better}'
    )


def _protocols(labels: Sequence[str], cells: Sequence[Cell | None]) -> str:
    found = [(label, cell.protocol) for label, cell in zip(labels, cells, strict=True) if cell]
    if len({protocol for _, protocol in found}) == 1:
        return f"<p>{escaped(found[0][1])}</p>"
    return "".join(f"<p><b>{escaped(label)}</b>: {escaped(how)}</p>" for label, how in found)


def _family(name: str) -> str:
    return name.partition("[")[0]


def _group(name: str) -> str:
    if name in _EVIDENCE:
        return _GROUPS[0]
    if name == "loss" or "/" in name:
        return _GROUPS[3]
    if _family(name) == "accuracy":
        return _GROUPS[4]
    return _GROUPS[1] if "," in name else _GROUPS[2]
