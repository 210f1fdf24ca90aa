"""What becomes of a run whose numbers are not finite: it ends, skips steps, or goes on slower.

What was done stands in the metrics of the run and is read back from there, so that a run that was
interrupted does the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.training.metrics import rows
from vaejax.training.state import TrainState
from vaejax.types import Array, Metrics

SPLIT = "recovery"  # of the lines that tell of learning rates that were lowered
Rate = Callable[[Array], Array]


class Recovery(NamedTuple):
    """What is allowed before a run ends in NonFiniteError."""

    skips: int = 0  # steps that change nothing
    retreats: int = 0  # to the last checkpoint, each with the learning rate times `factor`
    factor: float = 1.0


def none() -> Recovery:
    """End at once."""
    return Recovery()


def skip(*, most: int) -> Recovery:
    """Leave the state as it was before a step that is not finite, up to `most` times."""
    return Recovery(skips=most)


def lower(*, factor: float, most: int) -> Recovery:
    """Go on from the last checkpoint with all learning rates times `factor`, up to `most` times.

    Raises ValueError for a factor that lowers nothing.
    """
    if not 0 < factor < 1:
        raise ValueError(f"recoveries.lower.factor is {factor}; it must be between 0 and 1")
    return Recovery(retreats=most, factor=factor)


RECOVERIES = {"none": none, "skip": skip, "lower": lower}


def skipping(train_step: Callable[..., tuple[TrainState, Metrics]]) -> Callable[..., Any]:
    """The step that is counted, but changes nothing, where its results are not finite.

    Its metrics are those of `train_step`, and "skipped", 0 or 1.
    """

    def step(state: TrainState, *rows: Array) -> tuple[TrainState, Metrics]:
        following, metrics = train_step(state, *rows)
        leaves = jax.tree.leaves((following, metrics))
        is_finite = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
        kept = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old),
            following,
            state.replace(step=following.step),
        )
        return kept, {**metrics, "skipped": 1.0 - is_finite}

    return step


def lowered(path: Path, step: int) -> np.ndarray:
    """(n, 2): after which step the learning rate was lowered, and how far, up to `step`.

    Raises ValueError for a factor that lowers nothing.
    """
    found = [row for row in rows(path) if row["split"] == SPLIT and row["step"] <= step]
    for row in found:
        if not 0 < (factor := row.get("factor", 0.0)) < 1:
            wrong = f"the factor of learning rates after step {row['step']} is {factor}"
            raise ValueError(f"{path} is damaged: {wrong}; it must be between 0 and 1")
    return np.array([(row["step"], row["factor"]) for row in found], np.float64).reshape(-1, 2)


def skipped(path: Path) -> set[int]:
    """The steps that were skipped."""
    return {row["step"] for row in rows(path) if is_skipped(row)}


def slowed(lowered: np.ndarray) -> Rate | None:
    """What updates are multiplied with, by the step they follow; None where it is 1 for ever."""
    if not len(lowered):
        return None
    steps, factors = jnp.array(lowered[:, 0], jnp.int32), jnp.array(lowered[:, 1], jnp.float32)
    return lambda step: jnp.prod(jnp.where(step >= steps, factors, 1.0))


def is_skipped(metrics: Mapping[str, Any]) -> bool:
    """Whether these are metrics of a step that changed nothing."""
    return float(metrics.get("skipped", 0.0)) == 1.0
