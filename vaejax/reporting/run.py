"""The pictures and samples of a run: arrays from the model, figures from the arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure

from vaejax.data.arrays import Dataset
from vaejax.data.sources import make_transform
from vaejax.data.transforms import Transform
from vaejax.evaluation.evaluate import run_dataset
from vaejax.evaluation.latent import codes, density_grid
from vaejax.evaluation.subject import Counts, Subject
from vaejax.models.vae import VAE
from vaejax.reporting import figures
from vaejax.reporting.archives import write_arrays
from vaejax.reporting.curves import training_curves
from vaejax.reporting.gallery import FIGURES, check_names, figure_arrays
from vaejax.reporting.latent import Grid, latent_spaces
from vaejax.training.loop import load
from vaejax.training.metrics import rows as metric_rows
from vaejax.training.state import SAMPLE, observed, stream_key

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
    names: Sequence[str] = (),
    pair: str | Path | None = None,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> list[Path]:
    """Draw figures of a run into `figures/`.  -> their paths.

    names: of BASIC, of which all that fit are drawn by default, as PNG; of FIGURES, each as arrays
    (`figures/arrays/`), PNG and PDF; "all" are those of both that fit.  With `pair`, FIGURES show
    that run beside this one, all by default, and their names end in that of its folder; BASIC stay
    those of this run.  `dataset` replaces the one the config names.  Raises ValueError where `load`
    does, for data other than those of the run, unless `other_data`, for an unknown name, a figure
    that does not fit, and a pair of different data.
    """
    workdir, names = Path(workdir), list(names) or (["all"] if pair else [])
    check_names(names, BASIC)
    folders = [workdir] if pair is None else [workdir, Path(pair)]
    given = {"checkpoint": checkpoint, "other_data": other_data}
    basic = [name for name in BASIC if name in names or not names or "all" in names]
    others = [name for name in names if name not in BASIC]
    paths = []
    if others:
        subjects = labeled_subjects(folders, dataset, **given)
        paths = _write_exhibits(workdir, folders, figure_arrays(subjects, others))
    if basic:
        paths = [*_write_basic(workdir, dataset, basic, set(names) & {*basic}, **given), *paths]
    return paths


def labeled_subjects(
    workdirs: Sequence[str | Path],
    dataset: Dataset | None = None,
    *,
    counts: Counts | None = None,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> dict[str, Subject]:
    """Runs as `run_figures` takes them, by "<regularizer>, <prior> prior".

    Where two would be called alike, by their folders besides.  `checkpoint` is of the first; of the
    others it is the latest.  Raises ValueError as `write_figures` does, and for one run twice.
    """
    found, folders = [], [Path(workdir) for workdir in workdirs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"{folders[0]} is compared with itself; --pair is another run")
    for k, folder in enumerate(folders):
        model, state, config = load(folder, None if k else checkpoint)
        data = run_dataset(folder, config, dataset, other_data)
        transform = make_transform(config, data, model.likelihood.unit_interval)
        given = model, state.variables(), data, transform, config.seed, "test", counts or Counts()
        found.append((f"{config.regularizer}, {config.prior} prior", Subject(*given)))
    labels = [label for label, _ in found]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({_own_name(folders, k)})" for k, label in enumerate(labels)]
    return dict(zip(labels, (subject for _, subject in found), strict=True))


def _own_name(folders: Sequence[Path], k: int) -> str:
    """What distinguishes the k-th folder from the others, as part of a file name."""
    paths = [folder.resolve() for folder in folders]
    above = Path(os.path.commonpath([path.parent for path in paths]))
    return "-".join(paths[k].relative_to(above).parts)


def _write_exhibits(
    workdir: Path, folders: Sequence[Path], found: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Arrays, PNG and PDF of each figure, and its animation."""
    suffix = "" if len(folders) == 1 else f"_pair_{_own_name(folders, 1)}"
    paths: list[Path] = []
    for name, arrays in found.items():
        row, stem = FIGURES[name], f"{name}{suffix}"
        figure = row.draw(arrays)
        files: dict[Path, Callable[[Path], None]] = {
            workdir / "figures" / "arrays" / f"{stem}.npz": partial(write_arrays, exhibits=arrays)
        }
        for end in (".png", ".pdf"):
            files[workdir / "figures" / f"{stem}{end}"] = figures.file_of(figure, end)
        if row.animate is not None:
            files[workdir / "figures" / f"{stem}.gif"] = partial(row.animate, arrays)
        figures.write_whole(files)
        paths += files
    return paths


def _write_basic(
    workdir: Path,
    dataset: Dataset | None,
    names: Sequence[str],
    asked: set[str],
    *,
    checkpoint: int | None,
    other_data: bool,
) -> list[Path]:
    """Those of BASIC that fit.  Raises ValueError for one of `asked` that does not."""
    model, state, config = load(workdir, checkpoint)
    dataset = run_dataset(workdir, config, dataset, other_data)
    transform = make_transform(config, dataset, model.likelihood.unit_interval)
    run = _Run(workdir, model, state.variables(), dataset, transform, config.seed)
    if config.latent_dim != 2:
        if "latent" in asked:
            dim = config.latent_dim
            raise ValueError(f"figure 'latent' is of two latent dimensions; the run has {dim}")
        names = [name for name in names if name != "latent"]
    title = f"{config.regularizer} with {config.prior} prior"
    drawn = {workdir / "figures" / f"{name}.png": BASIC[name](run, title) for name in names}
    for path, figure in drawn.items():
        figures.save(figure, path)
    return list(drawn)


class _Run(NamedTuple):
    workdir: Path
    model: VAE
    variables: Any
    dataset: Dataset
    transform: Transform
    seed: int

    def held_out(self, count: int | None = None) -> np.ndarray:
        """x of the first `count` test examples."""
        rows = self.dataset.splits["test"][:count]
        return np.asarray(observed(self.transform, rows, np.arange(len(rows))))


def _training(run: _Run, name: str) -> Figure:
    rows = metric_rows(run.workdir / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    return training_curves(train, [row for row in rows if row["split"] in ("validation", "test")])


def _reconstructions(run: _Run, name: str) -> Figure:
    x = run.held_out(_NUM_RECONSTRUCTED[len(run.dataset.x_shape) == 3])
    output = jax.jit(nn.apply(lambda vae, x: vae.decode(vae.embed(x)), run.model))(run.variables, x)
    return figures.reconstructions(x, np.asarray(output), f"Held-out reconstructions, {name}")


def _samples(run: _Run, name: str) -> Figure:
    is_image = len(run.dataset.x_shape) == 3
    x = prior_samples(run.model, run.variables, 64 if is_image else 2_000, seed=run.seed)["x"]
    data = None if is_image else run.held_out()
    return figures.samples(x, data, f"Samples of the prior, {name}")


def _latent(run: _Run, name: str) -> Figure:
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


# Those of a run as such; what the paper draws, and pairs of runs, are FIGURES.
BASIC: dict[str, Callable[[_Run, str], Figure]] = {
    "training": _training,
    "reconstructions": _reconstructions,
    "samples": _samples,
    "latent": _latent,
}
