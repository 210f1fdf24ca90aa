"""The approximate ELBO: exact where p(x, z) is Gaussian, and what its expansion says elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line
from flax import linen as nn
from test_evidence import SCALE, Identity, case
from test_metrics import subject_of

from vaejax.data.transforms import scaled
from vaejax.evaluation.comparison import some
from vaejax.evaluation.laplace import expansion, second_order_elbo
from vaejax.evaluation.metrics import METRICS, fitting, metrics_of
from vaejax.evaluation.protocol import Protocol
from vaejax.models.flows import CouplingFlow
from vaejax.models.likelihoods import Bernoulli, gaussian, learned_gaussian
from vaejax.models.posteriors import Deterministic
from vaejax.models.priors import Decoupled, StandardNormal
from vaejax.models.vae import VAE
from vaejax.probability import distrax

DIM, ROWS = 3, np.random.default_rng(0).normal(size=(17, 4)).astype("f4")

LIKELIHOODS = [gaussian(3.0, "identity"), learned_gaussian(0.3, "identity"), Bernoulli()]


class Curved(nn.Module):
    """Two layers, so that J depends on z."""

    layers: int = 2

    @nn.compact
    def __call__(self, z, train=False):
        z = nn.tanh(nn.Dense(6, name="first")(z)) if self.layers > 1 else z
        return nn.Dense(4, name="last")(z)


class TwoHills(nn.Module):
    """A mixture of N(-3, I) and N(3, I): between them its density curves up."""

    factorizes = False

    def log_prob(self, z):
        each = [-0.5 * ((z - center) ** 2 + jnp.log(2 * jnp.pi)).sum(-1) for center in (-3.0, 3.0)]
        return jnp.logaddexp(*each) - jnp.log(2)

    def kl(self, code, log_p):
        return -log_p


def elbo_of(model, variables, rows=ROWS, **more):
    return second_order_elbo(expansion(model, variables, rows, transform=scaled(1.0), **more))


def made(prior, likelihood, layers=2, seed=0):
    """Weights at random, those of the prior included."""
    model = VAE(Identity(), Deterministic(DIM), prior, Curved(layers), likelihood)
    keys = jax.random.split(jax.random.key(1), 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 4)), keys)
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(lambda leaf: rng.normal(0, 0.7, leaf.shape).astype("f4"), shapes)


def by_hand(model, variables, rows, curvature=None):
    """log p(x, mu) + D/2 log 2 pi - 1/2 log det of -d2/dz2 log p(x, z), or of what is given."""

    def of_one(x):
        bound = model.bind(variables)
        mean = bound.embed(x[None])[0]

        def log_joint(z):
            log_x = bound.likelihood(bound.output(z[None])).log_prob(x[None])
            return (log_x + bound.prior.log_prob(z[None]))[0]

        hessian = -jax.hessian(log_joint)(mean) if curvature is None else curvature(bound, mean)
        constant = len(mean) / 2 * jnp.log(2 * jnp.pi)
        return log_joint(mean) + constant - 0.5 * jnp.linalg.slogdet(hessian)[1]

    return jax.jit(jax.vmap(of_one))(rows)


@pytest.mark.parametrize("prior", ["standard_normal", "decoupled"])
def test_it_is_the_evidence_of_a_linear_gaussian_model(prior):
    """Whatever the scale of q(z|x): only its mean counts."""
    for spread in (1.0, 3.0):
        model, variables, rows, exact = case(prior, spread)
        found = expansion(model, variables, rows, transform=scaled(SCALE))
        values, is_flattened = second_order_elbo(found)
        np.testing.assert_allclose(values, exact, atol=1e-4)
        assert not is_flattened.any()


def test_it_is_below_the_evidence_where_the_code_is_elsewhere():
    model, variables, rows, exact = case("standard_normal")
    bias = variables["params"]["posterior"]["Dense_0"]["bias"]
    bias[:2] += 0.5
    values, _ = second_order_elbo(expansion(model, variables, rows, transform=scaled(SCALE)))
    assert (values < exact - 0.1).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_linear_decoder_has_the_curvature_of_the_joint_density(likelihood):
    """Gauss-Newton is exact then; the prior is no Gaussian."""
    rows = (ROWS > 0).astype("f4") if likelihood.unit_interval else ROWS
    prior = Decoupled(CouplingFlow(DIM, num_blocks=2, width=4))
    model, variables = made(prior, likelihood, layers=1)
    params = variables["params"]  # a gentle flow: where it curves up, the Hessian is another
    params["prior"] = jax.tree.map(lambda leaf: 0.4 * leaf, params["prior"])
    found = expansion(model, variables, rows, transform=scaled(1.0))
    values, is_flattened = second_order_elbo(found)
    kept = np.flatnonzero(~is_flattened)
    assert len(kept) > 3
    expected = by_hand(model, variables, rows[kept])
    np.testing.assert_allclose(values[kept], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_curved_decoder_counts_by_its_jacobian_alone(likelihood):
    rows = (ROWS > 0).astype("f4") if likelihood.unit_interval else ROWS
    model, variables = made(StandardNormal(DIM), likelihood)

    def curvature(bound, mean):
        slope = jax.jacfwd(lambda z: bound.output(z[None])[0])(mean)
        noise = bound.likelihood(bound.output(mean[None])).distribution
        weight = noise.variance()[0] ** (1 if likelihood.unit_interval else -1)
        return jnp.eye(DIM) + slope.T @ (weight[:, None] * slope)

    expected = by_hand(model, variables, rows, curvature)
    np.testing.assert_allclose(elbo_of(model, variables, rows)[0], expected, rtol=1e-5, atol=1e-4)


def test_a_rotation_of_the_latent_space_changes_nothing():
    model, variables = made(StandardNormal(DIM), gaussian(3.0, "identity"))
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(DIM, DIM)))[0].astype("f4")
    params = jax.tree.map(np.copy, variables["params"])
    code, first = params["posterior"]["Dense_0"], params["decoder"]["first"]
    code["kernel"], code["bias"] = code["kernel"] @ turn, code["bias"] @ turn
    first["kernel"] = turn.T @ first["kernel"]
    before, after = elbo_of(model, variables)[0], elbo_of(model, {"params": params})[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)
    first["kernel"] = turn.T @ first["kernel"]
    assert np.abs(elbo_of(model, {"params": params})[0] - before).max() > 0.1


def test_where_the_prior_curves_up_it_counts_as_flat():
    model, variables = made(TwoHills(), gaussian(3.0, "identity"))
    found = expansion(model, variables, ROWS, transform=scaled(1.0))
    values, is_flattened = second_order_elbo(found)
    assert is_flattened.any()
    assert not is_flattened.all()
    for value, log_joint, prior, data, flat in zip(values, *found, is_flattened, strict=True):
        eigenvalues, vectors = np.linalg.eigh(np.asarray(prior, float))
        assert (eigenvalues.min() < 0) == flat
        lifted = vectors @ np.diag(np.maximum(eigenvalues, 0)) @ vectors.T
        log_det = np.linalg.slogdet(lifted + data)[1]
        expected = log_joint + DIM / 2 * np.log(2 * np.pi) - 0.5 * log_det
        assert value == pytest.approx(expected, abs=1e-4)


def test_it_depends_neither_on_the_batch_nor_on_other_examples():
    model, variables = made(StandardNormal(DIM), gaussian(3.0, "identity"))
    every = elbo_of(model, variables)[0]
    np.testing.assert_allclose(elbo_of(model, variables, batch_size=5)[0], every, rtol=1e-5)
    chosen = np.array([4, 2, 11])
    few = elbo_of(model, variables, ROWS[chosen], indices=chosen)[0]
    np.testing.assert_allclose(few, every[chosen], rtol=1e-5)


@pytest.mark.parametrize("posterior", ["deterministic", "diagonal_gaussian"])
def test_the_row_is_of_the_examples_of_the_importance_weighted_bound(posterior):
    one = subject_of(posterior=posterior, prior="standard_normal")
    one = dataclasses.replace(one, protocol=Protocol(importance_examples=7))
    found = metrics_of(one, ["approximate_elbo"])["approximate_elbo"]
    rows, given = one.dataset.splits["test"], {"transform": one.transform}
    every = second_order_elbo(expansion(one.model, one.variables, rows, **given))[0]
    assert found["value"] == pytest.approx(every[some(len(rows), 7)].mean(), rel=1e-5)
    assert "no bound" in found["protocol"]
    assert f"7 of {len(rows)} examples" in found["protocol"]


def test_many_dimensions_and_other_noise_are_one_line_and_left_out_of_all():
    class Heavy(nn.Module):
        unit_interval = False

        def __call__(self, output):
            noise = distrax.Laplace(output, jnp.ones_like(output))
            return distrax.Independent(noise, reinterpreted_batch_ndims=output.ndim - 1)

    one = subject_of(prior="standard_normal", latent_dim=65)
    with one_line("65 latent dimensions; at most 64"):
        metrics_of(one, ["approximate_elbo"])
    assert fitting(one, ["all"]) == [name for name in METRICS if name != "approximate_elbo"]
    other = subject_of(prior="standard_normal")
    assert "approximate_elbo" in fitting(other, ["all"])
    other = dataclasses.replace(other, model=other.model.clone(likelihood=Heavy()))
    with one_line("noise of p.x.z. is Laplace.*Gaussian.*Bernoulli"):
        metrics_of(other, ["approximate_elbo"])
