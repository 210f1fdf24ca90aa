"""A row of `evaluation.json`: a number with its standard error and how it came about."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]  # value, standard_error, unit, protocol


def row(
    value: float | None,
    protocol: str,
    *,
    error: float | None = None,
    unit: str = "nats",
    **more: Any,
) -> Row:
    """A number, None where there is none, with its standard error and how it came about."""
    return {
        "value": None if value is None else float(value),
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


def share_row(inside: np.ndarray, protocol: str, unit: str) -> Row:
    """The share of (N,) bool that is true.  Its standard error is not 0 where none is, or all are.

    It is that of two successes and two failures more (Agresti and Coull, 1998).
    """
    count, value = len(inside), float(np.mean(inside, dtype=np.float64))
    share = (value * count + 2) / (count + 4)
    return row(value, protocol, error=float(np.sqrt(share * (1 - share) / (count + 4))), unit=unit)
