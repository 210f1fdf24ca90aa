"""The figures of arXiv 1911.10506 by name: a row of FIGURES is arrays, and how they are drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vaejax.config import unknown
from vaejax.evaluation import exhibits
from vaejax.evaluation.exhibits import held_out
from vaejax.evaluation.landscapes import Landscape, landscape, no_landscape
from vaejax.evaluation.layers import (
    Coupling,
    Decoupling,
    LayerTable,
    coupling_of,
    decoupling_of,
    layer_table,
)
from vaejax.evaluation.neighbors import Neighbors, no_held_out, sample_neighbors
from vaejax.evaluation.subject import Subject
from vaejax.reporting import animation, diagrams, leaks, neighbors, pockets, walks


@dataclass
class Shown:
    """A model in a figure.  What several figures need is computed once."""

    subject: Subject

    @functools.cached_property
    def scene(self) -> Landscape:
        """That of two latent dimensions; else one without a plane."""
        has_density = self.subject.model.posterior.has_density
        is_plane = has_density and self.subject.held_out.mean.shape[1] == 2
        return landscape(self.subject) if is_plane else no_landscape()


class Row(NamedTuple):
    """A figure of one model or of several."""

    kind: Any  # NamedTuple of arrays, one for each model
    arrays: Callable[[Mapping[str, Shown]], dict[str, Any]]  # label -> kind
    draw: Callable[[Mapping[str, Any]], Figure]
    misfit: Callable[[Subject], str] = lambda subject: ""  # what a model or its data lack
    one_is_enough: bool = False  # of several models that fit
    animate: Callable[[Mapping[str, Any], Path], None] | None = None  # writes a GIF besides


def run_figures(
    subjects: Mapping[str, Subject], names: Sequence[str] = ("all",)
) -> dict[str, Figure]:
    """Draw figures of one model, or of several side by side, and write nothing.  -> by name.

    subjects: by the labels that they are drawn with (`labeled_subjects` opens runs).  names: of
    FIGURES; "all" are those that fit.  Raises ValueError for an unknown name, for a figure that was
    asked for by name and does not fit, and for models of different data.
    """
    found = figure_arrays(subjects, names)
    return {name: FIGURES[name].draw(arrays) for name, arrays in found.items()}


def figure_arrays(
    subjects: Mapping[str, Subject], names: Sequence[str] = ("all",)
) -> dict[str, dict[str, Any]]:
    """What `run_figures` draws: for every figure, the arrays of every model by label."""
    chosen = chosen_figures(subjects, names)
    check_same_data(subjects)
    shown = {label: Shown(subject) for label, subject in subjects.items()}
    found = {}
    for name in chosen:
        row = FIGURES[name]
        fitting = {key: each for key, each in shown.items() if not row.misfit(each.subject)}
        found[name] = row.arrays(fitting)
    return found


def chosen_figures(subjects: Mapping[str, Subject], names: Sequence[str]) -> list[str]:
    """The names of FIGURES that are asked for.  Raises ValueError where one does not fit."""
    check_names(names)
    chosen: list[str] = []
    for name in FIGURES if "all" in names else names:
        row = FIGURES[name]
        lacks = {label: lack for label, each in subjects.items() if (lack := row.misfit(each))}
        fits = len(lacks) < len(subjects) if row.one_is_enough else not lacks
        if fits:
            chosen.append(name)
        elif name in names:
            label, lack = next(iter(lacks.items()))
            raise ValueError(f"figure {name!r} does not fit {label}: {lack}")
    return list(dict.fromkeys(chosen))


def check_names(names: Sequence[str], others: Iterable[str] = ()) -> None:
    """Raises ValueError for a name that is neither in FIGURES, nor "all", nor in `others`."""
    for name in names:
        if name not in (allowed := (*others, *FIGURES, "all")):
            raise unknown("figure", name, allowed)


def check_same_data(subjects: Mapping[str, Subject]) -> None:
    """Raises ValueError unless all models are of the same data, split, and counts of draws."""
    (first, one), *others = subjects.items()
    x = held_out(one, np.arange(min(100, len(one.dataset.splits[one.protocol.split]))))
    for label, other in others:
        sizes = [len(each.dataset.splits[each.protocol.split]) for each in (one, other)]
        hashes = [each.dataset.sha256 for each in (one, other)]
        if hashes[0] != hashes[1]:
            both = f"SHA-256 {hashes[0][:12]}... and {hashes[1][:12]}..."
            raise ValueError(
                f"{first} and {label} are of different data ({both}); one figure has one"
            )
        if sizes[0] != sizes[1] or not np.array_equal(x, held_out(other, np.arange(len(x)))):
            raise ValueError(f"{first} and {label} hold out different examples; one figure has one")
        if one.counts != other.counts:
            raise ValueError(f"{first} and {label} have different counts of draws; take the same")


def _each(of: Callable[[Subject], Any]) -> Callable[[Mapping[str, Shown]], dict[str, Any]]:
    return lambda shown: {label: of(each.subject) for label, each in shown.items()}


def _factors(shown: Mapping[str, Shown]) -> dict[str, exhibits.Factors]:
    example = exhibits.central_example([each.subject for each in shown.values()])
    return {label: exhibits.factors(each.subject, example) for label, each in shown.items()}


def _pockets(shown: Mapping[str, Shown]) -> dict[str, exhibits.Pockets]:
    return {key: exhibits.pockets(one.subject, one.scene) for key, one in shown.items()}


def _traversals(shown: Mapping[str, Shown]) -> dict[str, exhibits.Traversals]:
    found = exhibits.example_traversals
    return {key: found(one.subject, scene=one.scene) for key, one in shown.items()}


def _loop(shown: Mapping[str, Shown]) -> dict[str, exhibits.Traversals]:
    return {key: exhibits.round_trip(one.subject, scene=one.scene) for key, one in shown.items()}


def _layers(subject: Subject) -> LayerTable:
    return layer_table(subject.model, subject.variables, subject.dataset.x_shape)


def _no_density(subject: Subject) -> str:
    return "" if subject.model.posterior.has_density else "q(z|x) has no density"


def _no_picture(subject: Subject) -> str:
    shape = subject.dataset.x_shape
    return "" if shape == (2,) else _no_images(subject, "neither images nor points of the plane")


def _no_images(subject: Subject, what: str = "no images") -> str:
    shape = subject.dataset.x_shape
    is_image = len(shape) == 3 and shape[-1] in (1, 3)
    return "" if is_image else f"{subject.dataset.name!r} of shape {shape} are {what}"


def _no_plane(subject: Subject) -> str:
    dim = subject.held_out.mean.shape[1]
    return "" if dim > 1 else "it has one latent dimension, and pockets are drawn in two"


def _no_flow(subject: Subject) -> str:
    has_flow = coupling_of(subject.model, subject.variables) is not None
    return "" if has_flow else "its prior has no coupling flow"


def _first(*misfits: Callable[[Subject], str]) -> Callable[[Subject], str]:
    return lambda subject: next(filter(None, (each(subject) for each in misfits)), "")


FIGURES: dict[str, Row] = {
    "pockets": Row(
        exhibits.Pockets,
        _pockets,
        pockets.pockets,
        _first(_no_density, _no_picture, _no_plane),
    ),
    "leakage": Row(exhibits.Leaks, _each(exhibits.leaks), leaks.leakage, _no_density),
    "random_and_low_posterior": Row(
        exhibits.RandomAndLow,
        _each(exhibits.random_and_low),
        pockets.random_and_low_posterior,
        _first(_no_density, _no_images),
    ),
    "neighbors": Row(
        Neighbors, _each(sample_neighbors), neighbors.neighbors, _first(_no_images, no_held_out)
    ),
    "traversals": Row(exhibits.Traversals, _traversals, walks.traversals, _no_picture),
    "factors": Row(exhibits.Factors, _factors, walks.factors, _no_images),
    "interpolations": Row(
        exhibits.Interpolations, _each(exhibits.interpolations), walks.interpolations, _no_picture
    ),
    "decoupling": Row(Decoupling, _each(decoupling_of), diagrams.decoupling),
    "coupling": Row(
        Coupling,
        _each(lambda subject: coupling_of(subject.model, subject.variables)),
        diagrams.coupling_layer,
        _no_flow,
        one_is_enough=True,
    ),
    "architecture": Row(LayerTable, _each(_layers), diagrams.architecture),
    "traversal_gif": Row(
        exhibits.Traversals,
        _loop,
        animation.traversal_still,
        _no_picture,
        animate=animation.write_gif,
    ),
}
