"""Recipes: which costs a method sums, and which players it needs.

Every recipe takes a `Setting` and the hyper-parameters of its config row, and works with any prior.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

from vaejax.config import build, fails, unknown
from vaejax.models.networks import Critic
from vaejax.models.vae import VAE, make_model
from vaejax.objectives.adversaries import permutation_critic_loss
from vaejax.objectives.costs import (
    critic_total_correlation,
    decomposed_kl,
    kl,
    kl_capacity,
    mmd_to_prior,
    reconstruction,
    weighted,
)
from vaejax.objectives.divergences import BANDWIDTHS, ESTIMATORS
from vaejax.objectives.objective import loss_of
from vaejax.objectives.optimizers import make_optimizer
from vaejax.types import GENERATIVE, Cost, Objective, Player


class Setting(NamedTuple):
    """What a recipe may know of the run."""

    tx: optax.GradientTransformation
    num_examples: int
    batch_size: int  # global
    elbo_weight: float = 1.0  # batch_size for "published_sum": reconstruction and KL batch-summed
    axis_name: str | None = None

    def generative(self, *costs: Cost) -> Player:
        """The player that owns the autoencoder: weighted reconstruction plus `costs`."""
        loss = loss_of(weighted(reconstruction, self.elbo_weight), *costs)
        return Player(GENERATIVE, loss, self.tx)


def none(setting: Setting) -> Objective:
    """The VAE: reconstruction + KL (arXiv 1312.6114)."""
    return Objective({"vae": setting.generative(kl(setting.elbo_weight))})


def beta_h(setting: Setting, *, beta: float) -> Objective:
    """beta-VAE-H: reconstruction + beta KL (Higgins et al. 2017)."""
    return Objective({"vae": setting.generative(kl(setting.elbo_weight * beta))})


def beta_b(setting: Setting, *, gamma: float, capacity: float, capacity_steps: int) -> Objective:
    """beta-VAE-B: reconstruction + gamma |KL - C(t)| (arXiv 1804.03599)."""
    if capacity_steps < 1:
        raise ValueError(f"regularizers.beta_b.capacity_steps is {capacity_steps}; at least 1")
    cost = kl_capacity(gamma, capacity, capacity_steps, setting.elbo_weight, setting.axis_name)
    return Objective({"vae": setting.generative(cost)})


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
    return Objective(players, Critic(critic_width, critic_depth))


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
    mmd = mmd_to_prior(alpha + lambda_ - 1, bandwidth, unbiased, setting.axis_name)
    return Objective({"vae": setting.generative(kl(setting.elbo_weight * (1 - alpha)), mmd)})


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
    model = make_model(config, x_shape, objective.critic, axis_name)
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
}
