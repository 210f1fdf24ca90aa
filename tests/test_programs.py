"""A program of a model is compiled once, whoever asks for it, and is what the model says."""

import jax
import numpy as np
from flax import linen as nn

from vaejax.config import load_config
from vaejax.models.programs import (
    from_base,
    log_base,
    log_prior,
    prior_draws,
    program,
    to_base,
    with_prior,
)
from vaejax.models.vae import initial_variables, make_model


class Listed(nn.Module):
    """A module whose field has no hash."""

    widths: list

    def __call__(self, x):
        return sum(self.widths) * x


def model_of(**changes):
    config = load_config("configs/tiny.py").unlock()
    config.update(prior="decoupled", **changes)
    return make_model(config, (2,))


def test_equal_models_share_a_program_and_others_do_not():
    one = program(to_base, model_of())
    assert one is program(to_base, model_of())
    assert one is not program(from_base, model_of())
    assert one is not program(to_base, model_of(latent_dim=3))
    assert prior_draws(5) is prior_draws(5)
    assert prior_draws(5) is not prior_draws(6)


def test_a_module_without_a_hash_has_programs_too():
    assert program(Listed.__call__, Listed([1, 2]))({}, 2.0) == 6.0


def test_programs_agree_with_each_other_on_the_draws_of_a_prior():
    model = model_of()
    params, stats = initial_variables(model, jax.random.key(0), (2,))
    variables = {"params": params, **({"batch_stats": stats} if stats else {})}
    z = program(prior_draws(7), model)(variables, jax.random.key(1))
    z0, log_p, log_p0 = program(with_prior, model)(variables, z)
    np.testing.assert_allclose(program(from_base, model)(variables, z0), z, atol=1e-4)
    expected = -0.5 * (np.asarray(z0, np.float64) ** 2).sum(axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(log_p0, expected, rtol=1e-5)
    np.testing.assert_allclose(program(log_base, model)(variables, z0), log_p0, rtol=1e-5)
    np.testing.assert_allclose(program(log_prior, model)(variables, z), log_p, rtol=1e-5)
