"""Methods are the sums of costs that their papers write, and agree where the papers say so."""

import functools
import zlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line, some_long
from flax import linen as nn

from vaejax.config import load_config
from vaejax.models.posteriors import POSTERIORS
from vaejax.models.priors import PRIORS
from vaejax.objectives.adversaries import permutation_critic_loss
from vaejax.objectives.costs import critic_total_correlation, decomposed_kl, kl, kl_capacity
from vaejax.objectives.costs import reconstruction as reconstruction_cost
from vaejax.objectives.divergences import ESTIMATORS, gaussian_kernel, squared_mmd
from vaejax.objectives.objective import loss_of
from vaejax.objectives.regularizers import make_method
from vaejax.types import Batch, Code, Terms

SIZE, NUM_EXAMPLES = 24, 96
with_density = [name for name, posterior in POSTERIORS.items() if posterior.has_density]


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():  # every program here runs once
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def method(prior, regularizer, row=(), **changes):
    """(model, objective) of the tiny config; `row` are pairs for the regularizer's row."""
    config = load_config("configs/tiny.py").unlock()
    config.update({"prior": prior, "regularizer": regularizer, **changes})
    config.regularizers[regularizer].update(dict(row))
    return make_method(config, (2,), NUM_EXAMPLES)


def batch() -> Batch:
    """The same batch at every call, with fresh keys: sharing a draw is meant, reuse is not."""
    rng = np.random.default_rng(0)
    x, pair = (rng.normal(size=(SIZE, 2)).astype("f4") for _ in range(2))
    return Batch(x, jax.random.split(jax.random.key(1), SIZE), jax.random.key(2), pair)


def drawn(model) -> dict:
    """Parameters, each a function of its path alone: methods that share a part share its values."""
    shapes = jax.eval_shape(
        functools.partial(model.init, method="touch"),
        jax.random.key(0),
        jnp.zeros((SIZE, 2)),
        jax.random.split(jax.random.key(0), SIZE),
    )

    def array(path, leaf):
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        scale = 0.3 if path[0].key == "prior" else 1.0
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(array, shapes["params"])


def evaluated(model, loss, step=3, params=None):
    """(metrics, gradients by group) of a loss at the drawn parameters."""

    def value(params):
        return nn.apply(loss, model)({"params": params}, batch(), jnp.int32(step))

    params = drawn(model) if params is None else params
    (total, metrics), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    if "elbo" in metrics:
        costs = [cost for name, cost in metrics.items() if name.startswith("cost/")]
        np.testing.assert_allclose([metrics["loss"], total], sum(costs), rtol=1e-5)
        terms = metrics["reconstruction"] + metrics["kl"]
        np.testing.assert_allclose(-metrics["elbo"], terms, rtol=1e-6)
    return metrics, grads


@functools.cache
def run(prior, regularizer, row=(), step=3, player="vae", **changes):
    model, objective = method(prior, regularizer, row, **changes)
    return evaluated(model, objective.players[player].loss, step)


def assert_equal(one, other, tolerance=2e-5):
    """Gradient trees agree to `tolerance` of their norm."""
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in jax.tree.leaves(other)))
    assert norm > 0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * norm)


def largest(tree) -> float:
    return max((float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)), default=0.0)


def decomposition(prior, posterior, estimator, weights=(1.0, 1.0, 1.0), log_det=True):
    """(parts, log q, log p, base density at g(z)) of `decomposed_kl` at one draw."""
    model, _ = method(prior, "none", posterior=posterior)
    cost = decomposed_kl(*weights, NUM_EXAMPLES, estimator, log_det)

    def parts(model, batch):
        terms = model(batch.x, batch.keys)
        z, prior, found = terms.code.z, model.prior, cost(model, terms, batch.key, 0)
        base = prior.base_log_prob(prior.to_base(z))
        return found, terms.code.log_q, prior.log_prob(z), base

    return jax.jit(nn.apply(parts, model))({"params": drawn(model)}, batch())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", with_density)
