"""The authors' settings, for comparison: weights, reductions and deviations of their code.

They differ between a method and its decoupled version; none of them is a default here.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vaejax.config.lookup import unknown
from vaejax.config.raeify import raeify

_COMMON = {
    "reduction": "published_sum",
    "num_steps": 100_000,
    "optimizer": "adam",
    "schedule": "constant",
    "encoders.mlp.leaky_slope": 1.0,
    "decoders.mlp.leaky_slope": 1.0,
    "encoders.celeba.leaky_slope": 1.0,
    "decoders.celeba.leaky_slope": 1.0,
    "priors.decoupled.kl_constant": False,
    "regularizers.beta_tc.estimator": "mss_published",
    "regularizers.beta_tc.log_det": False,
    "regularizers.info.bandwidth": "published",
}


def _row(mse_weight: float, batch_size: int, learning_rate: float, **more: Any) -> dict[str, Any]:
    return {
        "likelihoods.gaussian.mse_weight": mse_weight,
        "batch_size": batch_size,
        "schedules.constant.learning_rate": learning_rate,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


_B = {"gamma": 15.0, "capacity": 25.0, "capacity_steps": 100_000}
_BETA_B = {f"regularizers__beta_b__{key}": value for key, value in _B.items()}
_F = {"gamma": 1000.0, "critic_width": 1_000, "critic_depth": 5, "critic_learning_rate": 1e-4}
_FACTOR = {f"regularizers__factor__{key}": value for key, value in _F.items()}
_INFO = {"regularizers__info__alpha": 0.0, "regularizers__info__lambda_": 1000.0}

# (regularizer, prior) -> what the authors' JSON files for MNIST say.
_PUBLISHED = {
    ("none", "standard_normal"): _row(1.0, 100, 1e-4),
    ("none", "decoupled"): _row(1.0, 100, 1e-4),
    ("beta_h", "standard_normal"): _row(1.0, 24, 1e-4, regularizers__beta_h__beta=5.0),
    ("beta_h", "decoupled"): _row(10.0, 100, 1e-3, regularizers__beta_h__beta=5.0),
    ("beta_b", "standard_normal"): _row(100.0, 24, 1e-3, **_BETA_B),
    ("beta_b", "decoupled"): _row(100.0, 24, 1e-3, **_BETA_B),
    ("beta_tc", "standard_normal"): _row(10.0, 100, 1e-4, regularizers__beta_tc__gamma=15.0),
    ("beta_tc", "decoupled"): _row(
        1.0, 100, 1e-4, regularizers__beta_tc__gamma=150.0, num_steps=200_000
    ),
    ("factor", "standard_normal"): _row(1.0, 24, 1e-4, **_FACTOR),
    ("factor", "decoupled"): _row(1.0, 24, 1e-4, **_FACTOR),
    ("info", "standard_normal"): _row(10.0, 24, 1e-4, **_INFO),
    ("info", "decoupled"): _row(10.0, 24, 1e-3, **_INFO),
}
_IMAGES = ("mnist", "svhn_cropped", "celeb_a")  # which the authors' code augments
PRESETS = {"published": _PUBLISHED}


def with_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """`config` with the preset "published/REGULARIZER/PRIOR" or "raeify/REGULARIZER" applied.

    "raeify" alone takes RAE-L2; "" changes nothing.  Raises ValueError for an unknown preset.
    """
    if not preset:
        return config
    name, _, pair = preset.partition("/")
    if name == "raeify":
        return raeify(config, pair or "rae_l2")
    if name not in PRESETS:
        raise unknown("preset", name, (*PRESETS, "raeify"))
    rows = {"/".join(key): row for key, row in PRESETS[name].items()}
    if pair not in rows:
        raise unknown(f"preset {name}/", pair, rows)
    config.regularizer, config.prior = pair.split("/")
    config.update_from_flattened_dict({**_COMMON, **rows[pair]})
    if config.dataset in _IMAGES:
        config.augmentation = "published"
    if config.dataset == "mnist" and config.regularizer == "factor":
        config.encoder = config.decoder = "mnist_factor"  # the authors' larger network
    return config
