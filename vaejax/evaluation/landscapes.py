"""The aggregate posterior on a grid, in representation and in generation space: arrays only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaejax.evaluation.pockets import Aggregate
from vaejax.evaluation.subject import Subject
from vaejax.evaluation.traversals import dimension_kls, from_base, to_base
from vaejax.models.programs import prior_draws, program, with_prior

_SIZE, _MARGIN = 200, 0.1  # points of a side; share of its length beyond the draws shown
_SHOWN = 500  # draws of the prior, and of q(z), that every frame holds


class Landscape(NamedTuple):
    """Log densities of q and p in P planes of G x G points; `log_q[k, i, j]` is at (x[j], y[i]).

    With more than two latent dimensions, of the marginal over `dimensions`, and log p is nan.
    """

    space: np.ndarray  # (P,) "representation" or "generation"; P = 0 where q has no density
    dimensions: np.ndarray  # (2,) of the latent space
    x: np.ndarray  # (P, G) increasing
    y: np.ndarray  # (P, G) increasing
    log_q: np.ndarray  # (P, G, G) nats
    log_p: np.ndarray  # (P, G, G) nats

    def of(self, z: np.ndarray, z0: np.ndarray) -> np.ndarray:
        """Points (..., D) of both spaces in these planes.  -> (P, ..., 2)."""
        planes = [{"representation": z, "generation": z0}[str(name)] for name in self.space]
        found = [points[..., self.dimensions] for points in planes]
        return np.stack(found) if found else np.zeros((0, *z.shape[:-1], 2), z.dtype)


def no_landscape() -> Landscape:
    """That of a posterior without a density, or of one latent dimension: no plane."""
    empty = np.zeros((0, 1, 1), np.float32)
    return Landscape(np.zeros(0, "U14"), np.arange(2), empty[..., 0], empty[..., 0], empty, empty)


def landscape(subject: Subject, size: int = _SIZE) -> Landscape:
    """log q and log p around their draws, in generation space too where that is another.

    With more than two latent dimensions: the marginal q of the two with the largest KL, in
    representation space alone, where it is exact.  Raises ValueError where q(z|x) has no density,
    and for one latent dimension.
    """
    p, q = subject.draws
    dim = p.z.shape[1]
    if dim < 2:
        raise ValueError("a landscape needs at least 2 latent dimensions; the model has 1")
    best = strongest_dimensions(subject, "representation")[:2]
    dimensions = np.arange(2) if dim == 2 else np.sort(best)
    spaces = ["representation"]
    if dim == 2 and not np.allclose(p.z, p.z0):
        spaces.append("generation")
    planes = []
    for space in spaces:
        shown = [getattr(draws, "z" if space == "representation" else "z0") for draws in (p, q)]
        x, y = _frame(np.concatenate([points[:_SHOWN, dimensions] for points in shown]), size)
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
        logs = _log_densities(subject, grid, space, dimensions)
        planes.append((x, y, *(each.reshape(size, size) for each in logs)))
    return Landscape(np.array(spaces), dimensions, *map(np.stack, zip(*planes, strict=True)))


def strongest_dimensions(subject: Subject, space: str) -> np.ndarray:
    """All dimensions of `space`, the most informative about x first.  -> (D,).

    By the mean KL of each dimension where q(z|x) is known, else by the spread of the codes.
    """
    codes, model, variables = subject.held_out, subject.model, subject.variables
    if codes.scale is None:
        points = codes.z if space == "representation" else codes.z0
        return np.argsort(-points.std(axis=0), kind="stable")
    mean, scale = codes.mean[:1_000], codes.scale[:1_000]
    noise = np.random.Generator(np.random.Philox(0)).normal(size=(64, *mean.shape))
    z = (mean + scale * noise).astype(np.float32).reshape(-1, mean.shape[1])
    prior, drawn = np.asarray(program(prior_draws(5_000), model)(variables, subject.key(3))), z
    if space == "generation":
        prior, drawn = (to_base(model, variables, each) for each in (prior, drawn))
    drawn = np.asarray(drawn).reshape(noise.shape)
    kls = dimension_kls(drawn.mean(axis=0), drawn.std(axis=0) + 1e-6, np.asarray(prior))
    return np.argsort(-kls, kind="stable")


def _frame(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle around the points (N, 2), as two axes (size,)."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = _MARGIN * np.maximum(high - low, 1e-3)
    x, y = (np.linspace(low[d] - margin[d], high[d] + margin[d], size) for d in (0, 1))
    return x, y


def _log_densities(
    subject: Subject, grid: np.ndarray, space: str, dimensions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log q and log p at points (N, 2) of a plane.  -> (N,) each."""
    aggregate = subject.aggregate
    if aggregate.mean.shape[1] > 2:
        marginal = Aggregate(aggregate.mean[:, dimensions], aggregate.scale[:, dimensions])
        return np.asarray(marginal.log_prob(grid)), np.full(len(grid), np.nan, np.float32)
    return log_densities(subject, grid, base=space == "generation")


def log_densities(
    subject: Subject, points: np.ndarray, *, base: bool
) -> tuple[np.ndarray, np.ndarray]:
    """log q and log p at points of representation space, or with `base` of generation space.

    points: (N, D) -> (N,) each, densities of the space that the points are of.
    """
    model, variables = subject.model, subject.variables
    z = from_base(model, variables, points) if base else points
    _, log_p, log_base = map(np.asarray, program(with_prior, model)(variables, z))
    log_q = np.asarray(subject.aggregate.log_prob(z))
    if not base:
        return log_q, log_p
    return log_q - (log_p - log_base), log_base  # a density of z0 is one of z over |det dg/dz|
