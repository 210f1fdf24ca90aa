"""Every likelihood is the density that its formula names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax.config import build, default_config
from vaejax.models.likelihoods import LIKELIHOODS, event_log_prob
from vaejax.probability import distrax

every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
X_SHAPES = [(2,), (3, 4, 1)]


def made(name: str, **row):
    """(likelihood, its variables) with `row` changed in its config row."""
    config = default_config().unlock()
    config.likelihood = name
    config.likelihoods[name].update(row)
    likelihood = build(LIKELIHOODS, "likelihood", config)
    return likelihood, likelihood.init(jax.random.key(0), jnp.zeros((1, 2)))


def log_prob(name: str, output, x, **row) -> np.ndarray:
    likelihood, variables = made(name, **row)
    return np.asarray(likelihood.apply(variables, output).log_prob(x))


def pair(x_shape, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    output = rng.normal(size=(count, *x_shape)).astype(np.float32)
    return output, rng.uniform(size=(count, *x_shape)).astype(np.float32)


@pytest.mark.parametrize("weight", [1, 10.0, 0.3])
@pytest.mark.parametrize("x_shape", X_SHAPES)
def test_gaussian_is_weighted_squared_error_and_its_constant(weight, x_shape):
    output, x = pair(x_shape)
    errors = np.sum((x - output) ** 2, axis=tuple(range(1, x.ndim)))
    expected = weight * errors + 0.5 * np.prod(x_shape) * np.log(np.pi / weight)
    cost = -log_prob("gaussian", output, x, mse_weight=weight)
    np.testing.assert_allclose(cost, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_learned_gaussian_starts_as_the_gaussian_of_its_initial_scale(scale):
    output, x = pair((3, 4, 1))
    learned = log_prob("learned_gaussian", output, x, initial_scale=scale)
    fixed = log_prob("gaussian", output, x, mse_weight=1 / (2 * scale**2))
    np.testing.assert_allclose(learned, fixed, rtol=1e-5)


@pytest.mark.parametrize("x_shape", X_SHAPES)
def test_bernoulli_is_the_cross_entropy_of_the_logits(x_shape):
    output, x = pair(x_shape)
    axes = tuple(range(1, x.ndim))
    for targets in (x, np.round(x)):
        expected = np.sum(optax.sigmoid_binary_cross_entropy(output, targets), axis=axes)
        cost = -log_prob("bernoulli", output, targets)
        np.testing.assert_allclose(cost, expected, rtol=1e-5)


def test_bernoulli_is_exact_where_the_sigmoid_saturates():
    logits, x = np.array([[200.0], [200.0], [-200.0]]), np.array([[0.0], [1.0], [1.0]])
    np.testing.assert_allclose(-log_prob("bernoulli", logits, x), [200, 0, 200], atol=1e-5)


@every_likelihood
def test_probability_of_everything_is_one(name):
    output = np.array([[0.7]], np.float32)
    if name == "bernoulli":
        x, cell = np.array([0.0, 1.0]), 1.0
    else:
        x = np.linspace(-8.0, 9.0, 20_001)
        cell = x[1] - x[0]
    outputs = np.broadcast_to(output, (len(x), 1))
    total = np.exp(log_prob(name, outputs, x[:, None].astype(np.float32))).sum() * cell
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


@every_likelihood
@pytest.mark.parametrize("x_shape", X_SHAPES)
def test_pixels_are_independent_and_so_are_examples(name, x_shape):
    """The log-density of an image is the sum over pixels of one-pixel log-densities."""
    output, x = pair(x_shape)
    pixels = log_prob(name, output.reshape(-1, 1), x.reshape(-1, 1)).reshape(len(x), -1)
    np.testing.assert_allclose(log_prob(name, output, x), pixels.sum(axis=1), rtol=1e-5)


@every_likelihood
@pytest.mark.parametrize("x_shape", X_SHAPES)
def test_sum_over_the_event_is_that_of_the_distribution(name, x_shape):
    """Its gradient too, and in float32 whatever the backend's products round to."""
    output, x = pair(x_shape)
    likelihood, variables = made(name)
    weights = np.random.default_rng(1).normal(size=len(x)).astype(np.float32)

    def weighted(output, event_log_prob):
        found = event_log_prob(likelihood.apply(variables, output), x)
        return jnp.sum(weights * found), found

    def summed(of):
        return jax.jit(jax.grad(functools.partial(weighted, event_log_prob=of), has_aux=True))

    found, expected = summed(event_log_prob), summed(lambda d, x: d.log_prob(x))
    for one, other in zip(found(output), expected(output), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    program = str(jax.make_jaxpr(found)(output))
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 2
    assert program.count("dot_general[") == 2


def test_a_density_that_is_no_product_over_pixels_is_taken_as_it_is():
    mean, scale = np.zeros(2, np.float32), np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)
    correlated = distrax.MultivariateNormalTri(mean, scale)
    x = pair((2,))[1]
    np.testing.assert_array_equal(event_log_prob(correlated, x), correlated.log_prob(x))


