"""Figure 4: the leakage score against its threshold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vaejax.evaluation.exhibits import Leaks
from vaejax.reporting.figures import BLUE, GRAY, INK, ORANGE, WIDTH, style
from vaejax.reporting.latent import PALETTE
from vaejax.reporting.panels import NOTE, axes_at, titled

_COLORS = (BLUE, ORANGE, *PALETTE[2:4], *PALETTE[5:])
_FEWEST = 10  # draws that leak, for a mean over them


@style()
def leakage(runs: Mapping[str, Leaks]) -> Figure:
    """A sketch of what leaks, the leaked fraction, and the score in both its reductions.

    Dashed: densities of one space, with log |det dg/dz|; only where that makes a difference.  A
    score of fewer than 10 draws is left out.
    """
    title = "Leakage: mass of the aggregate posterior $q$ where the prior has next to none"
    figure, top = titled(WIDTH, 5.55, title)
    side, height, left = (WIDTH - 1.4) / 2, 1.75, 0.55
    places = [(left + k % 2 * (side + 0.7), top + 0.3 + k // 2 * (height + 0.85)) for k in range(4)]
    sketch, fraction, unconditional, conditional = (
        axes_at(figure, *place, side, height) for place in places
    )
    _sketch(sketch)
    _fraction(fraction, runs)
    _scores(unconditional, runs, "unconditional")
    unconditional.set_title("Score, mean over all of $q$ (nats)")
    _scores(conditional, runs, "conditional")
    conditional.set_title("Score, mean over what leaks (nats)")
    handles, names = unconditional.get_legend_handles_labels()
    place = (left / WIDTH, 0.07 / figure.get_figheight())
    given = {"ncols": 2, "borderpad": 0, "bbox_to_anchor": place}
    figure.legend(handles, names, loc="lower left", **given)
    return figure


def _sketch(axes: Axes) -> None:
    """In one dimension: p0, q(z0), and the region below a threshold."""

    def normal(x: np.ndarray, mean: float, scale: float) -> np.ndarray:
        return np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))

    x = np.linspace(-4, 4, 400)
    prior = normal(x, 0, 1)
    posterior = 0.45 * normal(x, -0.9, 0.45) + 0.35 * normal(x, 1.0, 0.5)
    posterior += 0.2 * normal(x, 2.6, 0.35)
    threshold = 1.9
    for low, high in ((-4, -threshold), (threshold, 4)):
        axes.axvspan(low, high, color="#eeeeee", linewidth=0)
    axes.plot(x, prior, color=INK, linestyle=(0, (4, 1.5)), label="prior $p_0$")
    axes.plot(x, posterior, color=BLUE, label="aggregate posterior $q$")
    leaked = x >= threshold
    axes.fill_between(x[leaked], posterior[leaked], color=ORANGE, alpha=0.55, linewidth=0)
    axes.annotate("leaks", (2.75, 0.1), (2.95, 0.33), ha="center", color=ORANGE,
                  arrowprops={"arrowstyle": "-", "color": ORANGE, "lw": 0.8})  # fmt: skip
    axes.text(-2.95, 0.115, "$\\log p_0 < \\tau$", ha="center", color=NOTE)
    axes.set(xlim=(-4, 4), ylim=(0, 0.6), yticks=[], xlabel="$z_0$")
    axes.set_title("What leaks, in one dimension (sketch)")
    axes.legend(loc="upper left", fontsize=7.5, ncols=2, borderpad=0.1, columnspacing=1)


def _fraction(axes: Axes, runs: Mapping[str, Leaks]) -> None:
    for color, (label, run) in zip(_COLORS, runs.items(), strict=False):
        shown = np.where(run.fraction > 0, run.fraction, np.nan)
        axes.plot(run.levels, shown, color=color, label=label)
    levels = next(iter(runs.values())).levels
    axes.plot(levels, levels, color=GRAY, linestyle=(0, (1, 1.2)), label="if $q$ were the prior")
    axes.set_yscale("log")
    axes.set_ylim(0.1 * levels[0], 1.4)
    axes.yaxis.set_major_formatter(_share())
    axes.set_title("Share of $q$ where $\\log p_0(g(z)) < \\tau$")
    axes.legend(loc="lower right", handles=axes.lines[-1:], borderpad=0.1)
    _threshold_axis(axes)


def _scores(axes: Axes, runs: Mapping[str, Leaks], name: str) -> None:
    for color, (label, run) in zip(_COLORS, runs.items(), strict=False):
        enough = run.fraction * run.num_draws >= _FEWEST
        published, with_volume = np.where(enough, getattr(run, name), np.nan)
        axes.plot(run.levels, published, color=color, label=label)
        if not np.allclose(published, with_volume, atol=1e-3, equal_nan=True):
            label = f"{label}, with log det"
            axes.plot(run.levels, with_volume, color=color, linestyle=(0, (4, 1.5)), label=label)
    axes.axhline(0, color=GRAY, linewidth=0.6)
    _threshold_axis(axes)


def _threshold_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_share())
    axes.set_xlabel("threshold $\\tau$: share of the prior with $\\log p_0 < \\tau$")
    axes.grid(True)


def _share() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:g} %")
