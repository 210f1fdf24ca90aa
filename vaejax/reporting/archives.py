"""What figures are drawn from, as files of arrays and back: `.npz` without pickle."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(path: Path, exhibits: Mapping[str, Any]) -> None:
    """Write exhibits by label, NamedTuples of arrays and of such, as `labels` and `k/field`."""
    arrays: dict[str, Any] = {"labels": np.array(list(exhibits))}
    for k, exhibit in enumerate(exhibits.values()):
        arrays |= _flat(exhibit, str(k))
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: str | Path, kind: Any) -> dict[str, Any]:
    """The exhibits of a file by label, each a `kind`.  Raises ValueError where fields are not."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    labels = arrays.pop("labels", np.zeros(0, "U1"))
    try:
        return {str(label): _nested(arrays, str(k), kind) for k, label in enumerate(labels)}
    except KeyError as error:
        raise ValueError(f"{path} has no array {error}; it is not of {kind.__name__}") from error


def _flat(exhibit: Any, prefix: str) -> dict[str, np.ndarray]:
    found = {}
    for name, value in exhibit._asdict().items():
        key = f"{prefix}/{name}"
        found |= _flat(value, key) if hasattr(value, "_asdict") else {key: np.asarray(value)}
    return found


def _nested(arrays: Mapping[str, np.ndarray], prefix: str, kind: Any) -> Any:
    fields = {}
    for name, hint in typing.get_type_hints(kind).items():
        key = f"{prefix}/{name}"
        fields[name] = _nested(arrays, key, hint) if hasattr(hint, "_fields") else arrays[key]
    return kind(**fields)
