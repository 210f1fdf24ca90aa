"""Chains of models whose law is known: linear autoencoders, and the optimal denoiser of a mixture.

Tolerances are standard errors of the chains, which are independent of each other.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line
from flax import linen as nn
from scipy.stats import norm

from vaejax.data.transforms import gaussian as gaussian_noise
from vaejax.data.transforms import masking
from vaejax.evaluation import chains
from vaejax.evaluation.chains import KERNELS, Noise, markov_paths, markov_samples, markov_step
from vaejax.models.likelihoods import Bernoulli, gaussian
from vaejax.models.networks import MLPDecoder, MLPEncoder
from vaejax.models.posteriors import Deterministic, DiagonalGaussian
from vaejax.models.priors import StandardNormal
from vaejax.models.vae import VAE, initial_variables

SIGMA = 0.4
NOISE = Noise("gaussian", gaussian_noise(scale=SIGMA), SIGMA)
MEANS, SPREAD, SHARES = np.array([-0.8, 0.9]), 0.25, np.array([0.3, 0.7])  # of a mixture on a line


class Identity(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return x


class Linear(nn.Module):
    size: int

    @nn.compact
    def __call__(self, z, train=False):
        return nn.Dense(self.size)(z)


class OptimalDenoiser(nn.Module):
    """r(x) = x + sigma^2 d/dx log p_sigma(x) of the mixture."""

    def __call__(self, x, train=False):
        def log_p(x):
            scale = (SPREAD**2 + SIGMA**2) ** 0.5
            logs = -0.5 * ((x - MEANS) / scale) ** 2 + np.log(SHARES)
            return jax.nn.logsumexp(logs)

        return x + SIGMA**2 * jax.vmap(jax.grad(log_p))(x[:, 0])[:, None]


class Pass(nn.Module):
    """The code is x itself."""

    def __call__(self, features, keys):
        from vaejax.types import Code

        return Code(features, jnp.zeros(len(features)), features)


def linear_model(encode, shift, decode, center, variance=0.5):
    """f(x) = x encode + shift, g(z) = z decode + center, p(x|z) of this variance."""
    size, dim = encode.shape
    model = VAE(
        Identity(),
        Deterministic(dim),
        StandardNormal(dim),
        Linear(size),
        gaussian(0.5 / variance, "identity"),
    )
    dense = {"kernel": jnp.asarray(encode, jnp.float32), "bias": jnp.asarray(shift, jnp.float32)}
    back = {"kernel": jnp.asarray(decode, jnp.float32), "bias": jnp.asarray(center, jnp.float32)}
    return model, {"params": {"posterior": {"Dense_0": dense}, "decoder": {"Dense_0": back}}}


def small_model(posterior=Deterministic, likelihood=None):
    model = VAE(
        MLPEncoder((8,)),
        posterior(2),
        StandardNormal(2),
        MLPDecoder((3, 2, 1), (8,)),
        likelihood or gaussian(20.0, "identity"),
    )
    params, stats = initial_variables(model, jax.random.key(3), (3, 2, 1))
    return model, {"params": params, "batch_stats": stats}


def same_moments(x, mean, covariance):
    """Whether draws x: (N, D) of a Gaussian have these moments, within 5 standard errors."""
    variances = np.diag(covariance)
    np.testing.assert_array_less(np.abs(x.mean(axis=0) - mean), 5 * np.sqrt(variances / len(x)))
    errors = np.sqrt((covariance**2 + np.outer(variances, variances)) / len(x))
    np.testing.assert_array_less(np.abs(np.cov(x.T) - covariance), 5 * errors)


def test_a_contractive_step_has_the_covariance_of_its_jacobians(key):
    draw = np.random.default_rng(0)
    encode, decode = draw.normal(size=(3, 2)), draw.normal(size=(2, 3))
    shift, center = draw.normal(size=2), draw.normal(size=3)
    model, variables = linear_model(encode, shift, decode, center)
    x = draw.normal(size=3)
    start = np.tile(x, (20_000, 1))
    given = {"key": key, "start": start, "num_steps": 1, "noise": NOISE}
    moved = markov_samples(model, variables, kernel="contractive", options={"scale": 0.3}, **given)
    jacobian = encode.T
    spread = decode.T @ jacobian @ jacobian.T
    same_moments(moved, (x @ encode + shift) @ decode + center, 0.3**2 * spread @ spread.T)


def test_langevin_with_the_score_of_a_gaussian_has_its_variance(key):
    variance = np.array([SIGMA**2 + 0.01, SIGMA**2 + 0.5])  # of smoothed data
    center = np.array([0.5, -1.0])
    model, variables = linear_model(np.eye(2), np.zeros(2), np.diag(1 - SIGMA**2 / variance),
                                    SIGMA**2 / variance * center)  # fmt: skip
    start = np.zeros((8_000, 2))
    given = {"key": key, "start": start, "num_steps": 100, "burn_in": 99, "noise": NOISE}
    x = markov_samples(model, variables, kernel="langevin", options={"step_size": 0.3}, **given)
    inflated = variance / (1 - 0.3 * SIGMA**2 / (2 * variance))  # by the finite step, exactly
    same_moments(x, center, np.diag(inflated))


@pytest.mark.parametrize("draw", [True, False])
def test_a_denoising_chain_with_the_exact_conditional_has_the_law_of_the_data(key, draw):
    variance, center = np.array([0.3, 0.05]), np.array([0.5, -1.0])
    # One conditional variance for both dimensions: sigma_d^2 v_d / (sigma_d^2 + v_d).
    kept = 0.04
    sigma = np.sqrt(kept * variance / (variance - kept))
    shrink = kept / sigma**2
    noise = Noise("own", lambda x, key: x + sigma * jax.random.normal(key, x.shape))
    model, variables = linear_model(np.eye(2), np.zeros(2), np.diag(shrink), (1 - shrink) * center,
                                    kept)  # fmt: skip
    start = np.zeros((8_000, 2))
    given = {"key": key, "start": start, "num_steps": 80, "burn_in": 79, "noise": noise}
    x = markov_samples(model, variables, kernel="denoising", options={"draw": draw}, **given)
    of_means = shrink**2 * sigma**2 / (1 - shrink**2)
    same_moments(x, center, np.diag(variance if draw else of_means))


def mixture_probabilities(edges, sigma):
    scale = np.sqrt(SPREAD**2 + sigma**2)
    return np.diff(norm.cdf((edges[:, None] - MEANS) / scale) @ SHARES)


def test_chains_of_the_optimal_denoiser_have_the_smoothed_mixture(key):
    model = VAE(Identity(), Pass(), StandardNormal(1), OptimalDenoiser(), gaussian(1.0, "identity"))
    start = np.full((6_000, 1), -2.0)
    given = {"key": key, "start": start, "num_steps": 600, "burn_in": 599, "noise": NOISE}
    x = markov_samples(
        model, {"params": {}}, kernel="langevin", options={"step_size": 0.1}, **given
    )
    edges = np.array([-9, -1.2, -0.9, -0.6, -0.3, 0, 0.3, 0.6, 0.9, 1.2, 1.5, 9])
    found = np.histogram(x, edges)[0] / len(x)

    def distance(sigma):
        return 0.5 * np.abs(found - mixture_probabilities(edges, sigma)).sum()

    p = mixture_probabilities(edges, SIGMA)
    expected = np.sqrt(p * (1 - p) / (2 * np.pi * len(x))).sum()  # of as many exact draws
    assert distance(SIGMA) < 2 * expected + 0.01  # the step is finite
    assert distance(0.0) > 10 * expected


CASES = {
    "denoising": {"noise": NOISE},
    "contractive": {"noise": Noise("none", None), "options": {"scale": 0.5}},
    "langevin": {"noise": NOISE},
}


@pytest.mark.parametrize(
    ("kernel", "posterior"),
    [*((kernel, Deterministic) for kernel in KERNELS), ("denoising", DiagonalGaussian)],
)
def test_a_chain_does_not_depend_on_those_beside_it(key, kernel, posterior, monkeypatch):
    likelihood = Bernoulli() if kernel == "denoising" else None
    model, variables = small_model(posterior, likelihood)
    start = np.random.default_rng(1).normal(size=(7, 3, 2, 1))
    start[1] = start[0]
    given = {"kernel": kernel, "key": key, "num_steps": 6, **CASES[kernel]}
    together = markov_paths(model, variables, start=start, **given)
    assert not np.allclose(together[0], together[1])
    alone = markov_paths(model, variables, start=start[4:5], first=4, **given)
    np.testing.assert_allclose(alone[0], together[4], atol=1e-5)
    monkeypatch.setattr(chains, "num_at_once", lambda *_: 3)
    in_parts = markov_paths(model, variables, start=start, **given)
    np.testing.assert_allclose(in_parts, together, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_key_gives_the_same_chain_and_thinning_leaves_steps_out(key, kernel):
    model, variables = small_model()
    given = {"kernel": kernel, "start": np.zeros((3, 3, 2, 1)), **CASES[kernel]}
    every = markov_paths(model, variables, key=key, num_steps=9, **given)
    again = markov_paths(model, variables, key=key, num_steps=9, **given)
    np.testing.assert_array_equal(every, again)
    some = markov_paths(model, variables, key=key, num_steps=9, burn_in=1, thin=3, **given)
    np.testing.assert_allclose(some, every[:, [3, 6]], atol=1e-6)


def test_samples_are_the_states_of_all_chains_and_another_key_gives_others(key):
    model, variables = small_model()
    given = {"kernel": "langevin", "start": np.zeros((3, 3, 2, 1)), "noise": NOISE, "num_steps": 4}
    paths = markov_paths(model, variables, key=key, **given)
    flat = markov_samples(model, variables, key=key, **given)
    np.testing.assert_array_equal(flat, paths.reshape(12, 3, 2, 1))
    other = markov_paths(model, variables, key=jax.random.key(1), **given)
    assert not np.allclose(other[:, 0], paths[:, 0])


def test_a_chain_uses_what_a_model_has_learned_of_each_layer(key):
    """A contractive step is that of a Jacobian formed whole."""
    model, variables = small_model()
    x = np.random.default_rng(1).normal(size=(4, 3, 2, 1)).astype(np.float32)
    keys = jax.random.split(key, 4)
    step = markov_step("contractive", Noise("none", None), {"scale": 0.5})
    moved = step(model, variables, jax.random.clone(keys), x)

    def encode(one):
        return model.apply(variables, one[None], method="embed")[0]

    jacobians = jax.vmap(jax.jacobian(encode))(x).reshape(4, 2, 6)
    e = 0.5 * jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    along = np.einsum("bdx,bex,be->bd", jacobians, jacobians, e)
    codes = jax.vmap(encode)(x) + along
    np.testing.assert_allclose(moved, model.apply(variables, codes, method="decode"), atol=1e-5)


def test_every_option_of_a_kernel_has_a_default():
    for make, options in KERNELS.values():
        kinds = inspect.signature(make).parameters.values()
        assert {p.name for p in kinds if p.kind is p.KEYWORD_ONLY} == set(options)


@pytest.mark.parametrize(
    ("kernel", "noise", "options", "said"),
    [
        ("denosing", NOISE, {}, "unknown chain 'denosing'; did you mean 'denoising'"),
        ("langevin", NOISE, {"stepsize": 0.1}, "'stepsize'; did you mean 'step_size'"),
        ("langevin", NOISE, {"key": 0.1}, "unknown option of chain 'langevin': 'key'"),
        ("denoising", NOISE, {"draw": 1}, "draw is 1; it must be of type bool"),
        ("denoising", Noise("none", None), {}, "config.corruption='none'"),
        ("langevin", Noise("none", None), {}, "this one has 'none'"),
        ("langevin", Noise("masking", masking(fraction=0.2)), {}, "this one has 'masking'"),
        ("langevin", Noise("gaussian", gaussian_noise(scale=0.0), 0.0), {}, "positive scale"),
        ("langevin", NOISE, {"step_size": 2.0}, r"must be in \(0, 2\)"),
        ("contractive", NOISE, {"scale": float("nan")}, "must be positive"),
    ],
)
def test_what_a_kernel_refuses(kernel, noise, options, said):
    with one_line(said):
        markov_step(kernel, noise, options)


@pytest.mark.parametrize("given", [{"num_steps": 0}, {"thin": 5}, {"burn_in": 4}, {"burn_in": -1}])
def test_chains_without_a_state_are_refused(key, given):
    model, variables = small_model()
    given = {"num_steps": 4, **given}
    with one_line("keep no state"):
        markov_paths(model, variables, kernel="langevin", key=key, noise=NOISE,
                     start=np.zeros((1, 3, 2, 1)), **given)  # fmt: skip


def test_chains_that_diverge_are_refused(key):
    model, variables = linear_model(np.eye(1), np.zeros(1), 40 * np.eye(1), np.zeros(1))
    with one_line("2 of 2 chains 'langevin' diverged"):
        markov_paths(model, variables, kernel="langevin", key=key, noise=NOISE, num_steps=100,
                     start=np.ones((2, 1)))  # fmt: skip
