"""The figures of a run as such: curves, reconstructions, samples and the latent plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure

from vaejax.evaluation.chains import reconstructed
from vaejax.evaluation.latent import codes, density_grid
from vaejax.memory import check_memory, program_memory
from vaejax.models.programs import program
from vaejax.models.vae import VAE
from vaejax.reporting import figures
from vaejax.reporting.curves import training_curves
from vaejax.reporting.latent import Grid, latent_spaces
from vaejax.reporting.opened import OpenedRun
from vaejax.training.metrics import rows as metric_rows
from vaejax.training.state import SAMPLE, stream_key

_NUM_RECONSTRUCTED = {True: 20, False: 300}  # images; points
_NUM_CODES = 5_000


def prior_samples(
    model: VAE, variables: Any, num_samples: int, *, seed: int, draw: int = 0
) -> dict[str, np.ndarray]:
    """x, z and z0 = g(z) of decoded draws of the prior, equal for equal (seed, draw).

    -> {"x": (S, *X), "z": (S, D), "z0": (S, D)}.  Raises ValueError without samples.
    """
    if not 1 <= num_samples < 2**31:
        raise ValueError(f"{num_samples} samples asked for; at least 1, and fewer than 2**31")
    if not 0 <= draw < 2**32:
        raise ValueError(f"the seed of the samples is {draw}; it must be in [0, 2**32)")

    def drawn(vae: VAE, key: Any) -> dict[str, Any]:
        z = vae.prior.sample(key, num_samples)
        return {"x": vae.decode(z), "z": z, "z0": vae.prior.to_base(z)}

    key = jax.random.fold_in(stream_key(seed, SAMPLE), draw)
    program = jax.jit(nn.apply(drawn, model)).lower(variables, key).compile()
    check_memory(program_memory(program)["total"], f"{num_samples:,} samples", "take fewer")
    samples = program(variables, key)
    return {name: np.asarray(value) for name, value in samples.items()}


def basic_figures(run: OpenedRun, names: Sequence[str] = ()) -> dict[str, Figure]:
    """Those of BASIC that `names` has, else all that fit.  -> by name.

    Raises ValueError for one that was asked for by name and does not fit.
    """
    chosen = [name for name in BASIC if name in names or not names or "all" in names]
    unfit = _unfit(run)
    if asked := [name for name in chosen if name in unfit and name in names]:
        raise ValueError(f"figure {asked[0]!r} does not fit the run: {unfit[asked[0]]}")
    return {name: BASIC[name](run) for name in chosen if name not in unfit}


def _unfit(run: OpenedRun) -> dict[str, str]:
    """Figures that cannot be drawn of the run, and why."""
    found = {}
    shape, dim = run.dataset.x_shape, run.config.latent_dim
    if shape != (2,) and not (len(shape) == 3 and shape[-1] in (1, 3)):
        why = f"data of shape {shape} are neither images nor points of the plane"
        found = {"reconstructions": why, "samples": why}
    if dim != 2:
        found["latent"] = f"it is of two latent dimensions, not {dim}"
    return found


def _training(run: OpenedRun) -> Figure:
    rows = metric_rows(run.workdir / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    held_out = [row for row in rows if row["split"] in ("validation", "test")]
    return training_curves(train, held_out, has_density=run.model.posterior.has_density)


def _reconstructions(run: OpenedRun) -> Figure:
    x = run.held_out(_NUM_RECONSTRUCTED[len(run.dataset.x_shape) == 3])
    output = program(reconstructed, run.model)(run.variables, x)
    return figures.reconstructions(x, np.asarray(output), f"Held-out reconstructions, {run.name}")


def _samples(run: OpenedRun) -> Figure:
    is_image = len(run.dataset.x_shape) == 3
    x = prior_samples(run.model, run.variables, 64 if is_image else 2_000, seed=run.seed)["x"]
    data = None if is_image else run.held_out()
    return figures.samples(x, data, f"Samples, {run.name}")


def _latent(run: OpenedRun) -> Figure:
    dataset, model, variables = run.dataset, run.model, run.variables
    split = "train" if len(dataset.splits["test"]) < 1_000 else "test"
    rows = dataset.splits[split][:_NUM_CODES]
    labels = dataset.labels.get(split)
    drawn = codes(model, variables, rows, transform=run.transform, seed=run.seed)
    density = Grid(*density_grid(model, variables, drawn.z))
    decoupled = not np.allclose(drawn.z, drawn.z0)
    base_density = Grid(*density_grid(model, variables, drawn.z0, base=True))
    title = f"Aggregate posterior ({split} split) over the prior, {run.name}"
    return latent_spaces(
        drawn.z,
        drawn.z0 if decoupled else None,
        None if labels is None else labels[: len(rows)],
        density,
        base_density if decoupled else None,
        title,
    )


# Those of a run as such; what the paper draws, and pairs of runs, are FIGURES.
BASIC: dict[str, Callable[[OpenedRun], Figure]] = {
    "training": _training,
    "reconstructions": _reconstructions,
    "samples": _samples,
    "latent": _latent,
}
