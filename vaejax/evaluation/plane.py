"""A two-dimensional latent space as a plane: densities and decoded data on grids, arrays only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaejax.evaluation.landscapes import log_densities
from vaejax.evaluation.latent import density_grid
from vaejax.evaluation.pockets import HIGH_FRACTION, lowest
from vaejax.evaluation.subject import Subject
from vaejax.evaluation.traversals import decoded, from_base

_SIDE = 128  # cells of a grid: 33, 17 and 9 nodes lie on its points


class Plane(NamedTuple):
    """One latent space on a square grid, rows along y: entry [i, j] is at (x[j], y[i]).

    Densities are of this space, in nats: those of generation space hold the volume of the flow, so
    that log p - log q is the same number at the same place of either space.
    """

    x: np.ndarray  # (G,) increasing
    y: np.ndarray  # (G,) increasing
    log_p: np.ndarray  # (G, G) the prior
    log_q: np.ndarray  # (G, G) the aggregate posterior; not a number where the flow overflows
    decoded: np.ndarray  # (K, K, *X) mean of p(x|z) at every (G - 1) / (K - 1)-th point
    codes: np.ndarray  # (N, 2) draws of q(z|x) of held-out examples, in their order
    low: np.ndarray  # (n, 2) low-posterior samples: draws of the prior where q is lowest
    high: np.ndarray  # (m, 2) high-posterior samples: draws of q where the base density is lowest
    pocket_mass: float  # share of the draws of the prior where log p - log q > POCKET


POCKET = 3.0  # nats: the prior is 20 times as dense as the aggregate posterior


def planes(subject: Subject, *, nodes: int = 33, num_codes: int = 2_000) -> dict[str, Plane]:
    """The plane of representation space, "z", and that of generation space, "z0", if it is another.

    `nodes` (33, 17 or 9): decoded along each side.  The first `num_codes` of the held-out split are
    encoded.  Raises ValueError for a latent space that is not two-dimensional, for other `nodes`,
    and where `Subject.aggregate` does.
    """
    if nodes not in (9, 17, 33):
        raise ValueError(f"{nodes} decoded nodes along a side; 9, 17 or 33")
    if (dim := subject.aggregate.mean.shape[1]) != 2:
        raise ValueError(f"the latent space has {dim} dimensions; a plane has 2")
    codes = subject.held_out
    if np.allclose(codes.z, codes.z0):
        return {"z": _plane(subject, False, nodes, num_codes)}
    return {name: _plane(subject, name == "z0", nodes, num_codes) for name in ("z", "z0")}


def _plane(subject: Subject, base: bool, nodes: int, num_codes: int) -> Plane:
    space = "z0" if base else "z"
    codes = getattr(subject.held_out, space)
    given = subject.model, subject.variables
    x, y, log_p = density_grid(*given, codes, base=base, size=_SIDE + 1)
    points = np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)
    log_q = log_densities(subject, points.reshape(-1, 2), base=base)[0].reshape(log_p.shape)
    every = _SIDE // (nodes - 1)
    chosen = points[::every, ::every].reshape(-1, 2)
    x_of = decoded(*given, from_base(*given, chosen) if base else chosen)
    x_of = x_of.reshape(nodes, nodes, *subject.dataset.x_shape)
    p, q = subject.draws
    fraction = subject.counts.low_fraction
    low = getattr(p, space)[lowest(p.log_q, fraction)]
    high = getattr(q, space)[lowest(q.log_base, HIGH_FRACTION)]
    in_pockets = float(np.mean(p.log_p - p.log_q > POCKET))
    return Plane(x, y, log_p, log_q, x_of, codes[:num_codes], low, high, in_pockets)
