"""A row of `evaluation.json`: a number with its standard error and how it came about."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]  # value, standard_error, unit, protocol


def row(
    value: float, protocol: str, *, error: float | None = None, unit: str = "nats", **more: Any
) -> Row:
    """A number with its standard error and how it came about."""
    return {
        "value": float(value),
        "standard_error": None if error is None else float(error),
        "unit": unit,
        "protocol": protocol,
        **more,
    }


def mean_row(values: np.ndarray, protocol: str, unit: str = "nats") -> Row:
    """The mean of (N,) and its standard error, both in float64."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return row(values.mean(), protocol, error=error, unit=unit)
