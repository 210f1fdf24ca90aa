"""Where a loss or a gradient first stopped being finite: the steps again, one by one.

Batches and draws are functions of (seed, step), so that the steps after a checkpoint can be taken
again.  The first one that goes wrong is looked at from the inside, in the order of computation.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from vaejax.config import parts_flag
from vaejax.data.batches import batch_rows
from vaejax.progress import ProgressReport
from vaejax.training.checkpoint import Checkpoints, saved_steps
from vaejax.training.recovery import is_skipped, skipped
from vaejax.training.run import Run
from vaejax.training.state import TRAIN, TrainState, stream_key
from vaejax.training.step import gradients, make_batch
from vaejax.training.workdir import write_bytes, write_text
from vaejax.types import Array


class Finding(NamedTuple):
    """What a step computed under a name, counted."""

    stage: str  # one of STAGES
    name: str
    bad: int  # numbers that are not finite
    size: int
    largest: float  # absolute value of those that are


class Replay(NamedTuple):
    """A step that was taken again.  first: what was not finite first, None if all was finite."""

    step: int
    findings: list[Finding]
    first: Finding | None


STAGES = {
    "before": "the state before the step",
    "rows": "the batch",
    "layer": "the output of layer",
    "cost": "the cost",
    "gradient": "the gradient of",
    "after": "the state after the step",
}


def replay(run: Run, step: int, quiet: bool = True) -> Replay:
    """Take the steps up to `step` again, from the last checkpoint before it, on one device.

    -> the first that computes something that is not finite, or else `step`.  Steps count from 1, as
    in the metrics.  Raises ValueError for a step that no run takes.
    """
    if not 1 <= step <= run.config.num_steps:
        raise ValueError(f"no step {step}; the run has steps 1 to {run.config.num_steps}")
    state = state_before(run, step)
    # The config of now may have another recovery than what took these steps.
    passed = skipped(run.workdir / "metrics.jsonl")
    skips = run.recovery.skips > 0
    train_step: Any = jax.jit(run.train_step(None, {}, skips or bool(passed)))
    first = int(state.step)
    label = f"steps {first + 1} to {step} again"
    with ProgressReport(label, first, step, quiet) as progress:
        for number in range(first, step):
            rows = rows_of(run, number)
            following, metrics = train_step(state, *rows)
            is_bad = is_skipped(metrics) or not _is_finite((following, metrics))
            if number == step - 1 or (is_bad and not skips and number + 1 not in passed):
                break
            state = following
            progress.update(number + 1)
    findings = examined(run, state, rows)
    return Replay(number + 1, findings, next((each for each in findings if each.bad), None))


def state_before(run: Run, step: int) -> TrainState:
    """The state of the last checkpoint before `step`, or that before the first step."""
    earlier = [saved for saved in saved_steps(run.workdir) if saved < step]
    if not earlier:
        return run.start()
    with Checkpoints(run.workdir) as checkpoints:
        return checkpoints.restore(run.shapes(), earlier[-1])


def rows_of(run: Run, step: int) -> tuple[np.ndarray, ...]:
    """The raw rows of a step, counted from 0: a batch, and a second one where there is a critic."""
    streams = range(1 if run.model.critic is None else 2)
    return batch_rows(run.dataset, run.config.seed, step, run.config.batch_size, streams)


def examined(run: Run, state: TrainState, rows: tuple[np.ndarray, ...]) -> list[Finding]:
    """All that a step computes, in its order."""
    names: list[tuple[str, str, int]] = []

    @jax.jit
    def counts(state: TrainState, *rows: Array) -> list[tuple[Array, Array]]:
        names.clear()
        found = []
        for stage, name, value in _computed(run, state, *rows):
            finite = jnp.isfinite(value)
            names.append((stage, name, value.size))
            found.append((jnp.sum(~finite), jnp.max(jnp.abs(value), initial=0.0, where=finite)))
        return found

    with jax.debug_key_reuse(False):  # the same draws, on purpose, for the parts and for the whole
        values = jax.device_get(counts(state, *rows))
    return [
        Finding(stage, name, int(bad), size, float(largest))
        for (stage, name, size), (bad, largest) in zip(names, values, strict=True)
    ]


def _computed(
    run: Run, state: TrainState, rows: Array, pair_rows: Array | None = None
) -> Iterator[tuple[str, str, Array]]:
    """(stage, name, array) of a step."""
    yield from _leaves("before", {"params": state.params, "opt_state": state.opt_state})
    yield from _leaves("before", {"stats": state.stats})
    yield from _leaves("rows", {"x": rows, **({} if pair_rows is None else {"pair": pair_rows})})
    players = run.objective.players
    for position, (name, player) in enumerate(players.items()):
        batch = make_batch(
            rows,
            pair_rows,
            transform=run.transform,
            root=jax.random.fold_in(stream_key(run.config.seed, TRAIN), position),
            step=state.step,
        )
        collections = ["batch_stats", "intermediates"]
        loss = nn.apply(
            player.loss, run.model, mutable=collections, capture_intermediates=lambda *_: True
        )
        variables = {"params": state.params, "batch_stats": state.stats}
        (_, metrics), updated = loss(variables, batch, state.step)
        yield from _leaves("layer", updated.get("intermediates", {}))
        yield from _leaves("cost", metrics)
        grads = gradients(run.model, player, state, batch)[0]
        yield from _leaves("gradient", grads, f"{name}: ")
        yield "gradient", f"{name}: norm", jnp.linalg.norm(ravel_pytree(grads)[0])
    following, _ = run.train_step(None, {}, skips=False)(state, rows, pair_rows)
    yield from _leaves("after", {"params": following.params, "opt_state": following.opt_state})


def _leaves(stage: str, tree: Any, prefix: str = "") -> Iterator[tuple[str, str, Array]]:
    """Floating arrays of nested mappings in the order in which they came to be there."""
    for name, value in _items(tree, ()):
        if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating):
            yield stage, prefix + name, value


def _items(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _items(value, path if key == "__call__" else (*path, str(key)))
    else:
        for leaf in jax.tree.leaves(tree):
            yield "/".join(path) or "model", leaf


def _is_finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def origin(run: Run, step: int, quiet: bool = True) -> str:
    """Replay `step`, and keep what was found and the batch in `replays/`.  -> one line about it.

    One of several processes only says how: the others would have to wait for it.
    """
    if jax.process_count() > 1:
        return f"`{command_of(run, step)}` shows where it began"
    try:
        found = replay(run, step, quiet)
        folder = write_replay(run, found)
    except Exception as error:  # what it is called for must be told whatever happens here
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        return f"the step could not be taken again ({reason})"
    more = f"{folder} has the batch, and `{command_of(run, found.step)}` shows more"
    return f"{described(found)}; {more}"


def command_of(run: Run, step: int) -> str:
    """The command that takes the step again."""
    folder = shlex.quote(str(run.workdir))
    return f"vaejax replay --workdir {folder} --step {step}{parts_flag(run.config)}"


def write_replay(run: Run, found: Replay) -> Path:
    """`batch.npz`, raw rows, and `report.json` in a folder of the run.  -> the folder."""
    folder = run.workdir / "replays" / f"step={found.step}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = dict(zip(("rows", "pair_rows"), rows_of(run, found.step - 1), strict=False))
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **rows)
    write_bytes(folder / "batch.npz", buffer.getvalue())
    text = {
        "step": found.step,
        "first": found.first and found.first._asdict(),
        "command": command_of(run, found.step),
        "findings": [each._asdict() for each in found.findings],
    }
    write_text(folder / "report.json", json.dumps(text, indent=1) + "\n")
    return folder


def described(found: Replay) -> str:
    """One line: what was not finite first, and the largest number before it."""
    if found.first is None:
        return f"step {found.step}, taken again, is finite"
    before = found.findings[: found.findings.index(found.first)]
    largest = max((each for each in before if each.stage != "before"), key=lambda e: e.largest)
    first = found.first
    return (
        f"in step {found.step}, {first.bad:,} of {first.size:,} numbers of {STAGES[first.stage]} "
        f"{first.name} were the first; the largest before them was {largest.largest:.3g}, in "
        f"{STAGES[largest.stage]} {largest.name}"
    )
