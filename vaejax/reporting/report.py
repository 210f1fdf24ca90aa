"""One page about a run, or about several side by side, in one file that needs nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaejax.config import parts_flag, saved_config
from vaejax.data.arrays import Dataset
from vaejax.evaluation.files import evaluation_path, read_evaluation
from vaejax.evaluation.plane import planes
from vaejax.evaluation.subject import Subject
from vaejax.expost.fit import PRIOR, density_sha256
from vaejax.expost.fit import sources as sources_of
from vaejax.progress import ProgressReport
from vaejax.reporting import page
from vaejax.reporting.basics import basic_figures
from vaejax.reporting.captions import CAPTIONS
from vaejax.reporting.explorer import explorer, explorer_data, num_nodes
from vaejax.reporting.gallery import FIGURES, chosen_figures, run_figures
from vaejax.reporting.headline import headline
from vaejax.reporting.metric_table import metric_table
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.reporting.provenance import (
    commands,
    config_texts,
    facts,
    in_short,
    labels_of,
    source_flag,
    title_of,
)
from vaejax.reporting.run import subjects_of
from vaejax.reporting.summary import cautions, omissions

_LARGEST = 3_000_000  # bytes of a file that is taken along


def write_report(
    workdirs: Sequence[str | Path],
    out: str | Path | None = None,
    dataset: Dataset | None = None,
    *,
    sources: Sequence[str] = (PRIOR,),
    quiet: bool = True,
) -> Path:
    """Write one HTML file about the runs in `workdirs`.  -> its path.

    That is `out`, else `report.html` of the only run or `comparison.html` in the first of several.
    sources: the prior, or densities fitted to the codes; every run is shown with each of them.
    `dataset` replaces the one that the configs name.  Raises ValueError, before anything is
    written, where there is no run, one is given twice, they are of different data, a source is not
    there, or the file is and not by this function.
    """
    folders = [Path(workdir) for workdir in workdirs]
    _check(folders)
    name = "report.html" if len(folders) == 1 else "comparison.html"
    path = folders[0] / name if out is None else Path(out)
    page.check_replaceable(path)
    shown = list(itertools.product(folders, dict.fromkeys(sources)))
    with ProgressReport("report", 0, len(shown) + 1, quiet) as progress:
        runs = [opened(folder, dataset, source=source) for folder, source in shown]
        evaluations = [_evaluation(run) for run in runs]  # first: they may be damaged
        subjects = subjects_of(runs)
        drawn, explored = [], []
        for done, (run, subject) in enumerate(zip(runs, subjects.values(), strict=True), start=1):
            drawn.append({k: page.figure_uri(each) for k, each in basic_figures(run).items()})
            explored.append(_explored(run, subject))
            progress.update(done)
        # The page has its own way to move.
        names = [n for n in chosen_figures(subjects, ["all"]) if FIGURES[n].animate is None]
        together = {n: page.figure_uri(each) for n, each in run_figures(subjects, names).items()}
        progress.update(len(shown) + 1)
    page.write_page(path, _document(runs, evaluations, drawn, together, explored))
    return path


def _check(folders: Sequence[Path]) -> None:
    if not folders:
        raise ValueError("no run to report on; at least one folder")
    configs = [saved_config(folder) for folder in folders]
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (same := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise ValueError(f"the run in {folder} is given twice, also as {same}")
    first, observation = configs[0].data_sha256, configs[0].observation
    for folder, config in zip(folders, configs, strict=True):
        if config.observation != observation:
            both = f"{config.observation!r}, that in {folders[0]} {observation!r}"
            raise ValueError(f"the run in {folder} has config.observation {both}")
        if config.data_sha256 != first:
            hashes = f"{config.data_sha256[:12]}..., that in {folders[0]} on {first[:12]}..."
            raise ValueError(f"the run in {folder} is of other data, SHA-256 {hashes}")


def _explored(run: OpenedRun, subject: Subject) -> tuple[dict, dict] | None:
    """Planes and their data, where the latent space is a plane and q(z|x) has a density."""
    if run.config.latent_dim != 2 or not run.model.posterior.has_density:
        return None
    found = planes(subject, nodes=num_nodes(run.dataset.x_shape))
    labels = run.dataset.labels.get("test")
    return found, explorer_data(found, run.held_out(2_000), labels)


def _document(
    runs: Sequence[OpenedRun],
    evaluations: Sequence[Mapping[str, Any]],
    drawn: Sequence[Mapping[str, str]],
    together: Mapping[str, str],
    explored: Sequence[tuple[dict, dict] | None],
) -> str:
    labels = labels_of(runs)
    lead, used = _lead(labels, drawn, explored)
    again = commands(runs, evaluations) + config_texts(labels, runs)
    rest = [{name: uri for name, uri in each.items() if name != used} for each in drawn]
    notes = _notes(labels, runs, evaluations) + headline(labels, evaluations)
    sections = {
        "picture": ("The latent plane" if used is None else used.capitalize(), lead),
        "metrics": ("Metrics", _metrics(labels, evaluations)),
        "figures": ("Figures", _figures(labels, runs, rest, together)),
        "trained": ("What was trained", facts(labels, runs, evaluations)),
        "reproduce": ("How to make it again", again),
    }
    title = f"{title_of(runs)} on {runs[0].dataset.name}"
    links = "".join(
        f'<a href="#{key}">{head}</a>' for key, (head, shown) in sections.items() if shown
    )
    parts = [
        f'<section id="{key}"><h2>{head}</h2>{content}</section>'
        for key, (head, content) in sections.items()
        if content
    ]
    about = f"<p>{page.escaped(in_short(runs))}</p>"
    head = f"<header><h1>{page.escaped(title)}</h1>{about}<nav>{links}</nav>{notes}</header>"
    foot = "<footer>Made by <code>vaejax report</code>. This page loads nothing.</footer>"
    scripts = ("drawing.js", "explorer.js") if any(explored) else ()
    return page.page(title, f"{head}<main>{''.join(parts)}</main>{foot}", scripts)


def _lead(
    labels: Sequence[str],
    drawn: Sequence[Mapping[str, str]],
    explored: Sequence[tuple[dict, dict] | None],
) -> tuple[str, str | None]:
    """The picture that comes first, and the name of the figure that it is, if any."""
    found = [(label, *each) for label, each in zip(labels, explored, strict=True) if each]
    if len(found) == len(labels):
        intro = (
            "<p>Move over a plane, by mouse, touch or arrow keys: the decoder shows what lies "
            "there, in all runs at the same place. A decoder knows only where codes lie; a sample "
            "from elsewhere is a guess. A click makes the address a link to the place.</p>"
        )
        return intro + explorer(*map(list, zip(*found, strict=True))), None
    name = "samples" if all("samples" in each for each in drawn) else "training"
    both = zip(labels, drawn, strict=True)
    return _gallery([(label, name, each[name]) for label, each in both]), name


def _evaluation(run: OpenedRun) -> dict[str, Any]:
    """What `evaluate` wrote, {} where it did not.  Raises ValueError where that is damaged."""
    path = evaluation_path(run.workdir, "test", run.dataset, run.config, run.source)
    if not path.exists():
        return {}
    return read_evaluation(path)


def _notes(
    labels: Sequence[str], runs: Sequence[OpenedRun], evaluations: Sequence[Mapping[str, Any]]
) -> str:
    """What to beware of, and how to evaluate what is not."""
    notes = []
    for label, run, evaluation in zip(labels, runs, evaluations, strict=True):
        which = f"<b>{page.escaped(label)}</b>: " if len(runs) > 1 else ""
        if not evaluation:
            command = f"vaejax evaluate --workdir {run.workdir}{source_flag(run)} --metrics all"
            command += parts_flag(run.config)
            command = page.escaped(command)
            notes.append(f"{which}not evaluated yet; <code>{command}</code> does it.")
            continue
        notes += [which + page.escaped(text) for text in cautions(evaluation, run.config)]
        if (step := evaluation.get("step")) != int(run.state.step):
            drawn = f"evaluated at step {step}; all else here is of step {int(run.state.step)}"
            notes.append(which + page.escaped(drawn))
        if evaluation.get("density_sha256", "") != density_sha256(run.workdir, run.source):
            drawn = f"evaluated with another density {run.source!r} than the one of all else here"
            notes.append(which + page.escaped(drawn))
    return "".join(f'<p class="caution">{note}</p>' for note in notes)


def _metrics(labels: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not any(evaluations):
        return ""
    left_out = [
        f"<p>Left out{f' of {label}' if len(labels) > 1 else ''}: {text}</p>"
        for label, each in zip(map(page.escaped, labels), evaluations, strict=True)
        for text in map(page.escaped, omissions(each))
    ]
    legend = (
        "<p>\u00b1 is one standard error. Open a name to see what it is and how each number was "
        "made. "
    )
    if len(labels) > 1:
        legend += (
            '<span class="best">Green</span> is better by more than two standard errors of the '
            'difference, <span class="ahead">bold</span> is better but its error is not known; '
            "both only where the protocols are the same."
        )
    return legend + "</p>" + metric_table(labels, evaluations) + "".join(left_out)


def _figures(
    labels: Sequence[str],
    runs: Sequence[OpenedRun],
    drawn: Sequence[Mapping[str, str]],
    together: Mapping[str, str],
) -> str:
    parts = []
    for name in dict.fromkeys(name for each in drawn for name in each):
        both = zip(labels, drawn, strict=True)
        shown = [(label, name, each[name]) for label, each in both if name in each]
        parts.append(_captioned(name, shown))
    for name, uri in together.items():
        parts.append(_captioned(name, [(" and ".join(labels), name, uri)]))
    for label, run in zip(labels, runs, strict=True):
        for path in sorted((run.workdir / "figures").glob("*")):
            is_ours = path.is_file() and not path.is_symlink() and path.suffix == ".gif"
            if is_ours and _source_of(path, run.workdir) == run.source:
                parts.append(_file(label, path))
    return "".join(parts)


def _source_of(path: Path, workdir: Path) -> str:
    """Of a figure in a file, whose name ends in it, but for that of another run beside it."""
    stem = path.stem.partition("_pair_")[0]
    densities = [name for name in sources_of(workdir) if stem.endswith(f"_{name}")]
    return max(densities, key=len, default=PRIOR)


def _file(label: str, path: Path) -> str:
    if (size := path.stat().st_size) > _LARGEST:
        return f"<p>{page.escaped(f'{path} ({size / 1e6:.1f} MB) is left out.')}</p>"
    uri = page.data_uri(path.read_bytes(), "image/gif")
    return _captioned(path.stem, [(label, path.stem, uri)])


def _captioned(name: str, shown: Sequence[tuple[str, str, str]]) -> str:
    caption = CAPTIONS.get(name, name.replace("_", " ").capitalize() + ".")
    return f"<p>{page.escaped(caption)}</p>{_gallery(shown)}"


def _gallery(shown: Sequence[tuple[str, str, str]]) -> str:
    """(label, name, data URI) of pictures side by side, as many as there is room for."""
    figures = []
    for label, name, uri in shown:
        text = page.escaped(f"{name}, {label}")
        caption = f"<figcaption>{page.escaped(label)}</figcaption>" if len(shown) > 1 else ""
        figures.append(f'<figure>{caption}<img src="{uri}" alt="{text}"></figure>')
    return f'<div class="gallery">{"".join(figures)}</div>'
