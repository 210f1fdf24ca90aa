"""The pictures and samples of a run: arrays from the model, figures from the arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure

from vaejax.data.arrays import Dataset
from vaejax.evaluation.latent import codes, density_grid
from vaejax.models.vae import VAE
from vaejax.reporting import figures
from vaejax.reporting.curves import training_curves
from vaejax.reporting.latent import Grid, latent_spaces
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.training.loop import load
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
    if num_samples < 1:
        raise ValueError(f"{num_samples} samples asked for; at least 1")
    if not 0 <= draw < 2**32:
        raise ValueError(f"the seed of the samples is {draw}; it must be in [0, 2**32)")

    def drawn(vae: VAE, key: Any) -> dict[str, Any]:
        z = vae.prior.sample(key, num_samples)
        return {"x": vae.decode(z), "z": z, "z0": vae.prior.to_base(z)}

    key = jax.random.fold_in(stream_key(seed, SAMPLE), draw)
    samples = jax.jit(nn.apply(drawn, model))(variables, key)
    return {name: np.asarray(value) for name, value in samples.items()}


def write_samples(
    workdir: str | Path, num_samples: int, draw: int = 0, *, checkpoint: int | None = None
) -> list[Path]:
    """Write `samples/seed<draw>_n<num>.npz` and `.png` of a run.  -> their paths.

    Raises ValueError without samples, or where `load` does.
    """
    model, state, config = load(workdir, checkpoint)
    samples = prior_samples(model, state.variables(), num_samples, seed=config.seed, draw=draw)
    folder = Path(workdir) / "samples"
    folder.mkdir(exist_ok=True)
    arrays, picture = (folder / f"seed{draw}_n{num_samples}.{end}" for end in ("npz", "png"))
    partial = arrays.with_name(f".{arrays.name}.partial.npz")
    np.savez(partial, **samples)  # type: ignore[arg-type]
    partial.replace(arrays)
    figures.save(figures.samples(samples["x"], title=f"{num_samples} samples"), picture)
    return [arrays, picture]


def write_figures(
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> list[Path]:
    """Draw every figure that fits the run into `figures/`.  -> their paths.

    `dataset` replaces the one the config names.  Raises ValueError where `load` does, and for data
    other than those of the run, unless `other_data`.
    """
    run = opened(workdir, dataset, checkpoint=checkpoint, other_data=other_data)
    drawn = figures_of(run)
    paths = [run.workdir / "figures" / f"{stem}.png" for stem in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        figures.save(figure, path)
    return paths


def figures_of(run: OpenedRun) -> dict[str, Figure]:
    """Every figure that fits the run, by the name of its file."""
    drawn = {
        "training": _training(run.workdir),
        "reconstructions": _reconstructions(run, run.name),
        "samples": _samples(run, run.name),
    }
    if run.config.latent_dim == 2:
        drawn["latent"] = _latent(run, run.name)
    return drawn


def _training(workdir: Path) -> Figure:
    rows = metric_rows(workdir / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    return training_curves(train, [row for row in rows if row["split"] in ("validation", "test")])


def _reconstructions(run: OpenedRun, name: str) -> Figure:
    x = run.held_out(_NUM_RECONSTRUCTED[len(run.dataset.x_shape) == 3])
    output = jax.jit(nn.apply(lambda vae, x: vae.decode(vae.embed(x)), run.model))(run.variables, x)
    return figures.reconstructions(x, np.asarray(output), f"Held-out reconstructions, {name}")


def _samples(run: OpenedRun, name: str) -> Figure:
    is_image = len(run.dataset.x_shape) == 3
    x = prior_samples(run.model, run.variables, 64 if is_image else 2_000, seed=run.seed)["x"]
    data = None if is_image else run.held_out()
    return figures.samples(x, data, f"Samples of the prior, {name}")


def _latent(run: OpenedRun, name: str) -> Figure:
    dataset, model, variables = run.dataset, run.model, run.variables
    split = "train" if len(dataset.splits["test"]) < 1_000 else "test"
    rows = dataset.splits[split][:_NUM_CODES]
    labels = dataset.labels.get(split)
    drawn = codes(model, variables, rows, transform=run.transform, seed=run.seed)
    density = Grid(*density_grid(model, variables, drawn.z))
    decoupled = not np.allclose(drawn.z, drawn.z0)
    base_density = Grid(*density_grid(model, variables, drawn.z0, base=True))
    title = f"Aggregate posterior ({split} split) over the prior, {name}"
    return latent_spaces(
        drawn.z,
        drawn.z0 if decoupled else None,
        None if labels is None else labels[: len(rows)],
        density,
        base_density if decoupled else None,
        title,
    )
