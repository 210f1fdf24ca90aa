"""What every claim that is measured writes: one JSON, failures included.

A claim names its source, its threshold (a constant of the script, from before any run), what was
measured over seeds, and a control that must not show the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vaejax

SPREADS = 2.0  # standard deviations over seeds from which on a difference counts


def over_seeds(values: Any) -> dict[str, Any]:
    """Mean and standard deviation of one number per seed, in float64."""
    values = np.asarray(list(values), np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"per_seed": values.tolist(), "mean": float(values.mean()), "sd": spread}


def is_clearly_lower(one: Any, other: Any) -> bool:
    """Whether `one` (a number per seed) is below `other` by more than `SPREADS` larger sds."""
    one, other = over_seeds(one), over_seeds(other)
    spread = max(one["sd"] or 0.0, other["sd"] or 0.0)
    return other["mean"] - one["mean"] > SPREADS * spread


def verdict(holds: bool, control_fails: bool | None = None) -> str:
    """In a word; `control_fails` None: there is no control."""
    if control_fails is False:
        return "undecided: the control passes, too"
    return "holds" if holds else "fails"


def write(folder: Path, name: str, **claim: Any) -> None:
    """Write `<name>.json` with the versions, and print its verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    claim["versions"] = {"vaejax": vaejax.__version__, "jax": jax.__version__}
    (folder / f"{name}.json").write_text(json.dumps(claim, indent=2) + "\n")
    print(f"{name}: {claim['verdict']} {json.dumps(claim['statistic'])}", flush=True)


def table(folder: Path) -> str:
    """All claims of a folder as Markdown: what, measured, threshold, control, verdict."""
    lines = ["| claim | measured | threshold | control | verdict |", "|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        claim = json.loads(path.read_text())
        cells = [f"{path.stem}: {claim['claim']}"]
        cells += [_plain(claim[part]) for part in ("statistic", "threshold", "control", "verdict")]
        lines.append(" | ".join(cell.replace("|", "\\|") for cell in cells).join(("| ", " |")))
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    """Numbers with three digits, mean +- sd of those over seeds."""
    if isinstance(value, Mapping) and {"mean", "sd"} <= value.keys():
        sd = "" if value["sd"] is None else f" ± {value['sd']:.2g}"
        return f"{value['mean']:.3g}{sd}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
