"""In bfloat16 the trunks compute in it, and all else is float32 as ever."""

import functools

import jax
import jax.numpy as jnp
import pytest
from conftest import one_line, some_long
from test_step import Run

from vaejax.config import default_config, load_config, overridden, validate
from vaejax.models.likelihoods import event_log_prob
from vaejax.models.vae import initial_variables
from vaejax.training.step import gradients

PRODUCTS = ("dot_general", "conv_general_dilated")
# Of the mean loss in float32, at initialization: three times the largest of 24 seeds and the two
# likelihoods.  For mnist and mnist_factor it is 0.0002, for celeba, the deepest, 0.012.
LOSS_TOLERANCES = {"mlp": 0.0075, "conv": 0.0006, "svhn": 0.001}
KL_TOLERANCE = 0.08  # of the mean KL, for all trunks


def run_of(name, dtype="bfloat16", **values):
    """A run whose critic is a player of its own, on images of 32 x 32."""
    config = load_config("configs/tiny.py:svhn").unlock()
    config.update(encoder=name, decoder=name, compute_dtype=dtype, batch_size=4)
    config.update({"regularizer": "factor", "ema_decay": 0.9, **values})
    return Run(config)


def inputs(run):
    """(variables, x, keys, z) as shapes."""

    def drawn():
        batch = run.batch()
        z = jnp.zeros((len(batch.x), run.config.latent_dim))
        return run.state().variables(), batch.x, batch.keys, z

    return jax.eval_shape(drawn)


def equations(jaxpr):
    """All of them, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def float_types(function, *arguments):
    """Of all that `function` takes, computes and gives."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    values = {value.aval for part in (jaxpr, *equations(jaxpr)) for value in part.invars}
    values |= {value.aval for part in (jaxpr, *equations(jaxpr)) for value in part.outvars}
    return {str(value.dtype) for value in values if jnp.issubdtype(value.dtype, jnp.floating)}


def products(function, *arguments):
    """Types of the operands of all matrix products and convolutions."""
    found = equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    operands = [equation.invars for equation in found if equation.primitive.name in PRODUCTS]
    return [str(value.aval.dtype) for pair in operands for value in pair]


def slope(model, method):
    """The gradient of the sum of what `method` gives, in training."""

    def total(params, variables, *arguments):
        values, _ = model.apply(
            {**variables, "params": params},
            *arguments,
            train=True,
            method=method,
            mutable=["batch_stats"],
        )
        return values.sum()

    return lambda variables, *given: jax.grad(total)(variables["params"], variables, *given)


@pytest.mark.parametrize("lowering", ["native", "matmul"])
@pytest.mark.parametrize("name", ["mlp", "conv", "svhn", "celeba"])
def test_products_of_the_trunks_alone_are_in_bfloat16(name, lowering):
    """Forward and back; what they hand on is float32."""
    run = run_of(name, convolutions=lowering)
    variables, x, keys, z = inputs(run)
    num_forward = 0
    for method, given in (("features", x), ("output", z)):

        def part(variables, given, method=method):
            return run.model.apply(variables, given, method=method)

        forward = products(part, variables, given)
        backward = products(slope(run.model, method), variables, given)
        assert jax.eval_shape(part, variables, given).dtype == jnp.float32
        assert len(backward) > len(forward) > 0
        assert {*forward, *backward} == {"bfloat16"}
        num_forward += len(forward)
    whole = products(run.model.apply, variables, x, keys)
    assert whole.count("bfloat16") == num_forward
    assert set(whole) == {"bfloat16", "float32"}


