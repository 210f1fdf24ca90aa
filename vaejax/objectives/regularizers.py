"""Recipes: which costs a method sums, and which players it needs.

Every recipe takes a `Setting` and the hyper-parameters of its config row, and works with any prior.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import optax
from ml_collections import ConfigDict

from vaejax.config import build, fails, unknown
from vaejax.models.networks import Critic
from vaejax.models.vae import VAE, make_model
from vaejax.objectives.adversaries import permutation_critic_loss
from vaejax.objectives.autoencoders import (
    contractive_autoencoder,
    rae,
    rae_gp,
    rae_l2,
    rae_sn,
    sparse,
    wae,
)
from vaejax.objectives.costs import (
    WARM_UPS,
    annealed_kl,
    critic_total_correlation,
    decomposed_kl,
    free_bits_kl,
    kl,
    kl_capacity,
    mmd_to_prior,
)
from vaejax.objectives.divergences import BANDWIDTHS, ESTIMATORS, Kernel, gaussian_kernel
from vaejax.objectives.optimizers import make_optimizer
from vaejax.objectives.setting import Setting, check_rate
from vaejax.types import Array, Objective, Player


def none(setting: Setting) -> Objective:
    """The VAE: reconstruction + KL (arXiv 1312.6114)."""
    return Objective({"vae": setting.generative(kl(setting.elbo_weight))}, check=check_rate)


def beta_h(setting: Setting, *, beta: float) -> Objective:
    """beta-VAE-H: reconstruction + beta KL (Higgins et al. 2017)."""
    check = functools.partial(check_rate, beta=beta)
    return Objective({"vae": setting.generative(kl(setting.elbo_weight * beta))}, check=check)


def annealed(setting: Setting, *, beta: float, start: float, steps: int, shape: str) -> Objective:
    """KL annealing: reconstruction + beta(t) KL, from `start` to `beta` (arXiv 1511.06349)."""
    if shape not in WARM_UPS:
        raise unknown("regularizers.annealed.shape", shape, WARM_UPS)
    scale = setting.elbo_weight
    cost = annealed_kl(scale * beta, scale * start, steps, shape)
    check = functools.partial(check_rate, beta=start if fails(beta == 0) else beta)
    return Objective({"vae": setting.generative(cost)}, check=check)


def free_bits(setting: Setting, *, beta: float, nats: float) -> Objective:
    """Free bits: reconstruction + beta sum_k max(E KL_k, nats) (arXiv 1606.04934, eq. 15)."""
    cost = free_bits_kl(setting.elbo_weight * beta, nats, setting.axis_name)
    check = functools.partial(check_rate, beta=beta)
    return Objective({"vae": setting.generative(cost)}, check=check)


def beta_b(setting: Setting, *, gamma: float, capacity: float, capacity_steps: int) -> Objective:
    """beta-VAE-B: reconstruction + gamma |KL - C(t)| (arXiv 1804.03599)."""
    if capacity_steps < 1:
        raise ValueError(f"regularizers.beta_b.capacity_steps is {capacity_steps}; at least 1")
    cost = kl_capacity(gamma, capacity, capacity_steps, setting.elbo_weight, setting.axis_name)
    return Objective({"vae": setting.generative(cost)}, check=check_rate)


def beta_tc(
    setting: Setting, *, alpha: float, beta: float, gamma: float, estimator: str, log_det: bool
) -> Objective:
    """beta-TCVAE: reconstruction + alpha MI + beta TC + gamma DW (arXiv 1802.04942)."""
    if estimator not in ESTIMATORS:
        raise unknown("regularizers.beta_tc.estimator", estimator, ESTIMATORS)
    if setting.batch_size < 3:
        raise ValueError(
            f"beta_tc estimates q(z) from the batch; batch_size {setting.batch_size} < 3"
        )

    def check(model: Any) -> None:
        if not model.posterior.has_density:
            raise ValueError(
                "regularizer 'beta_tc' needs log q(z|x), which this posterior does not have; "
                "take posterior 'diagonal_gaussian' or regularizer 'none'"
            )
        if gamma > beta and not model.prior.factorizes:
            # DW is then KL(q || p) - TC, so TC's total coefficient is beta - gamma.
            warnings.warn(
                f"beta_tc with gamma {gamma:g} > beta {beta:g} rewards correlated codes under a "
                "prior that does not factorize: total correlation has weight beta - gamma",
                stacklevel=2,
            )

    cost = decomposed_kl(
        alpha, beta, gamma, setting.num_examples, estimator, log_det, setting.axis_name
    )
    return Objective({"vae": setting.generative(cost)}, check=check)


def factor(
    setting: Setting,
    *,
    gamma: float,
    critic_width: int,
    critic_depth: int,
    critic_learning_rate: float,
    critic_b1: float,
    critic_b2: float,
) -> Objective:
    """FactorVAE: reconstruction + KL + gamma TC by a critic (arXiv 1802.05983)."""
    costs = kl(setting.elbo_weight), critic_total_correlation(gamma)
    critic_tx = optax.adam(critic_learning_rate, critic_b1, critic_b2)
    players = {
        "vae": setting.generative(*costs),
        "critic": Player(("critic",), permutation_critic_loss(setting.axis_name), critic_tx),
    }
    return Objective(players, Critic(critic_width, critic_depth), check_rate)


def info(
    setting: Setting, *, alpha: float, lambda_: float, bandwidth: str, unbiased: bool
) -> Objective:
    """InfoVAE: reconstruction + (1 - alpha) KL + (alpha + lambda - 1) MMD^2 (arXiv 1706.02262)."""
    if bandwidth not in BANDWIDTHS:
        raise unknown("regularizers.info.bandwidth", bandwidth, BANDWIDTHS)
    if fails(alpha > 1) or fails(alpha + lambda_ < 1):
        raise ValueError(
            f"regularizers.info needs alpha <= 1 and alpha + lambda_ >= 1, or a cost becomes a "
            f"reward; alpha is {alpha:g}, lambda_ {lambda_:g}"
        )
    if unbiased and setting.batch_size < 2:
        raise ValueError("regularizers.info.unbiased needs a batch_size of 2 or more")

    def kernel(u: Array, z: Array) -> Kernel:
        return gaussian_kernel(BANDWIDTHS[bandwidth](u, z))

    mmd = mmd_to_prior(alpha + lambda_ - 1, kernel, unbiased, setting.axis_name)
    player = setting.generative(kl(setting.elbo_weight * (1 - alpha)), mmd)
    return Objective({"vae": player}, check=functools.partial(check_rate, beta=1 - alpha))


def make_method(
    config: ConfigDict,
    x_shape: tuple[int, ...],
    num_examples: int,
    axis_name: str | None = None,
    checked: bool = True,
) -> tuple[VAE, Objective]:
    """The model and the players that `config` names, for `num_examples` of event shape `x_shape`.

    With `axis_name`, for use under a mapped device axis.  Raises ValueError, and warns, where parts
    do not fit together, unless they were `checked` before.  Hyper-parameters may be traced.
    """
    elbo_weight = float(config.batch_size) if config.reduction == "published_sum" else 1.0
    tx = make_optimizer(config)
    setting = Setting(tx, num_examples, config.batch_size, elbo_weight, axis_name)
    objective = build(REGULARIZERS, "regularizer", config, setting)
    model = make_model(config, x_shape, objective.critic, axis_name, objective.spectral_norm)
    if checked:
        objective.check(model)
    return model, objective


REGULARIZERS = {
    "none": none,
    "beta_h": beta_h,
    "beta_b": beta_b,
    "beta_tc": beta_tc,
    "factor": factor,
    "info": info,
    "annealed": annealed,
    "free_bits": free_bits,
    "rae": rae,
    "rae_l2": rae_l2,
    "rae_gp": rae_gp,
    "rae_sn": rae_sn,
    "sparse": sparse,
    "contractive": contractive_autoencoder,
    "wae": wae,
}
