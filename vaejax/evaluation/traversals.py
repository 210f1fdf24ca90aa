"""Walks through the latent space and what is decoded on the way: arrays only.

A walk is straight in generation space, where the prior is N(0, I), and so curved in representation
space wherever the two differ (arXiv 1911.10506, sec. 5.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from vaejax.config import unknown
from vaejax.models import programs
from vaejax.models.programs import program
from vaejax.models.vae import VAE
from vaejax.training.validation import num_at_once, over_split

SPACES = ("generation", "representation")


class Walk(NamedTuple):
    """Points of the latent space, in both its spaces, and what they decode to."""

    z: np.ndarray  # (..., D) representation space
    z0: np.ndarray  # (..., D) generation space, g(z)
    x: np.ndarray  # (..., *X) the mean of p(x|z)


class FactorWalk(NamedTuple):
    """One dimension changed at a time, R dimensions by V offsets."""

    dimensions: np.ndarray  # (R,) which
    offsets: np.ndarray  # (V,) what is added, in units of each dimension
    z: np.ndarray  # (R, V, D)
    z0: np.ndarray  # (R, V, D)
    x: np.ndarray  # (R, V, *X)


def spread_examples(x: np.ndarray, count: int) -> np.ndarray:
    """`count` of the examples x (N, *X), each as far from those before as it can be.  -> (count,).

    A function of x alone.  Raises ValueError for more than there are.
    """
    if not 0 < count <= len(x):
        raise ValueError(f"{count} examples asked for; from 1 to {len(x)}, all there are")
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    chosen, apart = [0], np.full(len(x), np.inf)
    while len(chosen) < count:
        apart = np.minimum(apart, ((flat - flat[chosen[-1]]) ** 2).sum(axis=1))
        apart[chosen] = -1.0
        chosen.append(int(np.argmax(apart)))
    return np.array(chosen)


def traversals(
    model: VAE, variables: Mapping[str, Any], ends: np.ndarray, frames: int = 11
) -> Walk:
    """From one code to another, in equal steps that are straight in generation space.

    ends: (T, 2, D) codes in representation space -> Walk (T, frames, .), which begins and ends in
    them (arXiv 1911.10506, sec. 5.3).  Raises ValueError for fewer than 2 frames.
    """
    z, z0 = path_between(model, variables, ends, frames)
    return Walk(z, z0, decoded(model, variables, z))


def path_between(
    model: VAE, variables: Mapping[str, Any], ends: np.ndarray, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """The z and z0 of `traversals`, (T, frames, D) each, with nothing decoded."""
    ends = _codes(ends, 3)
    if ends.shape[1] != 2 or frames < 2:
        raise ValueError(f"{frames} frames between {ends.shape[1]} codes; >= 2 frames between 2")
    share = np.linspace(0, 1, frames, dtype=np.float32)[:, None]
    start, end = np.split(to_base(model, variables, ends), 2, axis=1)
    z0 = start + share * (end - start)
    return from_base(model, variables, z0), z0


def interpolation_grid(
    model: VAE, variables: Mapping[str, Any], corners: np.ndarray, size: int = 8
) -> Walk:
    """Bilinear between four codes, straight in generation space.

    corners: (4, D) codes, top left, top right, bottom left, bottom right -> Walk (size, size, .).
    Raises ValueError for another number of corners and a size below 2.
    """
    corners = _codes(corners, 2)
    if len(corners) != 4 or size < 2:
        raise ValueError(f"a grid of side {size} between {len(corners)} codes; >= 2 between 4")
    share = np.linspace(0, 1, size, dtype=np.float32)
    weights = np.stack([1 - share, share])  # (2, size)
    base = to_base(model, variables, corners).reshape(2, 2, -1)
    z0 = np.einsum("iy,jx,ijd->yxd", weights, weights, base)
    return _walk(model, variables, z0, "generation")


def factor_traversals(
    model: VAE,
    variables: Mapping[str, Any],
    code: np.ndarray,
    dimensions: Sequence[int] | np.ndarray,
    *,
    space: str = "generation",
    reach: float = 3.0,
    count: int = 7,
    unit: np.ndarray | float = 1.0,
) -> FactorWalk:
    """Each of `dimensions` of one code moved by `count` offsets in [-reach, reach] units.

    code: (D,) in representation space.  unit: of each dimension, (D,), or of all.  All else stays
    as it is in `space`.  The authors' code takes 7 values and a reach of 5, which leaves the prior
    behind.  Raises ValueError for an unknown space, a dimension that is not there, fewer than 2
    values and a reach <= 0.
    """
    code, dimensions = _codes(code, 1), np.asarray(dimensions, int)
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    if not len(dimensions) or dimensions.min() < 0 or dimensions.max() >= len(code):
        raise ValueError(f"dimensions are {dimensions.tolist()}; some of 0 to {len(code) - 1}")
    if count < 2 or not reach > 0:
        raise ValueError(f"{count} values within {reach}; at least 2, within a positive reach")
    start = to_base(model, variables, code) if space == "generation" else code
    offsets = np.linspace(-reach, reach, count, dtype=np.float32)
    points = np.tile(start, (len(dimensions), count, 1))
    units = np.broadcast_to(unit, code.shape)[dimensions].astype(np.float32)
    points[np.arange(len(dimensions)), :, dimensions] += units[:, None] * offsets
    return FactorWalk(dimensions, offsets, *_walk(model, variables, points, space))


def dimension_kls(mean: np.ndarray, scale: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """KL of each dimension's Gaussian to the prior's own moments, averaged over examples.

    mean, scale: (N, D) moments of q(.|x); prior: (S, D) draws in the same space -> (D,) nats.
    Under N(0, I) that is the dimension's part of the KL.
    """
    center, spread = prior.mean(axis=0), prior.std(axis=0)
    ratio = (scale / spread) ** 2
    terms = 0.5 * (((mean - center) / spread) ** 2 + ratio - 1 - np.log(ratio))
    return terms.mean(axis=0, dtype=np.float64)


def to_base(model: VAE, variables: Mapping[str, Any], z: np.ndarray) -> np.ndarray:
    """Representation -> generation space.  (..., D) -> (..., D)."""
    return _mapped(model, variables, z, programs.to_base)


def from_base(model: VAE, variables: Mapping[str, Any], z0: np.ndarray) -> np.ndarray:
    """Generation -> representation space.  (..., D) -> (..., D)."""
    return _mapped(model, variables, z0, programs.from_base)


def decoded(model: VAE, variables: Mapping[str, Any], z: np.ndarray) -> np.ndarray:
    """The mean of p(x|z).  z: (..., D) -> (..., *X)."""
    flat = z.reshape(-1, z.shape[-1])
    shape = jax.eval_shape(nn.apply(VAE.decode, model), variables, flat[:1]).shape[1:]
    most = num_at_once(model, variables, shape, ("decoder",))
    decode = program(VAE.decode, model)
    x = over_split(lambda block, _: decode(variables, block), flat, most)
    return np.asarray(x).reshape(*z.shape[:-1], *shape)


def _walk(model: VAE, variables: Mapping[str, Any], points: np.ndarray, space: str) -> Walk:
    other = (from_base if space == "generation" else to_base)(model, variables, points)
    z, z0 = (other, points) if space == "generation" else (points, other)
    return Walk(z, z0, decoded(model, variables, z))


def _mapped(
    model: VAE, variables: Mapping[str, Any], points: np.ndarray, of: Callable[[VAE, Any], Any]
) -> np.ndarray:
    flat = points.reshape(-1, points.shape[-1])
    return np.asarray(program(of, model)(variables, flat)).reshape(points.shape)


def _codes(codes: np.ndarray, axes: int) -> np.ndarray:
    codes = np.asarray(codes, np.float32)
    if codes.ndim != axes:
        raise ValueError(f"codes have shape {codes.shape}; {axes} axes, the last of dimensions")
    return codes
