"""Recipes of regularized autoencoders: the encoder's noise replaced by penalties.

With posterior "deterministic" and prior "standard_normal" the KL is ||z||^2 / 2 plus a constant;
beta weighs it.  Weights are per example and beside w times the squared error, w of the Gaussian
likelihood.  Samples come from a density that is fitted to the codes afterwards.
"""

from __future__ import annotations

import functools

from vaejax.config import fails, unknown
from vaejax.objectives.costs import kl, mmd_to_prior
from vaejax.objectives.divergences import KERNELS
from vaejax.objectives.penalties import (
    GRADIENT_PENALTIES,
    JACOBIAN_ESTIMATORS,
    code_l1,
    contractive,
    decoder_l2,
    gradient_penalty,
)
from vaejax.objectives.setting import Setting, check_rate
from vaejax.types import Cost, Objective


def _regularized(
    setting: Setting, beta: float, *costs: Cost, spectral_norm: tuple[str, ...] = ()
) -> Objective:
    player = setting.generative(kl(setting.elbo_weight * beta), *costs)
    check = functools.partial(check_rate, beta=beta)
    return Objective({"vae": player}, check=check, spectral_norm=spectral_norm)


def rae(setting: Setting, *, beta: float) -> Objective:
    """RAE: reconstruction + beta ||z||^2 / 2; with beta 0, an autoencoder (arXiv 1903.12436)."""
    return _regularized(setting, beta)


def rae_l2(setting: Setting, *, beta: float, weight: float) -> Objective:
    """RAE-L2: RAE + weight ||theta_D||^2 (arXiv 1903.12436, eq. 12)."""
    return _regularized(setting, beta, decoder_l2(weight))


def rae_gp(
    setting: Setting, *, beta: float, weight: float, variant: str, estimator: str, probes: int
) -> Objective:
    """RAE-GP: RAE + weight times a gradient penalty of the decoder (arXiv 1903.12436, eq. 11)."""
    if variant not in GRADIENT_PENALTIES:
        raise unknown("regularizers.rae_gp.variant", variant, GRADIENT_PENALTIES)
    _check_estimator("rae_gp", estimator)
    penalty = gradient_penalty(weight, variant, estimator, probes, setting.axis_name)
    return _regularized(setting, beta, penalty)


def rae_sn(setting: Setting, *, beta: float, encoder: bool) -> Objective:
    """RAE-SN: RAE with kernels of spectral norm 1 (arXiv 1903.12436, sec. 3.1).

    A kernel (k, k, C, F) counts as a (k k C, F) matrix, whose norm is not that of the convolution;
    batch norm after it scales freely, so there is no Lipschitz bound with it.  `encoder`: also
    those of the encoder, as in the authors' configs.
    """
    return _regularized(setting, beta, spectral_norm=("encoder", "decoder")[not encoder :])


def sparse(setting: Setting, *, beta: float, weight: float, decoder_l2_weight: float) -> Objective:
    """Sparse autoencoder: RAE-L2 + weight sum_d |z_d|."""
    _check_scale("sparse", decoder_l2_weight)
    return _regularized(setting, beta, code_l1(weight), decoder_l2(decoder_l2_weight))


def contractive_autoencoder(
    setting: Setting,
    *,
    beta: float,
    weight: float,
    estimator: str,
    probes: int,
    decoder_l2_weight: float,
) -> Objective:
    """Contractive autoencoder: RAE-L2 + weight ||J_f(x)||_F^2 (Rifai et al., 2011)."""
    _check_estimator("contractive", estimator)
    _check_scale("contractive", decoder_l2_weight)
    penalty = contractive(weight, estimator, probes, setting.axis_name)
    return _regularized(setting, beta, penalty, decoder_l2(decoder_l2_weight))


def wae(setting: Setting, *, weight: float, kernel: str, unbiased: bool) -> Objective:
    """WAE-MMD: reconstruction + weight MMD^2(q(z), p(z)) (arXiv 1711.01558, Algorithm 2)."""
    if kernel not in KERNELS:
        raise unknown("regularizers.wae.kernel", kernel, KERNELS)
    if unbiased and setting.batch_size < 2:
        raise ValueError("regularizers.wae.unbiased needs a batch_size of 2 or more")
    cost = mmd_to_prior(weight, kernel, unbiased, setting.axis_name)
    return Objective({"vae": setting.generative(cost)})


def _check_estimator(name: str, estimator: str) -> None:
    if estimator not in JACOBIAN_ESTIMATORS:
        raise unknown(f"regularizers.{name}.estimator", estimator, JACOBIAN_ESTIMATORS)


def _check_scale(name: str, decoder_l2_weight: float) -> None:
    if fails(decoder_l2_weight == 0):
        raise ValueError(
            f"regularizers.{name}.decoder_l2_weight is 0; it must be positive, or smaller codes "
            "and a larger decoder lower the penalty and change nothing else"
        )
