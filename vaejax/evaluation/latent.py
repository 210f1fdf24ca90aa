"""The latent space of a trained model: codes, both spaces, and the prior's density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax.data.arrays import Rows
from vaejax.data.transforms import Transform
from vaejax.models.programs import log_base, log_prior, prior_draws, program, to_base
from vaejax.models.vae import VAE
from vaejax.training.state import EVALUATE, stream_key
from vaejax.training.validation import make_over_examples


class Codes(NamedTuple):
    """One draw of q(z|x) per example, in both spaces, and q(z|x) itself where it is Gaussian."""

    z: Any  # (N, D) representation space
    z0: Any  # (N, D) generation space, g(z)
    mean: Any  # (N, D)
    scale: Any = None  # (N, D); None where q(z|x) has no closed form


def codes(
    model: VAE,
    variables: Mapping[str, Any],
    rows: Rows,
    *,
    transform: Transform,
    seed: int,
    batch_size: int | None = None,
) -> Codes:
    """Draws of the aggregate posterior, and its components.  rows: (N, *X) raw -> Codes.

    The draw of an example depends on its index alone, so `batch_size`, chosen for speed unless
    given, changes nothing but memory.
    """
    return make_codes(model, transform=transform, seed=seed, batch_size=batch_size)(variables, rows)


def make_codes(
    model: VAE, *, transform: Transform, seed: int, batch_size: int | None = None
) -> Callable[[Mapping[str, Any], Rows], Codes]:
    """`codes` for several splits or states: (variables, rows) -> Codes, compiled once."""

    def both_spaces(vae: VAE, x: Any, keys: Any) -> Codes:
        code = vae.encode(x, keys)
        scale = None if code.q is None else code.q.stddev()
        return Codes(code.z, vae.prior.to_base(code.z), code.mean, scale)

    key = stream_key(seed, EVALUATE)
    given: Any = {"transform": transform, "key": key, "batch_size": batch_size}
    return make_over_examples(both_spaces, model, parts=("encoder",), **given)


def density_grid(
    model: VAE,
    variables: Mapping[str, Any],
    points: np.ndarray,
    *,
    base: bool = False,
    size: int = 240,
    margin: float = 0.35,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prior's log-density around 2-D `points` (N, 2), and around its own mass.

    -> x (size,), y (size,), log_density (size, size) with rows along y, in nats.  `base` asks for
    the base density in generation space.
    """
    drawn = program(prior_draws(1_000), model)(variables, jax.random.key(0))
    drawn = program(to_base, model)(variables, drawn) if base else drawn
    # Quantiles of both, so that one far outlier does not shrink everything else to a dot.
    spread = [np.quantile(cloud, (0.002, 0.998), axis=0) for cloud in (points, np.asarray(drawn))]
    low, high = np.min(spread, axis=(0, 1)), np.max(spread, axis=(0, 1))
    # A square, whatever the shape of the cloud: panels of both spaces then stand side by side.
    center, reach = (low + high) / 2, (1 + margin) * max(np.max(high - low), 1e-3) / 2
    x, y = (np.linspace(center[d] - reach, center[d] + reach, size) for d in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    values = program(log_base if base else log_prior, model)(variables, grid)
    return x, y, np.asarray(values).reshape(size, size)