@every_likelihood
def test_mean_is_the_expectation_of_the_draws(name, key):
    output, _ = pair((3,))
    likelihood, variables = made(name)
    distribution = likelihood.apply(variables, output)
    draws = np.asarray(distribution.sample(seed=key, sample_shape=(4_000,)), np.float64)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - distribution.mean()) < 4 * error).all()
    expected = jax.nn.sigmoid(output) if name == "bernoulli" else output
    np.testing.assert_allclose(distribution.mean(), expected, rtol=1e-6)


def learned_cost(log_scale, output, x):
    likelihood, variables = made("learned_gaussian")
    variables = {"params": jax.tree.map(lambda _: log_scale, variables["params"])}
    return -likelihood.apply(variables, output).log_prob(x).mean()


def test_learned_variance_is_best_at_the_mean_squared_error():
    output, x = pair((3, 4, 1))
    best = 0.5 * np.log(np.mean((x - output) ** 2))
    slope = jax.grad(functools.partial(learned_cost, output=output, x=x))
    np.testing.assert_allclose(slope(jnp.float32(best)), 0.0, atol=1e-4)
    assert slope(jnp.float32(best - 0.3)) < -1
    assert slope(jnp.float32(best + 0.3)) > 1


def test_learned_scale_has_a_floor_that_keeps_the_cost_finite():
    output, _ = pair((3,))
    assert np.isfinite(learned_cost(jnp.float32(-200.0), output, output))


def test_learned_scale_comes_back_from_below_its_floor():
    """One bad step, or a small initial scale, must not freeze the scale for ever."""
    output, x = pair((3, 4, 1))
    slope = jax.grad(functools.partial(learned_cost, output=output, x=x))
    assert slope(jnp.float32(-6.5)) < 0


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize(
    ("name", "field"), [("gaussian", "mse_weight"), ("learned_gaussian", "initial_scale")]
)
def test_a_scale_that_is_not_positive_is_an_error_of_one_line(name, field, value):
    with pytest.raises(ValueError, match=rf"{name}\.{field} is {value}") as error:
        made(name, **{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gaussian", "learned_gaussian"])
def test_a_sigmoid_output_is_the_same_gaussian_around_another_mean(name):
    """For any output of the decoder; and then x must lie where the mean does."""
    output, x = pair((3, 4, 1))
    squashed = 1 / (1 + np.exp(-5 * output))
    likelihood, variables = made(name, output="sigmoid")
    found = likelihood.apply(variables, 5 * output)
    np.testing.assert_allclose(found.log_prob(x), log_prob(name, squashed, x), rtol=1e-5)
    assert likelihood.unit_interval
    assert not made(name)[0].unit_interval


@pytest.mark.parametrize("name", ["gaussian", "learned_gaussian"])
def test_an_unknown_output_is_an_error_that_names_the_nearest(name):
    with pytest.raises(ValueError, match=rf"likelihoods\.{name}\.output 'sigmod'") as error:
        made(name, output="sigmod")
    assert "did you mean 'sigmoid'?" in str(error.value)
    assert "\n" not in str(error.value)
