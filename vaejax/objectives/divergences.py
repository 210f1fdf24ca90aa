"""Estimators on arrays: no model, no config, no device axis."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from vaejax.types import Array

_MOST_PAIRS = 2**24  # pairs of codes times dimensions that are held at once
# Squared distances -> values of a kernel.
Kernel = Callable[[Array], Array]


def weighted_log_weights(rows: Array, batch_size: int, num_examples: int) -> Array:
    """Minibatch weighted sampling: every log-weight is -log(B N).

    rows: (b,) positions in the batch -> (b, B).  The constant cancels in no single term of the
    decomposition but has no gradient (arXiv 1802.04942, appendix C.1).
    """
    constant = -jnp.log(float(batch_size)) - jnp.log(float(num_examples))
    return jnp.full((len(rows), batch_size), constant)


def stratified_log_weights(rows: Array, batch_size: int, num_examples: int) -> Array:
    """Minibatch stratified sampling; every row of weights sums to 1.

    rows: (b,) positions in the batch -> (b, B).  With M = B - 1: 1/N for the example itself,
    (N - M) / (N M) for its right neighbor, 1/M for the others (arXiv 1802.04942, appendix C.2).
    """
    if batch_size < 3:
        raise ValueError(f"stratified weights need 3 examples or more, not {batch_size}")
    others = batch_size - 1
    columns = jnp.arange(batch_size)[None]
    own = columns == rows[:, None]
    neighbor = columns == (rows[:, None] + 1) % batch_size
    stratum = (num_examples - others) / (num_examples * others)
    weights = jnp.where(own, 1 / num_examples, jnp.where(neighbor, stratum, 1 / others))
    return jnp.log(weights)


def published_log_weights(rows: Array, batch_size: int, num_examples: int) -> Array:
    """The mis-strided matrix of the public implementations, for comparison only.

    rows: (b,) -> (b, B).  Column 0 gets 1/N, column 1 the stratum, whatever the row.
    """
    others = batch_size - 1
    columns = jnp.arange(batch_size)[None]
    stratum = (num_examples - others) / (num_examples * others)
    swapped = (columns == 0) & (rows[:, None] == batch_size - 2)
    weights = jnp.where(columns == 0, 1 / num_examples, 1 / others)
    weights = jnp.where((columns == 1) | swapped, stratum, weights)
    return jnp.log(jnp.broadcast_to(weights, (len(rows), batch_size)))


def log_aggregate_posterior(log_q: Array, log_weights: Array) -> tuple[Array, Array]:
    """Estimates of log q(z_i) and log q(z_i,d) from the densities of one batch.

    log_q: (b, B, D), entry ijd = log q(z_i,d | x_j); log_weights: (b, B) -> (b,), (b, D) nats.
    """
    joint = logsumexp(log_weights + log_q.sum(axis=-1), axis=1)
    marginals = logsumexp(log_weights[..., None] + log_q, axis=1)
    return joint, marginals


def log_aggregate_posterior_at(
    z: Array,
    rows: Array,
    log_prob: Callable[[Array], Array],
    log_weights: Callable[[Array], Array],
    most: int = _MOST_PAIRS,
) -> tuple[Array, Array]:
    """`log_aggregate_posterior` at the codes z, with no more than `most` entries of log_q at once.

    z: (b, D), rows: (b,) their positions in the batch; log_prob: (n, 1, D) -> (n, B, D), of all
    x_j; log_weights: (n,) positions -> (n, B).  -> (b,), (b, D) nats.  What is beyond is computed
    in turn, and again for the gradient, so that memory grows with B and not with its square.
    """

    def at(z: Array, rows: Array) -> tuple[Array, Array]:
        return log_aggregate_posterior(log_prob(z[:, None]), log_weights(rows))

    entries = jax.eval_shape(log_prob, z[:1, None]).size  # of a row
    if len(z) * entries <= most:
        return at(z, rows)

    def at_one(z_and_row: tuple[Array, Array]) -> tuple[Array, Array]:
        joint, marginals = at(*(each[None] for each in z_and_row))
        return joint[0], marginals[0]

    size = max(1, most // entries)
    return jax.lax.map(jax.checkpoint(at_one), (z, rows), batch_size=size)


def gaussian_kernel(bandwidth: Array | float) -> Kernel:
    """k(a, b) = exp(-||a - b||^2 / bandwidth)."""
    return lambda squared: jnp.exp(-squared / bandwidth)


def inverse_multiquadratic(scale: float) -> Kernel:
    """k(a, b) = sum_s s c / (s c + ||a - b||^2), c = `scale` (arXiv 1711.01558, sec. 4).

    The sum over s = 0.1, 0.2, 0.5, 1, 2, 5, 10 is that of its authors' code.
    """
    widths = [scale * factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]
    return lambda squared: sum((c / (c + squared) for c in widths), jnp.zeros(()))


def squared_mmd(
    u: Array,
    z: Array,
    kernel: Kernel,
    unbiased: bool = False,
    most: int = _MOST_PAIRS,
    own: Callable[[Array], Array] = lambda rows: rows,
) -> Array:
    """Squared maximum mean discrepancy of two sets of draws.

    u: (M, D), z: (N, D) -> ().  The V-statistic, which is >= 0 and biased upward; `unbiased` drops
    the diagonals and may be negative (arXiv 0805.2368, eqs. 3 and 5).  Beyond `most` coordinates
    of pairs, they are taken in turn, and again for the gradient.  `own`: the rows of (M, D) or
    (N, D) whose pairs with all others a device takes; the mean over devices is that of all.
    """

    def mean(a: Array, b: Array) -> Array:
        return _kernel_sum(kernel, own(a), b, most) / float(len(own(a)) * len(b))

    def within(a: Array) -> Array:
        if unbiased:
            diagonal = len(own(a)) * kernel(jnp.zeros(()))
            pairs = float(len(own(a)) * (len(a) - 1))
            return (_kernel_sum(kernel, own(a), a, most) - diagonal) / pairs
        return mean(a, a)

    return within(u) + within(z) - 2 * mean(u, z)


def _kernel_sum(kernel: Kernel, a: Array, b: Array, most: int) -> Array:
    if len(a) * b.size <= most:
        return kernel(squared_distances(a, b)).sum()

    def of_one(row: Array) -> Array:
        return kernel(squared_distances(row[None], b)).sum()

    return jax.lax.map(jax.checkpoint(of_one), a, batch_size=max(1, most // b.size)).sum()


def squared_distances(a: Array, b: Array) -> Array:
    """||a_i - b_j||^2, as a sum of squares: no cancellation.  (M, D), (N, D) -> (M, N)."""
    return jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)


def permuted_dims(key: Array, z: Array) -> Array:
    """Each dimension shuffled over the batch by its own permutation: a draw of prod q(z_d).

    z: (B, D) -> (B, D) (arXiv 1802.05983, Alg. 1).
    """
    keys = jax.random.split(key, z.shape[1])
    return jax.vmap(jax.random.permutation, in_axes=(0, 1), out_axes=1)(keys, z)


ESTIMATORS = {
    "mws": weighted_log_weights,
    "mss": stratified_log_weights,
    "mss_published": published_log_weights,
}
BANDWIDTHS = {
    # h = D^2: the published script, weak for large D.
    "published": lambda u, z: float(u.shape[1] ** 2),
    # h = 2 D: the expected squared distance of two standard normal draws.
    "scaled": lambda u, z: 2.0 * u.shape[1],
    "median": lambda u, z: jax.lax.stop_gradient(jnp.median(squared_distances(u, z))),
}
# Draws (M, D) of p and (N, D) of q -> the kernel that compares them.
KERNELS = {
    "imq": lambda u, z: inverse_multiquadratic(2.0 * u.shape[1]),
    "gaussian": lambda u, z: gaussian_kernel(BANDWIDTHS["scaled"](u, z)),
    "gaussian_median": lambda u, z: gaussian_kernel(BANDWIDTHS["median"](u, z)),
}
