"""Linear-Gaussian models, whose evidence is known: bounds are bounds, and tight where they can be.

p(z) = N(m, V), p(x|z) = N(A z + c, s2 I), so that p(x) = N(A m + c, A V A' + s2 I).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.stats import multivariate_normal

from vaejax.data.transforms import scaled
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.models.flows import CouplingFlow
from vaejax.models.likelihoods import gaussian
from vaejax.models.posteriors import DiagonalGaussian
from vaejax.models.priors import Decoupled, StandardNormal
from vaejax.models.vae import VAE
from vaejax.training import validation
from vaejax.training.state import EVALUATE, stream_key

MSE_WEIGHT, SCALE = 2.0, 4.0  # s2 = 1 / (2 w); x = raw / SCALE
S2 = 1 / (2 * MSE_WEIGHT)
OFFSET = np.array([0.5, -1.0, 0.2])


class Identity(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return x


class Linear(nn.Module):
    @nn.compact
    def __call__(self, z, train=False):
        return nn.Dense(3)(z)


class Case(NamedTuple):
    model: VAE
    variables: dict
    rows: np.ndarray
    exact: np.ndarray

    def bound(self, num_samples, seed=0, **more):
        return importance_weighted_bound(
            self.model,
            self.variables,
            self.rows,
            num_samples=num_samples,
            transform=scaled(SCALE),
            key=stream_key(seed, EVALUATE),
            **more,
        )

    @property
    def x(self):
        return jnp.asarray(self.rows / SCALE, jnp.float32)


def case(prior_name: str, spread: float = 1.0, count: int = 23) -> Case:
    """A model whose q(z|x) has the exact mean, and `spread` times the exact scale."""
    if prior_name == "standard_normal":
        # Orthogonal columns: the exact posterior has a diagonal covariance.
        slope = np.array([[1.0, 0.4], [0.5, -0.8], [0.0, 1.2]])
        slope[:, 1] -= slope[:, 0] * (slope[:, 0] @ slope[:, 1]) / (slope[:, 0] @ slope[:, 0])
        prior, prior_params, center, variance = StandardNormal(2), {}, np.zeros(2), np.ones(2)
    else:
        # In one dimension the flow is affine whatever its parameters.
        slope = np.array([[1.0], [-0.5], [0.3]])
        prior = Decoupled(CouplingFlow(1, num_blocks=3, width=4))
        shapes = jax.eval_shape(
            lambda key: prior.init(key, jnp.zeros((1, 1)), method="log_prob"), jax.random.key(0)
        )
        rng = np.random.default_rng(1)
        drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f4"), shapes)
        prior_params = drawn["params"]
        ends = prior.apply(drawn, jnp.array([[0.0], [1.0]]), method="from_base")
        center, variance = np.asarray(ends[0], float), np.asarray(ends[1] - ends[0], float) ** 2
        assert abs(center[0]) > 0.1
        assert abs(variance[0] - 1) > 0.1
    posterior_variance = 1 / (1 / variance + np.sum(slope**2, axis=0) / S2)
    gain = posterior_variance[:, None] * slope.T / S2
    shift = posterior_variance * center / variance - gain @ OFFSET
    log_variance = np.log(posterior_variance) + 2 * np.log(spread)
    params = {
        "posterior": {
            "Dense_0": {
                "kernel": np.concatenate([gain.T, 0 * gain.T], axis=1).astype("f4"),
                "bias": np.concatenate([shift, log_variance]).astype("f4"),
            }
        },
        "prior": prior_params,
        "decoder": {"Dense_0": {"kernel": slope.T.astype("f4"), "bias": OFFSET.astype("f4")}},
    }
    dim = len(variance)
    model = VAE(
        Identity(), DiagonalGaussian(dim), prior, Linear(), gaussian(MSE_WEIGHT, "identity")
    )
    marginal = multivariate_normal(
        slope @ center + OFFSET, (slope * variance) @ slope.T + S2 * np.eye(3)
    )
    x = marginal.rvs(count, random_state=0)
    rows = (SCALE * x).astype(np.float32)
    return Case(model, {"params": params}, rows, marginal.logpdf(rows / SCALE))


both = pytest.mark.parametrize("prior", ["standard_normal", "decoupled"])


@both
def test_elbo_of_the_exact_posterior_is_the_evidence(prior):
    """On average; and reconstruction - log p(z) + log q(z|x) is, draw by draw."""
    model, variables, _, exact = made = case(prior)

    def passes(key):
        keys = jax.random.split(key, len(exact))
        terms = model.apply(variables, made.x, keys)
        log_p = model.apply(variables, terms.code.z, method=lambda m, z: m.prior.log_prob(z))
        evidence = log_p - terms.reconstruction - terms.code.log_q
        return -(terms.reconstruction + terms.kl), evidence

    elbo, evidence = jax.jit(jax.vmap(passes))(jax.random.split(jax.random.key(0), 2_000))
    np.testing.assert_allclose(evidence, np.broadcast_to(exact, evidence.shape), atol=1e-3)
    elbo = np.asarray(elbo, np.float64)
    error = elbo.std(axis=0, ddof=1) / np.sqrt(len(elbo))
    assert (np.abs(elbo.mean(axis=0) - exact) < 4 * error + 1e-4).all()


@both
@pytest.mark.parametrize("num_samples", [1, 13])
def test_one_sample_of_the_exact_posterior_gives_the_evidence(prior, num_samples):
    made = case(prior)
    np.testing.assert_allclose(made.bound(num_samples), made.exact, atol=1e-3)


@both
def test_bound_converges_to_the_evidence_at_the_rate_of_its_standard_error(prior):
    """Error = -variance / 2 + noise, with variance about that of the weights over S."""
    made = case(prior, spread=1.3, count=80)
    errors = made.bound(2_000, chunk=500, batch_size=80) - made.exact
    corrected = errors + errors.var(ddof=1) / 2
    assert abs(corrected.mean()) < 4 * errors.std(ddof=1) / np.sqrt(len(errors))
    assert errors.std() < 0.05
    few = made.bound(20, batch_size=80) - made.exact
    assert 5 < few.std() / errors.std() < 20  # sqrt(2000 / 20) = 10


def test_bound_is_looser_with_fewer_samples():
    made = case("standard_normal", spread=2.0)
    gaps = [np.mean(made.exact - made.bound(count)) for count in (1, 300)]
    assert gaps[0] > 0.3
    assert abs(gaps[1]) < 0.1


@pytest.fixture(scope="module")
def reference():
    made = case("decoupled", spread=1.5)
    return made, made.bound(7, chunk=7, batch_size=23)


@pytest.mark.parametrize(("chunk", "batch_size"), [(1, 50), (3, 10), (3, 50), (20, 1), (20, 10)])
def test_chunk_and_batch_size_change_nothing(chunk, batch_size, reference):
    """7 samples in chunks of 3, and 23 examples in blocks of 10, leave a rest."""
    made, expected = reference
    given = made.bound(7, chunk=chunk, batch_size=batch_size)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def test_bound_depends_on_the_seed_and_on_it_alone(reference):
    made, expected = reference
    np.testing.assert_array_equal(made.bound(7, chunk=7, batch_size=23), expected)
    assert (made.bound(7, seed=1) != expected).all()


def test_more_samples_keep_the_first_ones(reference):
    """Sums of weights grow sample by sample, and every example has weights of its own."""
    made, expected = reference
    sums = [np.log(count) + made.bound(count) for count in (1, 6, 7)]
    assert (np.diff(sums, axis=0) > 0).all()
    np.testing.assert_allclose(sums[-1], np.log(7) + expected, rtol=1e-5, atol=1e-5)
    same = made._replace(rows=np.repeat(made.rows[:1], 5, axis=0))
    assert len(np.unique(same.bound(1))) == 5


def test_progress_counts_every_example_once(reference):
    made, _ = reference
    done = []
    made.bound(2, batch_size=10, progress=done.append)
    assert done == [10, 20, 23]


class Convolved(nn.Module):
    """`Linear`, then a native convolution that changes nothing."""

    @nn.compact
    def __call__(self, z, train=False):
        x = nn.Dense(3)(z)
        convolution = nn.Conv(1, (1, 1), kernel_init=nn.initializers.ones, name="same")
        return convolution(x.reshape(-1, 3, 1, 1)).reshape(-1, 3)


@pytest.mark.parametrize(("chunk", "batch_size"), [(None, None), (3, 10)])
def test_a_decoder_with_convolutions_has_the_same_bound(chunk, batch_size, reference):
    """Its chunks are calls on a CPU, not a loop."""
    made, expected = reference
    params = made.variables["params"]
    same = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    variables = {"params": params | {"decoder": params["decoder"] | {"same": same}}}
    other = made._replace(model=made.model.clone(decoder=Convolved()), variables=variables)
    given = other.bound(7, chunk=chunk, batch_size=batch_size)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 7, 3_000])
def test_no_more_is_decoded_at_once_than_the_backend_likes(num_samples, reference, monkeypatch):
    made, _ = reference
    monkeypatch.setitem(validation._LAYER_BYTES, jax.default_backend(), 100 * 3 * 4)
    assert validation.num_at_once(made.model, made.variables, (3,), ("decoder",)) == 100
    sizes = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, z, train=False):
            sizes.append(len(z))
            return nn.Dense(3)(z)

    made._replace(model=made.model.clone(decoder=Counting())).bound(num_samples)
    at_most = min(100, 23 * num_samples)
    assert 0.7 * at_most < max(sizes) <= at_most


@pytest.mark.parametrize("count", [0, -1])
def test_no_samples_are_an_error(count, reference):
    with pytest.raises(ValueError, match="at least 1"):
        reference[0].bound(count)