def test_mi_and_tc_and_dw_sum_to_log_q_minus_log_p(prior, posterior, estimator):
    parts, log_q, log_p, _ = decomposition(prior, posterior, estimator)
    assert all(abs(part) > 1e-3 for part in parts.values())
    np.testing.assert_allclose(sum(parts.values()), np.mean(log_q - log_p), rtol=1e-5)
    heavier, *_ = decomposition(prior, posterior, estimator, (1.0, 7.0, 1.0))
    expected = np.mean(log_q - log_p) + 6 * parts["total_correlation"]
    np.testing.assert_allclose(sum(heavier.values()), expected, rtol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_without_log_det_the_prior_is_its_base_density(prior):
    args = prior, "diagonal_gaussian", "mss"
    parts, _, log_p, base = decomposition(*args)
    without, *_ = decomposition(*args, log_det=False)
    change = without["dimension_kl"] - parts["dimension_kl"]
    np.testing.assert_allclose(change, np.mean(log_p - base), rtol=1e-4, atol=1e-5)
    assert (abs(change) > 0.1) == (prior == "decoupled")
    np.testing.assert_array_equal(without["total_correlation"], parts["total_correlation"])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(
    ("regularizer", "row"),
    [("info", (("alpha", 0.0), ("lambda_", 1.0))), ("beta_h", (("beta", 1.0),))],
)
def test_these_weights_give_the_plain_vae(prior, regularizer, row):
    metrics, grads = run(prior, regularizer, row)
    plain, plain_grads = run(prior, "none")
    np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], -metrics["elbo"], rtol=1e-6)
    assert_equal(grads, plain_grads)


def test_factor_without_weight_is_the_plain_vae_and_with_it_reaches_the_encoder():
    _, grads = run("decoupled", "factor", (("gamma", 0.0),))
    plain = run("decoupled", "none")[1]
    assert_equal({group: grads[group] for group in plain}, plain)
    _, heavier = run("decoupled", "factor", (("gamma", 10.0),))
    change = jax.tree.map(np.subtract, heavier["encoder"], grads["encoder"])
    assert largest(change) > 1e-3
    assert_equal(heavier["decoder"], grads["decoder"])


@pytest.mark.parametrize("prior", PRIORS)
def test_beta_b_without_capacity_is_gamma_times_the_kl(prior):
    metrics, grads = run(prior, "beta_b", (("capacity", 0.0), ("gamma", 5.0)))
    expected, expected_grads = run(prior, "beta_h", (("beta", 5.0),))
    assert metrics["kl"] > 0
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    assert_equal(grads, expected_grads)


@pytest.mark.parametrize(
    ("step", "target"), [(0, 0.0), (1, 0.5), (40, 20.0), (41, 20.0), (10**6, 20.0)]
)
def test_capacity_grows_linearly_and_stays(step, target):
    cost = kl_capacity(gamma=3.0, capacity=20.0, capacity_steps=40)
    for divergence in (np.array([4.0, 8.0]), np.array([-3.0, 1.0])):
        terms = Terms(jnp.zeros(2), jnp.array(divergence), None, None, None)
        value = cost(None, terms, None, jnp.int32(step))["kl_capacity"]
        np.testing.assert_allclose(value, 3 * abs(divergence.mean() - target), rtol=1e-6)


def test_published_sum_compares_the_summed_kl_with_the_capacity():
    row = (("capacity", 1_000.0), ("gamma", 2.0), ("capacity_steps", 4))
    for step, target in ((0, 0.0), (2, 500.0), (9, 1_000.0)):
        metrics, _ = run("decoupled", "beta_b", row, step, reduction="published_sum")
        summed = SIZE * metrics["kl"]
        np.testing.assert_allclose(metrics["cost/kl_capacity"], 2 * abs(summed - target), rtol=1e-5)


# The weight of the KL in the loss, and changes that make the KL's share linear.
KL_WEIGHTS = {
    "none": (1.0, ()),
    "beta_h": (5.0, (("beta", 5.0),)),
    "beta_b": (15.0, (("gamma", 15.0), ("capacity", 0.0))),
    "beta_tc": (0.0, ()),
    "factor": (1.0, ()),
    "info": (0.7, (("alpha", 0.3),)),
    "annealed": (0.8125, (("start", 0.25), ("steps", 4))),  # at step 3
    "free_bits": (1.0, (("nats", 0.0),)),
    **dict.fromkeys(("rae", "rae_l2", "rae_gp"), (0.5, (("beta", 0.5),))),
    **dict.fromkeys(("sparse", "contractive", "wae"), (0.0, ())),
}


@pytest.mark.parametrize("regularizer", some_long(KL_WEIGHTS, ("beta_b", "info", "rae")))
def test_published_sum_multiplies_reconstruction_and_kl_by_the_batch_size(regularizer):
    """... and nothing else: the gradients differ by B - 1 times those of the two."""
    weight, row = KL_WEIGHTS[regularizer]
    mean, mean_grads = run("decoupled", regularizer, row)
    summed, summed_grads = run("decoupled", regularizer, row, reduction="published_sum")
    for name in mean.keys() - {"loss"}:
        is_scaled = name in ("cost/reconstruction", "cost/kl", "cost/kl_capacity")
        expected = mean[name] * (SIZE if is_scaled else 1)
        np.testing.assert_allclose(summed[name], expected, rtol=1e-5, err_msg=name)
    model, _ = method("decoupled", regularizer, row)
    _, extra = evaluated(model, loss_of(reconstruction_cost, kl(weight)))
    assert_equal(summed_grads, jax.tree.map(lambda a, b: a + (SIZE - 1) * b, mean_grads, extra))


