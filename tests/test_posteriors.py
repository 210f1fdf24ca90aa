"""Every posterior hands on a code that is what `vaejax.types.Code` says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.config import build, default_config
from vaejax.models.posteriors import POSTERIORS

DIM, WIDTH, COUNT = 3, 4, 7
every_posterior = pytest.mark.parametrize("name", POSTERIORS)


@functools.cache
def made(name: str):
    """(posterior, drawn variables, jitted `features, keys -> code`)."""
    config = default_config().unlock()
    config.posterior = name
    posterior = build(POSTERIORS, "posterior", config, DIM)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), COUNT))
    features = jax.ShapeDtypeStruct((COUNT, WIDTH), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(posterior.init, key, features, keys)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype("f4"), shapes)
    return posterior, variables, jax.jit(functools.partial(posterior.apply, variables))


def inputs(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)


def numbers(values, expected):
    """Mean of `values` (S, ...) is `expected` within 4 standard errors, entry by entry."""
    values = np.asarray(values, np.float64)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - expected) < 4 * error + 1e-6).all()


@every_posterior
def test_log_q_is_the_density_at_the_draw(name, key):
    posterior, _, code_of = made(name)
    code = code_of(inputs(), jax.random.split(key, COUNT))
    if code.q is None:
        assert not posterior.has_density
        np.testing.assert_array_equal(code.log_q, 0)
        return
    mean, scale = np.asarray(code.q.mean(), float), np.asarray(code.q.stddev(), float)
    noise = (np.asarray(code.z, float) - mean) / scale
    expected = np.sum(-0.5 * noise**2 - np.log(scale) - 0.5 * np.log(2 * np.pi), axis=-1)
    np.testing.assert_allclose(code.log_q, code.q.log_prob(code.z), rtol=1e-5)
    np.testing.assert_allclose(code.log_q, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(code.mean, mean, rtol=1e-6)


@every_posterior
def test_a_density_exists_exactly_where_draws_vary(name, key):
    posterior, _, code_of = made(name)
    one, other = (code_of(inputs(), keys) for keys in jax.random.split(key, (2, COUNT)))
    assert bool((np.asarray(one.z) != np.asarray(other.z)).all()) is posterior.has_density
    assert bool((np.asarray(one.log_q) != 0).all()) is posterior.has_density


@every_posterior
def test_permuting_examples_with_their_keys_permutes_the_code(name, key):
    _, _, code_of = made(name)
    keys, features = jax.random.split(key, COUNT), inputs()
    order = np.random.default_rng(2).permutation(COUNT)
    code = code_of(features, keys)
    permuted = code_of(features[order], jax.random.clone(keys)[order])
    for field in ("z", "log_q", "mean"):
        np.testing.assert_allclose(
            getattr(permuted, field), getattr(code, field)[order], rtol=1e-6, atol=1e-6
        )


@every_posterior
def test_a_draw_depends_on_no_key_but_its_own(name, key):
    _, _, code_of = made(name)
    keys, others = jax.random.split(key, (2, COUNT))
    mixed = jnp.concatenate([others[:1], jax.random.clone(keys)[1:]])
    z, mixed_z = code_of(inputs(), keys).z, code_of(inputs(), mixed).z
    np.testing.assert_array_equal(z[1:], mixed_z[1:])


@every_posterior
def test_mean_needs_no_key_and_is_the_mean_of_the_draws(name, key):
    _, _, code_of = made(name)
    draws = jax.jit(jax.vmap(code_of, in_axes=(None, 0)))(
        inputs(), jax.random.split(key, (4_000, COUNT))
    )
    np.testing.assert_array_equal(draws.mean, np.broadcast_to(draws.mean[0], draws.mean.shape))
    numbers(draws.z, draws.mean[0])


def test_diagonal_gaussian_reads_mean_then_log_variance(key):
    """Draws have the scale exp(log_variance / 2) of the second half of the head's outputs."""
    _, variables, code_of = made("diagonal_gaussian")
    draws = jax.jit(jax.vmap(code_of, in_axes=(None, 0)))(
        inputs(), jax.random.split(key, (4_000, COUNT))
    )
    head = variables["params"]["Dense_0"]
    outputs = inputs() @ head["kernel"] + head["bias"]
    mean, log_variance = outputs[:, :DIM], outputs[:, DIM:]
    noise = (draws.z - mean) / np.exp(0.5 * log_variance)
    np.testing.assert_allclose(draws.mean[0], mean, rtol=1e-4, atol=1e-5)
    numbers(noise, 0.0)
    numbers(noise**2, 1.0)
    numbers(noise**4, 3.0)
    # Dimensions and examples draw on their own.
    numbers(noise[..., 0] * noise[..., 1], 0.0)
    numbers(noise[:, 0] * noise[:, 1], 0.0)


def test_diagonal_gaussian_is_reparameterized(key):
    """With the key held, dz / d mean = 1 and dz / d log_variance = (z - mean) / 2."""
    posterior, variables, _ = made("diagonal_gaussian")

    @jax.jit
    def z_of(bias, keys):
        head = {**variables["params"]["Dense_0"], "bias": bias}
        code = posterior.apply({"params": {"Dense_0": head}}, inputs(1), keys)
        return code.z[0], code.mean[0]

    keys, bias = jax.random.split(key, 1), variables["params"]["Dense_0"]["bias"]
    jacobian, mean = jax.jit(jax.jacrev(z_of, has_aux=True))(bias, keys)
    half = 0.5 * (z_of(bias, jax.random.clone(keys))[0] - mean)
    np.testing.assert_allclose(jacobian[:, :DIM], np.eye(DIM), atol=1e-6)
    np.testing.assert_allclose(jacobian[:, DIM:], np.diag(half), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_an_exploding_log_variance_stays_finite_with_its_gradient(size, key):
    posterior, variables, _ = made("diagonal_gaussian")

    def total(features, keys):
        code = posterior.apply(variables, features, keys)
        return jnp.sum(code.log_q), code

    features = size * np.abs(inputs())
    gradient, code = jax.grad(total, has_aux=True)(features, jax.random.split(key, COUNT))
    assert np.isfinite(gradient).all()
    assert np.isfinite(code.log_q).all()
    bound = default_config().posteriors.diagonal_gaussian.log_variance_bound
    np.testing.assert_allclose(np.abs(np.log(code.q.stddev())).max(), bound / 2, rtol=1e-5)
