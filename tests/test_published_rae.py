"""The published settings of regularized autoencoders are those losses times a constant."""

import math

import numpy as np
import pytest

from vaejax.config import CHOICES, default_config, load_config, validate, with_published_rae
from vaejax.config.published_rae import MODELS, PUBLISHED
from vaejax.objectives.regularizers import make_method

FILES = {"mnist": "rae_mnist", "cifar10": "rae_cifar10", "celeb_a": "rae_celeba"}
# Image that they train on, latent dimensions, and by model the weight of mean(z^2) or of the KL;
# then that of the squared kernels, of the mean squared gradient, and of the sum of MMDs.
THEIRS = {
    "mnist": (
        (32, 32, 1),
        16,
        {"rae_l2": 1e-4, "rae_gp": 1e-4, "rae_sn": 9e-3, "rae": 0.5e-3, "ae": 0.0}
        | {"vae": 0.312, "cv_vae": 0.0195 * 2},
        (1e-7, 0.5e-7, 3e-2),
    ),
    "cifar10": (
        (32, 32, 3),
        128,
        {"rae_l2": 1e-3, "rae_gp": 9e-4, "rae_sn": 0.03, "rae": 1e-2, "ae": 0.0}
        | {"vae": 0.024, "cv_vae": 9e-4},
        (1e-6, 1e-7, 0.006),
    ),
    "celeb_a": (
        (64, 64, 3),
        64,
        {"rae_l2": 1e-4, "rae_gp": 1e-4, "rae_sn": 2.4e-3, "rae": 1e-4, "ae": 0.0}
        | {"vae": 0.09024, "cv_vae": 0.01},
        (1e-7, 1e-7, 100.0),
    ),
}
# The same in units of a summed squared error, to two digits, as worked out by hand.
BETAS = {
    "mnist": {"rae_l2": 0.0128, "rae_sn": 1.15, "rae": 0.064, "vae": 0.312, "cv_vae": 0.039},
    "cifar10": {"rae_l2": 0.048, "rae_sn": 1.44, "rae": 0.48, "vae": 0.072, "cv_vae": 0.0027},
    "celeb_a": {"rae_l2": 0.0384, "rae_sn": 0.92, "rae": 0.0384, "vae": 0.271, "cv_vae": 0.03},
}
each = pytest.mark.parametrize("name", FILES)
each_model = pytest.mark.parametrize("model", MODELS)


def config_of(name, model):
    return load_config(f"configs/{FILES[name]}.py:{model}")


def ours(config, error, norm, kl, l2, gradient, mmd) -> float:
    """The loss of `config` from sums: of squares of an error, a code, kernels and a gradient."""
    row, name = config.regularizers[config.regularizer], config.regularizer
    loss = config.likelihoods.gaussian.mse_weight * error
    if name == "wae":
        return loss + row.weight * mmd
    if name == "beta_h":
        return loss + row.beta * kl
    loss += row.beta * norm / 2
    return loss + {"rae_l2": l2, "rae_gp": gradient}.get(name, 0.0) * row.get("weight", 0.0)


def theirs(name, model, error, norm, kl, l2, gradient, mmd) -> float:
    """The loss of their code, from the same sums."""
    image, dim, weights, (l2_weight, gradient_weight, mmd_weight) = THEIRS[name]
    pixels = math.prod(image)
    if model in ("vae", "cv_vae"):
        return error / image[-1] + weights[model] * kl
    if model == "wae":
        return (0.05 * error if name == "celeb_a" else error / pixels) + mmd_weight * mmd
    loss = error / pixels + weights[model] * norm / dim
    if model == "rae_l2":
        loss += l2_weight * l2
    return loss + (gradient_weight * gradient / dim if model == "rae_gp" else 0)


@each
@each_model
def test_the_loss_is_the_published_one_times_a_constant(name, model):
    """So that every minimum is the same; the constant is that of the squared error."""
    config = config_of(name, model)
    sums = np.random.default_rng(0).uniform(1, 100, size=(20, 6))
    ratios = [ours(config, *row) / theirs(name, model, *row) for row in sums]
    constant = ours(config, 1.0, *[0] * 5) / theirs(name, model, 1.0, *[0] * 5)
    np.testing.assert_allclose(ratios, constant, rtol=1e-5)


@each
def test_rows_hold_the_weights_for_one_flag_alone(name):
    """--config.regularizer=rae_sn of the default preset is RAE-SN."""
    config = config_of(name, "rae_l2")
    for model in ("rae_l2", "rae_gp", "rae_sn", "rae", "wae"):
        rows, row = config.regularizers, config_of(name, model).regularizers[model]
        assert rows[model].to_dict() == row.to_dict()
    for model, beta in BETAS[name].items():
        config = config_of(name, model)
        np.testing.assert_allclose(config.regularizers[config.regularizer].beta, beta, rtol=5e-3)


@each
@each_model
def test_every_preset_is_valid_and_its_parts_fit_together(name, model):
    config = config_of(name, model)
    validate(config)
    x_shape = (28, 28, 1) if name == "mnist" else THEIRS[name][0]
    vae, _ = make_method(config, x_shape, 50_000)
    assert (config.posterior, config.regularizer) == MODELS[model]
    assert vae.likelihood.unit_interval
    assert config.latent_dim == THEIRS[name][1]
    assert (config.regularizers.rae.beta == 0) is (model == "ae")
    epochs = config.num_steps * config.batch_size / PUBLISHED[name].num_train
    few = name == "celeb_a" or (name == "cifar10" and model in ("cv_vae", "wae", "rae_gp"))
    assert round(epochs) == (70 if few else 100)


def test_an_unknown_preset_is_one_line_with_the_nearest():
    with pytest.raises(ValueError, match="unknown preset 'rae_12'; did you mean 'rae_l2'") as error:
        config_of("mnist", "rae_12")
    assert "\n" not in str(error.value)
    assert all(model in str(error.value) for model in MODELS)


def test_other_data_have_no_published_settings():
    with pytest.raises(ValueError, match="1903.12436 'digits'") as error:
        with_published_rae(default_config().unlock(), "rae")
    assert "\n" not in str(error.value)
    assert set(PUBLISHED) == set(FILES) <= set(default_config()[CHOICES["dataset"]])