def test_mmd_compares_codes_with_prior_samples_in_representation_space():
    model, _ = method("decoupled", "none")

    def both(model, batch):
        z = model.encode(batch.x, batch.keys).z
        return z, model.prior.sample(jax.random.fold_in(batch.key, 2), SIZE)

    z, u = nn.apply(both, model)({"params": drawn(model)}, batch())
    # alpha = 1 takes the KL away, so that whatever reaches the flow came through its samples.
    metrics, grads = run("decoupled", "info", (("alpha", 1.0), ("lambda_", 3.0)))
    expected = 3 * squared_mmd(u, z, gaussian_kernel(4.0))
    np.testing.assert_allclose(metrics["cost/mmd"], expected, rtol=1e-4)
    assert metrics["cost/kl"] == 0
    assert largest(grads["prior"]) > 1e-4


def terms_of(z, **costs) -> Terms:
    code = Code(z, jnp.zeros(len(z)), z, None, costs)
    return Terms(jnp.arange(len(z), dtype=float), jnp.full(len(z), 2.0), code, None, None)


def test_equal_logits_mean_no_total_correlation_and_critic_loss_log_two():
    model, objective = method("decoupled", "factor")
    params = drawn(model)
    params["critic"] = jax.tree.map(np.zeros_like, params["critic"])
    metrics, _ = evaluated(model, objective.players["vae"].loss, params=params)
    assert metrics["cost/total_correlation"] == 0
    metrics, _ = evaluated(model, objective.players["critic"].loss, params=params)
    np.testing.assert_allclose(metrics["critic/loss"], np.log(2), rtol=1e-6)


def test_critic_that_knows_correlated_codes_is_right_and_reports_a_positive_correlation():
    z = np.random.default_rng(0).normal(size=(200, 1)).repeat(2, axis=1).astype("f4")

    def critic(z):
        sign = jnp.where(z[:, 0] == z[:, 1], 1.0, -1.0)
        return jnp.stack([4 * sign, -4 * sign], axis=1)

    model = SimpleNamespace(encode=lambda x, keys, train: terms_of(x).code, critic=critic)
    inputs = Batch(z, jax.random.split(jax.random.key(0), 200), jax.random.key(1), z[::-1])
    loss, metrics = permutation_critic_loss()(model, inputs, 0)
    assert metrics["critic/accuracy"] > 0.95
    assert loss < 0.3
    found = critic_total_correlation(3.0)(model, terms_of(z), None, 0)
    np.testing.assert_allclose(found["total_correlation"], 3 * 8)
    with pytest.raises(ValueError, match="second batch"):
        permutation_critic_loss()(model, inputs._replace(pair=None), 0)


def test_critic_loss_has_exactly_no_gradient_outside_the_critic():
    _, grads = run("decoupled", "factor", player="critic")
    others = {group: tree for group, tree in grads.items() if group != "critic"}
    assert largest(grads["critic"]) > 1e-3
    assert largest(others) == 0


def test_costs_of_the_posterior_join_the_loss_once():
    terms = terms_of(jnp.zeros((4, 2)), extra=jnp.array([1.0, 2.0, 3.0, 6.0]))
    total, metrics = loss_of(reconstruction_cost, kl(10.0))(lambda *args: terms, batch(), 0)
    np.testing.assert_allclose(total, 1.5 + 20 + 3)
    np.testing.assert_allclose([metrics["cost/extra"], metrics["elbo"]], [3, -3.5])


@pytest.mark.parametrize("costs", [[kl(), kl_capacity(1.0, 1.0, 1), kl(2.0)], [kl()]])
def test_two_costs_of_one_name_are_an_error(costs):
    terms = terms_of(jnp.zeros((4, 2)), kl=jnp.ones(4))
    with one_line("two costs are named 'kl'"):
        loss_of(*costs)(lambda *args: terms, batch(), 0)


def test_gamma_above_beta_warns_only_where_the_prior_does_not_factorize():
    row = (("beta", 4.0), ("gamma", 4.5))
    with pytest.warns(UserWarning, match=r"gamma 4\.5 > beta 4"):
        method("decoupled", "beta_tc", row)
    method("standard_normal", "beta_tc", row)  # a warning would be an error
    method("decoupled", "beta_tc", (("beta", 4.0), ("gamma", 4.0)))


def test_decomposition_without_a_posterior_density_is_an_error():
    with one_line(r"beta_tc.*diagonal_gaussian"):
        method("decoupled", "beta_tc", posterior="deterministic")
