"""The files of a run's pictures and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vaejax.data.arrays import Dataset
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.evaluation.subject import Subject
from vaejax.expost.fit import PRIOR, sourced
from vaejax.reporting import figures
from vaejax.reporting.archives import write_arrays
from vaejax.reporting.basics import BASIC, basic_figures, prior_samples
from vaejax.reporting.gallery import FIGURES, check_names, figure_arrays
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.reporting.provenance import labels_of, own_name
from vaejax.training.loop import load


def write_samples(
    workdir: str | Path,
    num_samples: int,
    draw: int = 0,
    *,
    source: str = PRIOR,
    checkpoint: int | None = None,
) -> list[Path]:
    """Write `samples/seed<draw>_n<num>.npz` and `.png` of a run.  -> their paths.

    They are drawn from the prior, or from the fitted density that `source` names, and the files'
    names end in it.  Raises ValueError without samples, or where `load` and `sourced` do.
    """
    model, state, config = load(workdir, checkpoint)
    model, state = sourced(Path(workdir), model, state, source)
    samples = prior_samples(model, state.variables(), num_samples, seed=config.seed, draw=draw)
    folder = Path(workdir) / "samples"
    folder.mkdir(exist_ok=True)
    stem = f"seed{draw}_n{num_samples}{_suffix(source)}"
    arrays, picture = (folder / f"{stem}.{end}" for end in ("npz", "png"))
    partial = arrays.with_name(f".{arrays.name}.partial.npz")
    np.savez(partial, **samples)  # type: ignore[arg-type]
    partial.replace(arrays)
    title = f"{num_samples} samples" + ("" if source == PRIOR else f", codes drawn from {source}")
    figures.save(figures.samples(samples["x"], title=title), picture)
    return [arrays, picture]


def _suffix(source: str) -> str:
    return "" if source == PRIOR else f"_{source}"


def write_figures(
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    names: Sequence[str] = (),
    pair: str | Path | None = None,
    source: str = PRIOR,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> list[Path]:
    """Draw figures of a run into `figures/`.  -> their paths.

    names: of BASIC, of which all that fit are drawn by default, as PNG; of FIGURES, each as arrays
    (`figures/arrays/`), PNG and PDF; "all" are those of both that fit.  With `pair`, FIGURES show
    that run beside this one, all by default, and their names end in that of its folder; BASIC stay
    those of this run.  source: a density fitted to the codes of this run, in place of its prior;
    names end in it.  `dataset` replaces the one the config names.  Raises ValueError where `load`
    and `sourced` do, for data other than those of the run, unless `other_data`, for an unknown
    name, a figure that does not fit, and a pair of different data.
    """
    workdir = Path(workdir)
    folders = [workdir] if pair is None else [workdir, Path(pair)]
    given: dict[str, Any] = {"checkpoint": checkpoint, "other_data": other_data, "source": source}
    basic, exhibits = _chosen(folders, dataset, names, given)
    paths = [workdir / "figures" / f"{name}{_suffix(source)}.png" for name in basic]
    for path, figure in zip(paths, basic.values(), strict=True):
        figures.save(figure, path)
    return [*paths, *_write_exhibits(workdir, folders, exhibits, _suffix(source))]


def figures_of(
    workdir: str | Path,
    dataset: Dataset | None = None,
    *,
    names: Sequence[str] = (),
    pair: str | Path | None = None,
    source: str = PRIOR,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> dict[str, Figure]:
    """The figures of a run, by name, to look at: nothing is written.

    names: keys of `vaejax.reporting.basics.BASIC`, all that fit by default, and of
    `vaejax.reporting.gallery.FIGURES`; "all" are those of both that fit.  The other arguments are
    those of `vaejax.reporting.run.write_figures`.

    >>> vaejax.figures_of("runs/digits", names=["samples", "decoupling"]).keys()
    dict_keys(['samples', 'decoupling'])
    """
    folders = [Path(workdir)] if pair is None else [Path(workdir), Path(pair)]
    given: dict[str, Any] = {"checkpoint": checkpoint, "other_data": other_data, "source": source}
    basic, exhibits = _chosen(folders, dataset, names, given)
    return basic | {name: FIGURES[name].draw(arrays) for name, arrays in exhibits.items()}


def _chosen(
    folders: Sequence[Path],
    dataset: Dataset | None,
    names: Sequence[str],
    given: Mapping[str, Any],
) -> tuple[dict[str, Figure], dict[str, dict[str, Any]]]:
    """Those of BASIC that are wanted, drawn, and the arrays of those of FIGURES."""
    names = list(names) or (["all"] if len(folders) > 1 else [])
    check_names(names, BASIC)
    others = [name for name in names if name not in BASIC]
    exhibits, basic = {}, {}
    if others:
        exhibits = figure_arrays(labeled_subjects(folders, dataset, **given), others)
    if not names or set(names) & {*BASIC, "all"}:
        basic = basic_figures(opened(folders[0], dataset, **given), names)
    return basic, exhibits


def labeled_subjects(
    workdirs: Sequence[str | Path],
    dataset: Dataset | None = None,
    *,
    counts: Counts | None = None,
    source: str = PRIOR,
    checkpoint: int | None = None,
    other_data: bool = False,
) -> dict[str, Subject]:
    """Runs as `run_figures` takes them, by what they are called on a page.

    `checkpoint` and `source` are of the first; the others have the latest and their prior.  Raises
    ValueError as `write_figures` does, and for one run twice.
    """
    folders = [Path(workdir) for workdir in workdirs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"{folders[0]} is compared with itself; --pair is another run")
    first = {"checkpoint": checkpoint, "source": source}
    rest: list[dict[str, Any]] = [{}] * (len(folders) - 1)
    runs = [
        opened(folder, dataset, **own, other_data=other_data)
        for folder, own in zip(folders, [first, *rest], strict=True)
    ]
    return subjects_of(runs, Protocol(counts=counts or Counts()))


def subjects_of(runs: Sequence[OpenedRun], protocol: Protocol | None = None) -> dict[str, Subject]:
    """By what the runs are called on a page."""
    return {label: run.subject(protocol) for label, run in zip(labels_of(runs), runs, strict=True)}


def _write_exhibits(
    workdir: Path, folders: Sequence[Path], found: Mapping[str, Mapping[str, Any]], suffix: str
) -> list[Path]:
    """Arrays, PNG and PDF of each figure, and its animation."""
    suffix += "" if len(folders) == 1 else f"_pair_{own_name(folders, 1)}"
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
