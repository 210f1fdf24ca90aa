"""Penalties are the norms that their formulas write, and reach what they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line
from flax import linen as nn

from vaejax.config import default_config, load_config, raeify, with_preset
from vaejax.models.layers import Layers
from vaejax.models.networks import MLPDecoder
from vaejax.objectives.costs import kl
from vaejax.objectives.costs import reconstruction as reconstruction_cost
from vaejax.objectives.objective import loss_of
from vaejax.objectives.penalties import (
    GRADIENT_PENALTIES,
    contractive,
    decoder_l2,
    gradient_penalty,
    squared_jacobian,
)
from vaejax.objectives.regularizers import make_method
from vaejax.types import Batch

SIZE = 6


def method(regularizer, row=(), x_shape=(2,), **changes):
    config = load_config("configs/tiny.py").unlock()
    config.update(posterior="deterministic", prior="standard_normal", regularizer=regularizer)
    config.update(changes)
    config.regularizers[regularizer].update(dict(row))
    return make_method(config, x_shape, 96)


def batch(x_shape=(2,)) -> Batch:
    x = np.random.default_rng(0).normal(size=(SIZE, *x_shape)).astype("f4")
    return Batch(x, jax.random.split(jax.random.key(1), SIZE), jax.random.key(2))


def initial(model, x_shape=(2,)):
    given = jnp.zeros((SIZE, *x_shape)), jax.random.split(jax.random.key(0), SIZE)
    return model.init(jax.random.key(3), *given, method="touch")


def metrics_and_gradients(model, loss, step=0):
    variables = initial(model)
    rest = {name: value for name, value in variables.items() if name != "params"}

    def value(params):
        return nn.apply(loss, model)({**rest, "params": params}, batch(), step, False)

    (_, metrics), grads = jax.value_and_grad(value, has_aux=True)(variables["params"])
    return metrics, grads


def test_a_regularized_autoencoder_is_its_parts():
    """Deterministic code, N(0, I) and named penalties: no path of its own."""
    row = (("beta", 0.3), ("weight", 0.2))
    model, objective = method("rae_l2", row)
    metrics, grads = metrics_and_gradients(model, objective.players["vae"].loss)
    sum_of_costs = loss_of(reconstruction_cost, kl(0.3), decoder_l2(0.2))
    expected, expected_grads = metrics_and_gradients(model, sum_of_costs)
    jax.tree.map(np.testing.assert_array_equal, grads, expected_grads)
    code = nn.apply(lambda vae, x: vae.embed(x), model)(initial(model), batch().x)
    norm = 0.5 * np.sum(np.square(code), axis=1).mean() + code.shape[1] / 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(metrics["cost/kl"], 0.3 * norm, rtol=1e-5)


def test_the_gradient_of_the_rate_of_a_code_is_the_code():
    """... of -log N(z; 0, I), and of the exact KL of N(mean, s^2 I), whatever s."""
    for posterior in ("deterministic", "fixed_scale"):
        model, _ = method("rae", posterior=posterior)

        def rate(features, model=model):
            code = model.posterior(features, jax.random.split(jax.random.key(0), len(features)))
            return model.prior.kl(code, model.prior.log_prob(code.z)).sum(), code.mean

        width = initial(model)["params"]["posterior"]["Dense_0"]["kernel"].shape[0]
        features = np.random.default_rng(0).normal(size=(4, width)).astype("f4")
        apply = nn.apply(lambda vae, features: rate(features, vae), model)
        variables = initial(model)
        grads, mean = jax.grad(functools.partial(apply, variables), has_aux=True)(features)
        kernel = variables["params"]["posterior"]["Dense_0"]["kernel"]
        np.testing.assert_allclose(grads, mean @ kernel.T, rtol=1e-4, atol=1e-5)


def test_decoder_l2_moves_kernels_of_the_decoder_alone_by_twice_themselves():
    model, _ = method("rae")
    _, grads = metrics_and_gradients(model, loss_of(decoder_l2(0.5)))
    params = initial(model)["params"]
    for path, leaf in jax.tree.leaves_with_path(grads):
        is_kernel = path[0].key == "decoder" and path[-1].key == "kernel"
        at = functools.reduce(lambda tree, part: tree[part.key], path, params)
        np.testing.assert_allclose(leaf, at if is_kernel else 0 * at, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
def test_squared_jacobian_of_a_linear_map_is_its_squared_norm(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype("f4")
    points, keys = np.ones((500, shape[0]), "f4"), jax.random.split(jax.random.key(0), 500)
    norms = squared_jacobian(lambda z: z @ matrix, points, keys, "exact")
    np.testing.assert_allclose(norms, np.sum(matrix**2), rtol=1e-4)
    estimates = np.asarray(squared_jacobian(lambda z: z @ matrix, points, keys, probes=4))
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - np.sum(matrix**2)) < 4 * error
    expected = 2 * np.sum((matrix.T @ matrix) ** 2) / 4
    np.testing.assert_allclose(estimates.var(), expected, rtol=0.25)


def test_squared_jacobian_of_a_network_is_that_of_jax():
    net = MLPDecoder((4, 3), (9, 5))
    z = np.random.default_rng(0).normal(size=(SIZE, 3)).astype("f4")
    variables = net.init(jax.random.key(0), z)
    jacobians = jax.vmap(jax.jacobian(lambda one: net.apply(variables, one[None])[0]))(z)
    expected = np.sum(np.square(jacobians), axis=(1, 2, 3))
    keys = jax.random.split(jax.random.key(1), SIZE)
    found = squared_jacobian(functools.partial(net.apply, variables), z, keys, "exact")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def linear_model(slope=1.0):
    """(model, variables, W_f, W_g) of a linear autoencoder: x -> x W_f -> x W_f W_g."""
    config = load_config("configs/tiny.py").unlock()
    config.update(posterior="deterministic", prior="standard_normal", regularizer="rae")
    for kind in ("encoders", "decoders"):
        config[kind].mlp.update(leaky_slope=slope, widths=(4,))
    model, _ = make_method(config, (2,), 96)
    variables = initial(model)
    p = variables["params"]
    parts = [p["encoder"]["Dense_0"], p["posterior"]["Dense_0"]]
    outer = [p["decoder"][f"Dense_{k}"] for k in (0, 1)]
    products = [one["kernel"] @ other["kernel"] for one, other in (parts, outer)]
    return model, variables, *map(np.asarray, products)


def penalty(model, variables, cost):
    loss = nn.apply(loss_of(cost), model)
    return float(loss(variables, batch(), 0)[0])


def test_every_gradient_penalty_of_a_linear_autoencoder_has_its_closed_form():
    model, variables, f, g = linear_model()
    reconstructed = batch().x @ f @ g  # biases are zero at the start
    closed = {
        "jacobian": np.sum(g**2),
        "squared_output": np.mean(np.sum((2 * reconstructed @ g.T) ** 2, axis=1)),
        "input_gradient": np.sum((f @ g @ np.ones(2)) ** 2),
    }
    assert closed.keys() == GRADIENT_PENALTIES.keys()
    for variant, expected in closed.items():
        found = penalty(model, variables, gradient_penalty(0.5, variant, "exact"))
        np.testing.assert_allclose(found, 0.5 * expected, rtol=1e-4)
    found = penalty(model, variables, contractive(3.0, "exact"))
    np.testing.assert_allclose(found, 3 * np.sum(f**2), rtol=1e-4)


def test_hutchinson_penalties_are_unbiased():
    model, variables, f, g = linear_model()
    for cost, expected in ((gradient_penalty, g), (contractive, f)):
        estimates = penalty(model, variables, cost(1.0, probes=4000))
        np.testing.assert_allclose(estimates, np.sum(expected**2), rtol=0.1)


def test_derivatives_of_one_example_do_not_touch_another():
    """Batch norm, which couples a batch in training, is that of evaluation."""
    norm = {"mlp": {"widths": (8,), "leaky_slope": 0.01, "batch_norm": True}}
    model, _ = method("rae", encoders=norm, decoders=norm)
    variables = initial(model)
    penalty_of = loss_of(gradient_penalty(1.0, "jacobian", "exact"))
    loss = jax.jit(nn.apply(lambda vae, batch: penalty_of(vae, batch, 0, False), model))
    rng = np.random.default_rng(0)
    shifted = jax.tree.map(lambda leaf: leaf + rng.uniform(0.1, 1, leaf.shape), variables)
    alone = [
        loss(shifted, batch()._replace(x=batch().x[k : k + 1], keys=batch().keys[k : k + 1]))[0]
        for k in range(SIZE)
    ]
    np.testing.assert_allclose(loss(shifted, batch())[0], np.mean(alone), rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("encoder", [False, True])
def test_kernels_of_a_spectrally_normalized_decoder_come_to_have_norm_one(encoder):
    model, _ = method("rae_sn", (("encoder", encoder),))
    variables = initial(model)
    for _ in range(60):  # power iterations
        _, updated = nn.apply(
            lambda vae, x, keys: vae(x, keys, True), model, mutable=["batch_stats"]
        )(variables, batch().x, batch().keys)
        variables = {**variables, **updated}

    def features_and_output(vae, x):
        return vae.features(x), vae.decode(jnp.eye(2))

    # The first layer of a linear map's products: found by perturbing nothing but its input.
    stats, params = variables["batch_stats"], variables["params"]
    assert stats.keys() == ({"encoder", "decoder"} if encoder else {"decoder"})
    for part, layers in stats.items():
        for each in layers.values():
            (inner,) = each.values()
            for name, sigma in inner.items():
                layer, kind, what = name.split("/")
                if what == "sigma":
                    norm = np.linalg.norm(params[part][layer][kind], 2)
                    np.testing.assert_allclose(sigma, norm, rtol=1e-2)
    before = nn.apply(features_and_output, model)(variables, batch().x)
    doubled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 2 * leaf if path[0].key == "decoder" else leaf, params
    )
    after = nn.apply(features_and_output, model)({**variables, "params": doubled}, batch().x)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-4, atol=1e-5)  # scale is gone


@pytest.mark.parametrize("lowering", ["native", "matmul"])
def test_a_normalized_convolution_has_norm_one_as_a_matrix(lowering):
    layers = Layers(lowering, spectral_norm=True)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.leave(layers.halving(5)(layers.enter(x)))

    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f4")
    variables = Net().init(jax.random.key(0), x)
    for _ in range(60):
        _, updated = Net().apply(variables, x, mutable=["batch_stats"])
        variables = {**variables, **updated}
    kernel = variables["params"]["Conv_0"]["kernel"]
    norm = np.linalg.norm(np.asarray(kernel).reshape(-1, 5), 2)
    plain = nn.Conv(5, (4, 4), (2, 2), ((1, 1), (1, 1)))
    expected = plain.apply({"params": {"kernel": kernel / norm, "bias": jnp.zeros(5)}}, x)
    np.testing.assert_allclose(Net().apply(variables, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("regularizer", "row", "changes", "message"),
    [
        ("rae", (), {"prior": "decoupled"}, "shrink to a point.*fixed_scale"),
        ("rae_l2", (), {"prior": "decoupled"}, "shrink to a point"),
        ("none", (), {"prior": "decoupled"}, "shrink to a point"),
        ("beta_b", (), {"prior": "decoupled"}, "shrink to a point"),
        ("factor", (), {"prior": "decoupled"}, "shrink to a point"),
        ("info", (), {"prior": "decoupled"}, "shrink to a point"),
        ("sparse", (("decoder_l2_weight", 0.0),), {}, "sparse.decoder_l2_weight is 0.*positive"),
        ("contractive", (("decoder_l2_weight", 0.0),), {}, "contractive.decoder_l2_weight is 0"),
        ("rae_gp", (("variant", "jacobean"),), {}, "did you mean 'jacobian'"),
        ("rae_gp", (("estimator", "exakt"),), {}, "did you mean 'exact'"),
        ("wae", (("kernel", "imk"),), {}, "did you mean 'imq'"),
        ("annealed", (("shape", "linea"),), {}, "did you mean 'linear'"),
        ("annealed", (("beta", 0.0), ("start", 1.0)), {"prior": "decoupled"}, "shrink to a point"),
    ],
)
def test_what_would_be_unbounded_or_unknown_is_refused(regularizer, row, changes, message):
    with one_line(message):
        method(regularizer, row, **changes)


@pytest.mark.parametrize("regularizer", ["rae", "wae"])
def test_what_bounds_the_codes_is_allowed_with_a_learned_prior(regularizer):
    method(regularizer, (("beta", 0.0),) if regularizer == "rae" else (), prior="decoupled")
    method("rae", posterior="fixed_scale", prior="decoupled")


def test_beta_beside_a_learned_noise_warns():
    with pytest.warns(UserWarning, match="beta 0.5 beside a learned"):
        method("rae", (("beta", 0.5),), likelihood="learned_gaussian")
    method("rae", (("beta", 1.0),), likelihood="learned_gaussian")  # a warning would be an error


@pytest.mark.parametrize("regularizer", ["rae", "rae_l2", "rae_gp", "rae_sn"])
def test_raeify_changes_the_method_and_nothing_else(regularizer):
    config = load_config("configs/digits.py")
    changed = raeify(config, regularizer)
    kept = [key for key in config if config[key] == changed[key]]
    assert {*config} - {*kept} == {"posterior", "prior", "regularizer", "regularizers"}
    w = config.likelihoods.gaussian.mse_weight
    row, default = changed.regularizers[regularizer], default_config().regularizers[regularizer]
    assert row.beta == w * default.beta
    assert raeify(changed, regularizer) == changed
    assert with_preset(config.unlock(), f"raeify/{regularizer}") == changed
    make_method(changed, (8, 8, 1), 1_500)


def test_raeify_takes_regularizers_of_deterministic_codes_alone():
    with one_line("beta_h.*rae_sn"):
        raeify(default_config(), "beta_h")
