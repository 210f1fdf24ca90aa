"""What the figures of arXiv 1911.10506 show, as arrays of one model each; drawn in `reporting`.

All fields are NumPy arrays, so that an exhibit is a file of arrays and back again.  Latent points
come in both spaces, or in the P planes of a `Landscape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vaejax.evaluation.landscapes import Landscape, landscape, no_landscape, strongest_dimensions
from vaejax.evaluation.pockets import HIGH_FRACTION, leakage, lowest
from vaejax.evaluation.subject import Subject
from vaejax.evaluation.traversals import (
    FactorWalk,
    Walk,
    decoded,
    factor_traversals,
    interpolation_grid,
    path_between,
    spread_examples,
    to_base,
    traversals,
)
from vaejax.training.state import observed

CANDIDATES = 500  # draws of the prior, and of q(z), that low and high posterior samples are among
_NUM_POINTS, _NUM_IMAGES, _IN_GRID, _FINE = 2_000, 25, 30, 121
_CANDIDATES = 40  # held-out examples that those shown are chosen among
_LEVELS = np.geomspace(1e-3, 1.0, 31)  # of the prior's own mass beyond a threshold


class Pockets(NamedTuple):
    """Figures 1 and 3: samples, q(z) with low and high posterior samples, the low ones decoded."""

    data: np.ndarray  # (N, *X) held out
    samples: np.ndarray  # (S, *X) of the prior, decoded
    low_samples: np.ndarray  # (L, *X) those of lowest log q(z), decoded, ascending
    landscape: Landscape
    low: np.ndarray  # (P, L, 2) draws of the prior with the lowest log q(z)
    high: np.ndarray  # (P, H, 2) draws of q(z) with the lowest log p0(g(z))


class Leaks(NamedTuple):
    """Figure 4: the leakage score against its threshold."""

    levels: np.ndarray  # (T,) share of the prior's mass where log p0 is below the threshold
    thresholds: np.ndarray  # (T,) nats
    unconditional: np.ndarray  # (2, T) nats, as published and with log |det dg/dz|
    conditional: np.ndarray  # (2, T) nats, likewise
    fraction: np.ndarray  # (T,) of q(z) below the threshold
    num_draws: np.ndarray  # () of q(z), in all


class RandomAndLow(NamedTuple):
    """Figure 5: what the prior generates, and what it generates where q(z) is lowest."""

    samples: np.ndarray  # (S, *X)
    low_samples: np.ndarray  # (S, *X), ascending by log q(z)


class Traversals(NamedTuple):
    """Figures 6 and 7: T walks between pairs of held-out examples."""

    examples: np.ndarray  # (T, 2) positions in the split
    data: np.ndarray  # (N, *X) held out, for points only
    ends: np.ndarray  # (T, 2, *X)
    walk: Walk  # (T, frames, .)
    z: np.ndarray  # (T, M, D) the same walks in finer steps
    z0: np.ndarray  # (T, M, D)
    x: np.ndarray  # (T, M, *X), for points only
    landscape: Landscape  # of two latent dimensions; else without a plane


class Factors(NamedTuple):
    """Figure 8: the strongest dimensions of one held-out example, one at a time."""

    example: np.ndarray  # () position in the split
    x: np.ndarray  # (*X) the example
    space: np.ndarray  # () "generation" or "representation"
    walk: FactorWalk


class Interpolations(NamedTuple):
    """Bilinear between four held-out examples."""

    examples: np.ndarray  # (4,) positions in the split
    data: np.ndarray  # (N, *X) held out, for points only
    corners: np.ndarray  # (4, *X)
    walk: Walk  # (size, size, .)


def pockets(subject: Subject, scene: Landscape | None = None) -> Pockets:
    """The lowest `counts.low_fraction` of 500 draws of the prior, a tenth of 500 of q(z).

    Raises ValueError where q(z|x) has no density, and for fewer than two latent dimensions.
    """
    p, q = subject.draws
    scene = scene if scene is not None and len(scene.space) else landscape(subject)
    low = lowest(p.log_q[:CANDIDATES], subject.counts.low_fraction)
    high = lowest(q.log_base[:CANDIDATES], HIGH_FRACTION)
    is_image = len(subject.dataset.x_shape) == 3
    shown = _NUM_IMAGES if is_image else _NUM_POINTS
    return Pockets(
        _first(subject, shown),
        _decoded(subject, p.z[:shown]),
        _decoded(subject, p.z[low[:_NUM_IMAGES] if is_image else low]),
        scene,
        scene.of(p.z[low], p.z0[low]),
        scene.of(q.z[high], q.z0[high]),
    )


def leaks(subject: Subject) -> Leaks:
    """At thresholds beyond which the prior has from 0.1 % to all of its mass.

    Raises ValueError where q(z|x) has no density.
    """
    _, q = subject.draws
    thresholds = subject.quantiles(_LEVELS.tolist())
    both = [
        [leakage(q.log_q, q.log_base, threshold, volume) for threshold in thresholds]
        for volume in (None, q.log_det)
    ]
    return Leaks(
        _LEVELS,
        thresholds,
        np.array([[at.unconditional.mean() for at in each] for each in both]),
        np.array([[_mean(at.conditional) for at in each] for each in both]),
        np.array([at.leaks.mean() for at in both[0]]),
        np.asarray(len(q.z)),
    )


def _mean(values: np.ndarray) -> float:
    return values.mean() if len(values) else 0.0


def random_and_low(subject: Subject) -> RandomAndLow:
    """30 draws of the prior, and the 30 of lowest log q(z) among as many as make them its lowest.

    Raises ValueError where q(z|x) has no density.
    """
    p, fraction = subject.draws[0], subject.counts.low_fraction
    candidates = p.log_q[: round(_IN_GRID / fraction)]
    low = lowest(candidates, fraction)[:_IN_GRID]
    return RandomAndLow(_decoded(subject, p.z[:_IN_GRID]), _decoded(subject, p.z[low]))


def example_traversals(
    subject: Subject,
    examples: np.ndarray | None = None,
    frames: int = 11,
    scene: Landscape | None = None,
) -> Traversals:
    """Between pairs of held-out examples: of some at random, those farthest apart unless given.

    examples: (T, 2) positions in the split.  scene: what the walks are drawn over, if anything.
    Raises ValueError for positions that are not there.
    """
    examples = _examples(subject, examples, (4, 2))
    given = subject.model, subject.variables, subject.held_out.mean[examples]
    z, z0 = path_between(*given, _FINE)
    is_image = len(subject.dataset.x_shape) == 3
    return Traversals(
        examples,
        _points(subject),
        held_out(subject, examples),
        traversals(*given, frames),
        z,
        z0,
        np.zeros((0, 0, 0), np.float32) if is_image else _decoded(subject, z),
        no_landscape() if scene is None else scene,
    )


def round_trip(subject: Subject, frames: int = 13, scene: Landscape | None = None) -> Traversals:
    """Through four held-out examples and back to the first: each walk begins where one ends."""
    stops = _examples(subject, None, (4,))
    pairs = np.stack([stops, np.roll(stops, -1)], axis=1)
    return example_traversals(subject, pairs, frames, scene)


def factors(
    subject: Subject, example: int | None = None, space: str = "generation", most: int = 5
) -> Factors:
    """The `most` dimensions of largest KL of one held-out example, moved by up to 3.

    Where space has no normal base to say how wide it is, by standard deviations of held-out codes.
    The example is the one in the middle of generation space unless given.  Raises ValueError for
    one that is not there, and an unknown space.
    """
    given = None if example is None else np.array([example])
    (chosen,) = [central_example([subject])] if given is None else _examples(subject, given, ())
    codes = subject.held_out
    points = codes.z0 if space == "generation" else codes.z
    walk = factor_traversals(
        subject.model,
        subject.variables,
        codes.mean[chosen],
        strongest_dimensions(subject, space)[:most],
        space=space,
        unit=1.0 if subject.model.prior.has_normal_base else points.std(axis=0),
    )
    x = held_out(subject, np.array([chosen]))[0]
    return Factors(np.asarray(chosen), x, np.array(space), walk)


def central_example(subjects: Sequence[Subject]) -> int:
    """The held-out example that is nearest the middle of generation space to all models."""
    codes = [to_base(each.model, each.variables, each.held_out.mean) for each in subjects]
    return int(np.argmin(np.sum([(z0**2).sum(axis=1) for z0 in codes], axis=0)))


def interpolations(
    subject: Subject, examples: np.ndarray | None = None, size: int | None = None
) -> Interpolations:
    """Between four held-out examples: of some at random, those farthest apart unless given.

    examples: (4,) positions in the split.  size: of a side of the grid; 7 for images, else 21.
    Raises ValueError for positions that are not there.
    """
    size = size or (7 if len(subject.dataset.x_shape) == 3 else 21)
    examples = _examples(subject, examples, (4,))
    codes = subject.held_out.mean[examples]
    walk = interpolation_grid(subject.model, subject.variables, codes, size)
    return Interpolations(examples, _points(subject), held_out(subject, examples), walk)


def held_out(subject: Subject, examples: np.ndarray) -> np.ndarray:
    """x of examples of the split, as the model sees them.  examples: (...) -> (..., *X)."""
    flat, rows = examples.ravel(), subject.dataset.splits[subject.protocol.split]
    x = np.asarray(observed(subject.transform, np.asarray(rows[flat]), flat))
    return x.reshape(*examples.shape, *x.shape[1:])


def _first(subject: Subject, count: int) -> np.ndarray:
    """The first `count` held-out x, or all there are."""
    return held_out(
        subject, np.arange(min(count, len(subject.dataset.splits[subject.protocol.split])))
    )


def _points(subject: Subject) -> np.ndarray:
    is_image = len(subject.dataset.x_shape) == 3
    return _first(subject, 0 if is_image else _NUM_POINTS)


def _decoded(subject: Subject, z: np.ndarray) -> np.ndarray:
    return decoded(subject.model, subject.variables, z)


def _examples(subject: Subject, examples: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    count = len(subject.dataset.splits[subject.protocol.split])
    if examples is None:
        order = np.random.Generator(np.random.Philox(0)).permutation(count)[:_CANDIDATES]
        return order[spread_examples(held_out(subject, order), math.prod(shape))].reshape(shape)
    examples = np.asarray(examples, int)
    if examples.size and (examples.min() < 0 or examples.max() >= count):
        raise ValueError(f"examples {examples.tolist()}; the split has those from 0 to {count - 1}")
    return examples
