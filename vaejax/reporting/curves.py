"""Training curves: rows of metrics -> matplotlib `Figure`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from vaejax.reporting.figures import BLUE, ORANGE, WIDTH, style

Rows = Sequence[Mapping[str, float]]

_COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_LEFT, _RIGHT, _ABOVE, _HEIGHT = 0.55, 0.2, 0.25, 1.7  # inches around and inside a panel


class Curve(NamedTuple):
    """One metric over training."""

    name: str
    steps: np.ndarray  # (R,)
    values: np.ndarray  # (R,) finite


@style()
def training_curves(train_rows: Rows, test_rows: Rows = (), *, has_density: bool = True) -> Figure:
    """Negative ELBO, reconstruction, KL, weighted costs and gradient norms over the steps.

    Rows are metrics by name with "step"; a panel whose metrics no row has is left out.  Values far
    outside the bulk (an early spike) are cut off, and the panel's title says so.  Without
    `has_density`, of codes without noise, there is neither an ELBO nor a KL.
    """
    panels = []
    for key, name, sign in (
        ("elbo", "Negative ELBO" if has_density else "\u2212log p(x|z) \u2212 log p(z)", -1.0),
        ("reconstruction", "Reconstruction", 1.0),
        ("kl", "KL" if has_density else "\u2212log p(z)", 1.0),
    ):
        curves = [
            Curve(which, *_series(rows, key, sign))
            for which, rows in (("training", train_rows), ("held out", test_rows))
        ]
        panels.append((f"{name} (nats)", _draw_term, curves))
    panels.append(("Weighted costs (nats)", _draw_many, _family(train_rows, "cost/")))
    panels.append(("Gradient norms", _draw_many, _family(train_rows, "grad_norm/")))
    panels = [panel for panel in panels if any(len(curve.steps) for curve in panel[2])]
    if not panels:
        figure = Figure(figsize=(WIDTH, 1.0))
        figure.text(0.5, 0.5, "no metrics were logged", ha="center", va="center")
        return figure
    figure, all_axes = _laid_out(
        [len(panel[2]) if panel[1] is _draw_many else 0 for panel in panels]
    )
    for axes, (title, draw, curves) in zip(all_axes, panels, strict=True):
        axes.set_title(title)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(
            MaxNLocator(7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        axes.grid(True)
        draw(axes, [curve for curve in curves if len(curve.steps)])
    handles, names = all_axes[0].get_legend_handles_labels()
    if panels[0][1] is _draw_term:
        place = (1 - _RIGHT / WIDTH, 1 - 0.02 / figure.get_figheight())
        figure.legend(handles, names, loc="upper right", bbox_to_anchor=place, ncols=2, borderpad=0)
    return figure


def _laid_out(num_names: list[int]) -> tuple[Figure, list[Axes]]:
    """Two panels in a row, the first alone where their number is odd.

    Laid out by hand, in inches: automatic layouts squeeze the panels to make room for long legends.

    num_names: for each panel, the names in the legend below it.
    """
    rows = [[0]] if len(num_names) % 2 else []
    rows += [[k, k + 1] for k in range(len(rows), len(num_names), 2)]
    below = [0.5 + 0.17 * math.ceil(max(num_names[k] for k in row) / 2) for row in rows]
    height = sum(_ABOVE + _HEIGHT + space for space in below) + 0.2
    figure = Figure(figsize=(WIDTH, height))
    top, all_axes = height - 0.2, []
    for row, space in zip(rows, below, strict=True):
        top -= _ABOVE + _HEIGHT
        width = (WIDTH - _RIGHT) / len(row)
        for column in range(len(row)):
            left = column * width + _LEFT
            box = (left / WIDTH, top / height, (width - _LEFT) / WIDTH, _HEIGHT / height)
            all_axes.append(figure.add_axes(box))
            all_axes[-1].set_xlabel("step", labelpad=1)
        top -= space
    return figure, all_axes


def _series(rows: Rows, key: str, sign: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    # float(): a JSON row has the strings "nan" and "inf" for what is not finite.
    pairs = [(row["step"], sign * float(row[key])) for row in rows if key in row]
    finite = [pair for pair in pairs if np.isfinite(pair[1])]
    steps, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _family(rows: Rows, prefix: str) -> list[Curve]:
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    return [Curve(key.removeprefix(prefix), *_series(rows, key)) for key in keys]


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over `window` (odd) of the medians over `window`.  (R,) -> (R,).

    A mean alone would smear one bad step over its neighbors; a median alone makes stairs.
    """
    for average in (np.nanmedian, np.nanmean):
        padded = np.pad(values, window // 2, constant_values=np.nan)
        values = average(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)
    return values


def _draw_term(axes: Axes, curves: list[Curve]) -> None:
    """Training: each row faint, their running mean thin.  Held out: dots on a line."""
    for name, steps, values in curves:
        if name == "held out":
            axes.plot(
                steps, values, color=ORANGE, linewidth=1, marker="o", markersize=3, label=name
            )
            continue
        window = _window(len(values))
        if window > 1:
            axes.plot(steps, values, color=BLUE, linewidth=0.6, alpha=0.3)
            name = f"{name} (thin: each row; bold: smoothed)"
        marker = "o" if len(steps) == 1 else None
        values = smoothed(values, window)
        axes.plot(steps, values, color=BLUE, lw=1.2, marker=marker, ms=3, label=name)
    low, high = _robust_limits(curves)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    _frame(axes, curves, low - margin, high + margin)


def _window(num_rows: int) -> int:
    return 2 * (num_rows // 60) + 1


def _robust_limits(curves: list[Curve]) -> tuple[float, float]:
    """Limits that hold every value but those far outside the middle 80 % of their own curve."""
    lows, highs = [], []
    for curve in curves:
        low, high = np.quantile(curve.values, [0.1, 0.9])
        reach = 2.0 * (high - low)
        lows.append(curve.values[curve.values >= low - reach].min())
        highs.append(curve.values[curve.values <= high + reach].max())
    return min(lows), max(highs)


def _frame(axes: Axes, curves: list[Curve], low: float, high: float) -> None:
    """Show [low, high], and say which values lie outside."""
    axes.set_ylim(low, high)
    values = np.concatenate([curve.values for curve in curves])
    notes = [f"up to {values.max():,.3g}"] if values.max() > high else []
    notes += [f"down to {values.min():,.3g}"] if values.min() < low else []
    if notes:
        note = f"cut off: {', '.join(notes)}"
        axes.set_title(note, loc="right", fontsize=7.5, color="#555555")


def _draw_many(axes: Axes, curves: list[Curve]) -> None:
    """One line per metric; linear within a factor of 20, else logarithmic about zero or not."""
    for k, (name, steps, values) in enumerate(curves):
        color, line = _COLORS[k % len(_COLORS)], ("solid", "dashed")[k // len(_COLORS) % 2]
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, values, color=color, ls=line, lw=1, marker=marker, ms=3, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.21), ncols=2, borderpad=0)
    low, high = _robust_limits(curves)
    sizes = np.abs(np.concatenate([curve.values for curve in curves]))
    sizes = sizes[(sizes > 0) & (sizes <= max(abs(low), abs(high)))]
    if not len(sizes) or sizes.max() < 20 * sizes.min():
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        _frame(axes, curves, low - margin, high + margin)
    elif low > 0:
        axes.set_yscale("log")
        _frame(axes, curves, low / 1.3, high * 1.3)
    else:
        linear = max(np.quantile(sizes, 0.2), 1e-3 * sizes.max())
        linear = 10.0 ** np.round(np.log10(linear))  # a tick of its own, well away from 0
        axes.set_yscale("symlog", linthresh=linear)
        _frame(axes, curves, 1.3 * min(low, -linear / 2), 1.3 * max(high, linear / 2))
