"""The files of evaluations: where they are, how they are read, and how one goes on with another."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vaejax.data.arrays import Dataset
from vaejax.expost.fit import PRIOR
from vaejax.records import check_kinds, read_json
from vaejax.training.workdir import write_text

_NUMBERS = ("value", "standard_error")
# Of `evaluation.json`.
_KINDS = {"step": int, "source": str, "density_sha256": str, "split": str, "num_examples": int}
_KINDS |= {"data": dict, "seed": int, "protocol": dict, "config_sha256": str, "versions": dict}
_KINDS |= {"settings": dict, "features": dict, "left_out": dict, "metrics": dict}
# What an evaluation was told and found; all else says what it is of.
_FOUND = ("protocol", "settings", "features", "left_out", "metrics")


def evaluation_path(
    workdir: Path,
    split: str,
    dataset: Dataset,
    config: ConfigDict,
    source: str = PRIOR,
    step: int | None = None,
) -> Path:
    """The file that `evaluate` writes.  step: of an earlier checkpoint than the latest."""
    which = "" if split == "test" else f"_{split}"
    which += "" if source == PRIOR else f"_{source}"
    other = "" if dataset.sha256 == config.data_sha256 else f"_{dataset.sha256[:8]}"
    other += "" if step is None else f"_step{step}"
    return workdir / f"evaluation{which}{other}.json"


def read_evaluation(path: Path) -> dict[str, Any]:
    """What `evaluate` wrote to a file.  Raises ValueError, naming it, for what it cannot write."""
    try:
        found = read_json(path)
        check_kinds(found, _KINDS, optional=True)
        found = {"metrics": {}, "protocol": {}, "versions": {}, **found}
        check_kinds(found["protocol"], {"counts": dict, "metrics": list}, optional=True)
        if not all(isinstance(name, str) for name in found["protocol"].get("metrics", [])):
            raise ValueError("its protocol has metrics without a name")
        if not all(isinstance(text, str) for text in found.get("left_out", {}).values()):
            raise ValueError("it has metrics left out without a reason")
        for name, row in found["metrics"].items():
            if not isinstance(row, dict) or "value" not in row:
                raise ValueError(f"its metric {name!r} has no value")
            numbers = {key: float for key in _NUMBERS if row.get(key) is not None}
            texts = dict.fromkeys(("unit", "protocol", "metric"), str)
            check_kinds(row, numbers | texts, optional=True)
        return found
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_evaluation(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write an evaluation, with what the file has of the same weights, data and code.

    -> what is written.  Numbers of metrics that were not made again stay, with the protocols of
    their own; "protocol" is that of the last evaluation, and its "metrics" are all that have it.
    Warns of numbers that are lost: of other weights, data or code, or of a metric that was made
    again in another way, for fewer sets.  A damaged file is kept beside it, `*.damaged`.
    """
    earlier, merged, lost = _earlier(path), dict(result), []
    if earlier is not None:
        if all(earlier.get(key) == value for key, value in result.items() if key not in _FOUND):
            merged = _merged(earlier, result)
        lost = [name for name in earlier["metrics"] if name not in merged["metrics"]]
    write_text(path, json.dumps(merged, indent=2) + "\n")
    if lost:
        some = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        how = "of another step, density or code, or made in another way than what replaces them"
        warnings.warn(f"{path} no longer has {some}, which were {how}", stacklevel=3)
    return merged


def _earlier(path: Path) -> dict[str, Any] | None:
    """What the file holds; None where there is none, or a damaged one, which is moved aside."""
    if not path.exists():
        return None
    try:
        return read_evaluation(path)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        warnings.warn(f"{error}; it is now {aside.name}", stacklevel=4)
        return None


def _merged(earlier: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """`result` with what `earlier`, of the same, has beside it."""
    before, now = (each.get("settings", {}) for each in (earlier, result))
    other = {name for name in now if before.get(name) != now[name]}
    kept = {
        name: row
        for name, row in earlier["metrics"].items()
        if row.get("protocol") and row.get("metric", "") not in other
    }
    rows = {**kept, **result["metrics"]}
    there = {row.get("metric", "") for row in rows.values()}
    is_same = _but_metrics(earlier["protocol"]) == _but_metrics(result["protocol"])
    names = earlier["protocol"].get("metrics", []) if is_same else []
    metrics = list(dict.fromkeys([*result["protocol"]["metrics"], *sorted(names)]))
    left_out = {**earlier.get("left_out", {}), **result["left_out"]}
    return {
        **result,
        "protocol": {**result["protocol"], "metrics": metrics},
        "settings": {name: each for name, each in {**before, **now}.items() if name in there},
        "features": result["features"] or earlier.get("features", {}),
        "left_out": {name: why for name, why in left_out.items() if name not in there},
        "metrics": rows,
    }


def _but_metrics(protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in protocol.items() if key != "metrics"}
