"""Cost functions: `(model, terms, key, step) -> {name: scalar}`, weighted, one batch mean each.

No cost knows which prior, posterior or likelihood is in use.  Costs that couple the examples of a
batch take the name of the mapped device axis, as Flax's batch norm does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.config import unknown
from vaejax.objectives.divergences import (
    ESTIMATORS,
    KERNELS,
    Kernel,
    log_aggregate_posterior_at,
    squared_mmd,
)
from vaejax.parallel import averaged, gathered, local_rows, positions
from vaejax.types import Array, Cost, Metrics, Terms


def reconstruction(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
    """E -log p(x|z), all constants included.

    >>> loss = vaejax.loss_of(vaejax.reconstruction)  # of an autoencoder, with noise on its codes
    """
    return {"reconstruction": terms.reconstruction.mean()}


def weighted(cost: Cost, weight: float) -> Cost:
    """`cost` times `weight`."""

    def scaled(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        parts = cost(model, terms, key, step)
        return {name: weight * value for name, value in parts.items()}

    return scaled


def kl(weight: float = 1.0) -> Cost:
    """weight E KL(q(z|x) || p(z)); weight is beta of beta-VAE-H (Higgins et al. 2017).

    >>> beta_vae = vaejax.loss_of(vaejax.reconstruction, vaejax.kl(4.0))
    """

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        return {"kl": weight * terms.kl.mean()}

    return cost


def annealed_kl(beta: float, start: float, steps: int, shape: str = "linear") -> Cost:
    """beta(t) E KL, where beta(t) goes from `start` to `beta` in `steps` (arXiv 1511.06349)."""

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        reached = WARM_UPS[shape](jnp.minimum(1.0, step / steps))
        return {"kl": (start + (beta - start) * reached) * terms.kl.mean()}

    return cost


def free_bits_kl(beta: float, nats: float, axis_name: str | None = None) -> Cost:
    """beta sum_k max(E KL_k, nats) over the dimensions k that the prior's density factors into.

    The expectation is of the global batch (arXiv 1606.04934, eq. 15); a prior that does not
    factorize is one block, whose KL is free up to `nats`.
    """

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        blocks = averaged(model.prior.kl_blocks(terms.code, terms.log_p).mean(axis=0), axis_name)
        return {"kl": beta * jnp.maximum(blocks, nats).sum()}

    return cost


def kl_capacity(
    gamma: float,
    capacity: float,
    capacity_steps: int,
    kl_weight: float = 1.0,
    axis_name: str | None = None,
) -> Cost:
    """gamma |kl_weight E KL - C(t)|, C growing linearly to `capacity` nats (arXiv 1804.03599).

    The absolute value is of the global batch mean.
    """

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        target = capacity * jnp.minimum(1.0, step / capacity_steps)
        mean = averaged(terms.kl.mean(), axis_name)
        return {"kl_capacity": gamma * jnp.abs(kl_weight * mean - target)}

    return cost


def decomposed_kl(
    alpha: float,
    beta: float,
    gamma: float,
    num_examples: int,
    estimator: str = "mss",
    log_det: bool = True,
    axis_name: str | None = None,
) -> Cost:
    """alpha MI + beta TC + gamma DW, estimated from the batch (arXiv 1802.04942, eq. 4).

    With alpha = beta = gamma = 1 and any estimator the sum is log q(z|x) - log p(z).  `log_det`
    False evaluates the prior's base density at g(z) instead of log p(z), as the authors' code does.
    Needs a posterior whose density factorizes over dimensions.
    """

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        z, log_q, prior = terms.code.z, terms.code.log_q, model.prior
        factors = gathered(terms.code.q, axis_name).distribution
        rows = positions(len(z), axis_name)

        def log_weights(rows: Array) -> Array:
            return ESTIMATORS[estimator](rows, factors.batch_shape[0], num_examples)

        joint, marginals = log_aggregate_posterior_at(z, rows, factors.log_prob, log_weights)
        product = marginals.sum(axis=-1)
        log_p = terms.log_p if log_det else prior.base_log_prob(prior.to_base(z))
        return {
            "mutual_information": alpha * (log_q - joint).mean(),
            "total_correlation": beta * (joint - product).mean(),
            "dimension_kl": gamma * (product - log_p).mean(),
        }

    return cost


def critic_total_correlation(weight: float) -> Cost:
    """weight TC by the critic's density ratio, logit 0 minus logit 1 (arXiv 1802.05983, eq. 3)."""

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        logits = model.critic(terms.code.z)
        return {"total_correlation": weight * (logits[:, 0] - logits[:, 1]).mean()}

    return cost


def mmd_to_prior(
    weight: float,
    kernel: str | Callable[[Array, Array], Kernel] = "imq",
    unbiased: bool = False,
    axis_name: str | None = None,
) -> Cost:
    """weight MMD^2(q(z), p(z)) between the global batch of codes and as many prior samples.

    kernel: a name in `vaejax.objectives.divergences.KERNELS` ("imq", "gaussian",
    "gaussian_median"), or a function of the two sets of draws.  unbiased: without the diagonals.
    axis_name: of the mapped device axis, if there is one.  In representation space: a flow prior's
    samples carry gradients to the flow (arXiv 1706.02262).  Raises ValueError for another kernel.

    >>> loss = vaejax.loss_of(vaejax.reconstruction, vaejax.kl(), vaejax.mmd_to_prior(10.0))
    """
    if isinstance(kernel, str) and kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    of_draws = KERNELS[kernel] if isinstance(kernel, str) else kernel
    if not callable(of_draws):
        raise ValueError(f"kernel is {kernel!r}; a name, or a function of the two sets of draws")

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        z = gathered(terms.code.z, axis_name)
        u = model.prior.sample(key, len(z))
        own = functools.partial(local_rows, num_rows=len(terms.code.z), axis_name=axis_name)
        return {"mmd": weight * squared_mmd(u, z, of_draws(u, z), unbiased, own=own)}

    return cost


def _sigmoid(fraction: Array) -> Array:
    """A logistic curve through (0, 0) and (1, 1)."""
    low, high = jax.nn.sigmoid(-6.0), jax.nn.sigmoid(6.0)
    return (jax.nn.sigmoid(12 * fraction - 6) - low) / (high - low)


WARM_UPS = {"linear": lambda fraction: fraction, "sigmoid": _sigmoid}
