"""The approximate ELBO: p(x) from one code, by the curvature of the decoder around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.data.arrays import Rows
from vaejax.data.transforms import Transform
from vaejax.evaluation.comparison import some
from vaejax.evaluation.rows import Row, mean_row
from vaejax.evaluation.subject import Subject
from vaejax.models.likelihoods import event_log_prob
from vaejax.models.vae import VAE
from vaejax.probability import distrax
from vaejax.training.state import observed
from vaejax.training.validation import num_at_once, over_split
from vaejax.types import Array

MOST = 64  # latent dimensions: as many derivatives of the decoder are taken for each example


class Expansion(NamedTuple):
    """log p(x, z) around the code of x, to second order."""

    log_joint: Any  # (N,) nats, at the code
    prior: Any  # (N, D, D) Hessian of -log p(z)
    likelihood: Any  # (N, D, D) J' W J, with W the curvature of -log p(x|.) in what J is of


def approximate_elbo(subject: Subject) -> dict[str, Row]:
    """The ELBO to second order, of the examples of the importance-weighted bound.

    Raises ValueError as `expansion` does.
    """
    protocol = subject.protocol
    rows: Any = subject.dataset.splits[protocol.split]
    chosen = some(len(rows), protocol.importance_examples)
    found = expansion(
        subject.model, subject.variables, rows[chosen], indices=chosen, transform=subject.transform
    )
    values, is_clipped = second_order_elbo(found)
    which = "all" if len(chosen) == len(rows) else "the same always"
    where = f"{protocol.split} split, {len(chosen)} of {len(rows)} examples ({which})"
    how = "an approximation, no bound: log p(x, z) to second order around the mean of q(z|x), "
    how += "without second derivatives of the decoder, under the best Gaussian there"
    clipped = "directions in which -log p(z) curves down count as flat"
    return {
        "approximate_elbo": mean_row(values, f"{how}; {clipped}; {where}"),
        "approximate_elbo_flattened": mean_row(
            is_clipped,
            f"codes with a direction in which -log p(z) curves down; {where}",
            "of codes",
        ),
    }


def no_expansion(subject: Subject) -> str:
    """What the model lacks for `approximate_elbo`; "" where nothing."""
    try:
        _checked(subject.model, subject.variables, subject.dataset.x_shape)
    except ValueError as error:
        return str(error)
    return ""


def second_order_elbo(found: Expansion) -> tuple[np.ndarray, np.ndarray]:
    """log p(x, mu) + D/2 log 2 pi - 1/2 log det(P + J'WJ), in float64 (arXiv 2002.00041).

    It is the ELBO of q(z|x) = N(mu, (P + J'WJ)^-1), the best Gaussian around mu, for the expansion.
    P is the prior's Hessian with negative eigenvalues set to 0, or q would have no variance there.
    -> (N,) nats, infinite where a direction is flat in both; and where any was negative, (N,) bool.
    """
    hessians = np.asarray(found.prior, np.float64)
    values, vectors = np.linalg.eigh((hessians + np.swapaxes(hessians, 1, 2)) / 2)
    prior = (vectors * np.maximum(values, 0)[:, None]) @ np.swapaxes(vectors, 1, 2)
    precision = prior + np.asarray(found.likelihood, np.float64)
    _, log_det = np.linalg.slogdet(precision)
    constant = 0.5 * values.shape[1] * np.log(2 * np.pi)
    return found.log_joint.astype(np.float64) + constant - 0.5 * log_det, values.min(axis=1) < 0


def expansion(
    model: VAE,
    variables: Mapping[str, Any],
    rows: Rows,
    *,
    transform: Transform,
    indices: np.ndarray | None = None,
    batch_size: int | None = None,
) -> Expansion:
    """At the mean of q(z|x), with the prior and the likelihood that the model has.

    rows: (N, *X) raw -> Expansion.  indices: (N,) of the rows in their data set, else 0 to N - 1.
    Raises ValueError for more than `MOST` latent dimensions, and for a likelihood whose noise is
    neither Gaussian nor Bernoulli.
    """
    numbers = np.arange(len(rows)) if indices is None else indices

    @jax.jit
    def expanded(variables: Any, rows: Array, indices: Array) -> Expansion:
        x = observed(transform, rows, indices)
        z = nn.apply(VAE.embed, model)(variables, x)
        return _around(model, variables, x, z)

    dim = _checked(model, variables, rows.shape[1:])
    most = batch_size or max(1, num_at_once(model, variables, rows.shape[1:], ("decoder",)) // dim)
    return over_split(lambda rows, at: expanded(variables, rows, numbers[at]), rows, most)


def _checked(model: VAE, variables: Mapping[str, Any], x_shape: tuple[int, ...]) -> int:
    """Latent dimensions of a model that can be expanded.  Raises ValueError."""

    def code_and_noise(vae: VAE, x: Array) -> Any:
        z = vae.embed(x)
        return z, _curved(vae.likelihood(vae.output(z)))

    x = jax.ShapeDtypeStruct((1, *x_shape), jnp.float32)
    z, _ = jax.eval_shape(nn.apply(code_and_noise, model), variables, x)
    if (dim := z.shape[-1]) > MOST:
        raise ValueError(
            f"the model has {dim} latent dimensions; at most {MOST} for approximate_elbo"
        )
    return dim


def _around(model: VAE, variables: Mapping[str, Any], x: Array, z: Array) -> Expansion:
    """x: (B, *X), z: (B, D)."""

    def decoded(z: Array) -> Any:
        return nn.apply(lambda vae, z: vae.likelihood(vae.output(z)), model)(variables, z)

    def log_prior(z: Array) -> Array:
        return nn.apply(lambda vae, z: vae.prior.log_prob(z), model)(variables, z)

    distribution = decoded(z)
    root = jnp.sqrt(_curved(distribution)[1])
    _, pushed = jax.linearize(lambda z: _curved(decoded(z))[0], z)
    directions = jnp.broadcast_to(jnp.eye(z.shape[1])[:, None], (z.shape[1], *z.shape))
    columns = (root * jax.vmap(pushed)(directions)).reshape(*directions.shape[:2], -1)
    squares = jnp.einsum("dbx,ebx->bde", columns, columns, precision=jax.lax.Precision.HIGHEST)
    hessian = jax.vmap(jax.hessian(lambda one: -log_prior(one[None])[0]))(z)
    return Expansion(event_log_prob(distribution, x) + log_prior(z), hessian, squares)


def _curved(distribution: Any) -> tuple[Array, Array]:
    """In what -log p(x|.) is convex, and its curvature there, which x does not change.

    -> (B, *X) each.  A Gaussian's scale counts as independent of z.  Raises ValueError for noise
    of another kind.
    """
    noise = getattr(distribution, "distribution", distribution)
    if isinstance(noise, distrax.Normal):
        return noise.loc, noise.scale**-2.0
    if isinstance(noise, distrax.Bernoulli):
        return noise.logits, noise.probs * (1 - noise.probs)
    given = f"the noise of p(x|z) is {type(noise).__name__}"
    raise ValueError(f"{given}; approximate_elbo takes Gaussian (Normal) and Bernoulli")