@pytest.mark.parametrize("likelihood", ["gaussian", "learned_gaussian", "bernoulli"])
def test_everything_but_the_trunks_is_in_float32(likelihood):
    """Posterior, prior, the log-determinant of its flow, likelihood and critic."""
    run = run_of("conv", likelihood=likelihood)
    variables, x, keys, z = inputs(run)

    def rest(vae, features, output, x, keys):
        code = vae.posterior(features, keys)
        log_det = vae.prior.flow.bijector().inverse_and_log_det(code.z)[1]
        kl = vae.prior.kl(code, vae.prior.log_prob(code.z))
        log_likelihood = event_log_prob(vae.likelihood(output), x)
        return code.z, code.log_q, log_det, kl, log_likelihood, vae.critic(code.z)

    def computed(variables, *given):
        return run.model.apply(variables, *given, method=rest)

    def trunk(name, *given):
        return jax.eval_shape(lambda *given: run.model.apply(*given, method=name), *given)

    given = trunk("features", variables, x), trunk("output", variables, z), x, keys
    assert float_types(computed, variables, *given) == {"float32"}
    terms = jax.eval_shape(
        lambda *given: run.model.apply(*given)._replace(code=0), *inputs(run)[:3]
    )
    assert {str(leaf.dtype) for leaf in (terms.reconstruction, terms.kl)} == {"float32"}


@pytest.mark.parametrize("name", ["mlp", "svhn"])
def test_what_a_step_keeps_and_reports_is_in_float32(name):
    """Parameters, optimizers, statistics, averages and metrics; and the gradients."""
    run = run_of(name)
    state, batch = jax.eval_shape(run.state), jax.eval_shape(run.batch)
    after = jax.eval_shape(run.step, state, *run.rows(0))
    computed = [state, after]
    for player in run.players.values():
        grads = functools.partial(gradients, run.model, player)
        computed.append(jax.eval_shape(grads, state, batch._replace(pair=batch.x)))
    kept = [leaf for leaf in jax.tree.leaves(computed) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(kept) > len(jax.tree.leaves(state.params)) * 6
    assert {str(leaf.dtype) for leaf in kept} == {"float32"}
    assert "bfloat16" in float_types(run.step, state, *run.rows(0))


@pytest.mark.parametrize("lowering", ["native", "matmul"])
@pytest.mark.parametrize("name", ["mlp", "conv", "svhn"])
def test_by_default_a_step_is_in_float32_from_end_to_end(name, lowering):
    run = run_of(name, default_config().compute_dtype, convolutions=lowering)
    assert float_types(run.step, jax.eval_shape(run.state), *run.rows(0)) == {"float32"}


@pytest.mark.parametrize("name", some_long(LOSS_TOLERANCES, ["mlp"]))
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_losses_differ_by_rounding_alone(name, likelihood):
    models = [
        run_of(name, dtype, likelihood=likelihood, regularizer="none").model
        for dtype in ("float32", "bfloat16")
    ]
    x_shape = (32, 32, 3)

    @jax.jit
    def losses(variables, x, keys):
        training = {"train": True, "mutable": ["batch_stats"]}
        both = [
            model.apply(variables, x, jax.random.clone(keys), **training)[0] for model in models
        ]
        return jnp.array([[terms.reconstruction.mean(), terms.kl.mean()] for terms in both])

    for seed in range(4):
        params, stats = initial_variables(models[0], jax.random.key(seed), x_shape)
        x_key, *keys = jax.random.split(jax.random.key(100 + seed), 9)
        x = jax.random.uniform(x_key, (8, *x_shape))
        variables = {"params": params, "batch_stats": stats}
        exact, rounded = losses(variables, x, jnp.stack(keys))
        assert 0 < abs(sum(rounded) / sum(exact) - 1) < LOSS_TOLERANCES[name]
        assert 0 < abs(rounded[1] / exact[1] - 1) < KL_TOLERANCE


@pytest.mark.parametrize(
    ("key", "given", "right"),
    [
        ("convolutions", "matmull", "matmul"),
        ("convolutions", "Native", "native"),
        ("compute_dtype", "bf16", "bfloat16"),
        ("compute_dtype", "float16", "bfloat16"),
        ("compute_dtype", "float3", "float32"),
    ],
)
def test_an_unknown_way_to_compute_is_an_error_that_offers_the_nearest(key, given, right):
    config = default_config().unlock()
    config[key] = given
    with one_line(f"unknown {key} '{given}'; did you mean '{right}'"):
        validate(config)
    with one_line(f"unknown {key} '{given}'; did you mean '{right}'"):
        overridden(default_config(), [f"--config.{key}={given}"])
