"""Evaluation is exact over a split, and the same for any batch size."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax.data.sources import dataset_from
from vaejax.data.transforms import scaled
from vaejax.evaluation.aggregate import aggregate_log_density
from vaejax.evaluation.costs import split_costs
from vaejax.evaluation.evaluate import evaluate
from vaejax.evaluation.latent import codes, density_grid
from vaejax.models.vae import initial_variables, make_model
from vaejax.objectives.regularizers import make_method
from vaejax.parallel import example_keys
from vaejax.reporting.run import prior_samples
from vaejax.training.state import EVALUATE, initial_state, stream_key
from vaejax.training.validation import in_blocks, make_split_terms, means


@pytest.fixture(scope="module")
def method():
    """Model, players, state, data and config of an untrained tiny run."""
    config = vaejax.load_config("configs/tiny.py").unlock()
    config.regularizer = "factor"
    data = dataset_from(config)
    model, objective = make_method(config, data.x_shape, len(data.splits["train"]))
    state = initial_state(model, objective.players, 0, data.x_shape)
    return model, objective.players, state, data, config


@pytest.mark.parametrize("batch_size", [1, 7, 39, 40, 500])
def test_terms_of_a_split_do_not_depend_on_the_batch_size(method, batch_size):
    model, _, state, data, _ = method
    rows = data.splits["test"]
    whole = make_split_terms(model, transform=scaled(1.0), seed=0)(state.variables(), rows)
    parts = make_split_terms(model, transform=scaled(1.0), seed=0, batch_size=batch_size)
    for name, values in parts(state.variables(), rows).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-5)


def test_terms_of_an_example_do_not_depend_on_the_others(method):
    model, _, state, data, _ = method
    split_terms = make_split_terms(model, transform=scaled(1.0), seed=0)
    rows = data.splits["test"]
    all_terms = split_terms(state.variables(), rows)
    first_ten = split_terms(state.variables(), rows[:10])
    for name, values in first_ten.items():
        np.testing.assert_allclose(values, all_terms[name][:10], rtol=1e-5, atol=1e-5)


def test_elbo_is_minus_reconstruction_minus_kl_and_means_are_exact(method):
    model, _, state, data, _ = method
    terms = make_split_terms(model, transform=scaled(1.0), seed=0)(
        state.variables(), data.splits["test"]
    )
    found = means(terms)
    assert found["elbo"] == pytest.approx(-found["reconstruction"] - found["kl"], rel=1e-6)
    assert found["kl"] == pytest.approx(sum(terms["kl"].tolist()) / len(terms["kl"]), rel=1e-12)


def test_costs_sum_to_the_loss_and_leave_out_only_the_incomplete_block(method):
    model, players, state, data, config = method
    values, size = split_costs(
        model, players, state, data.splits["test"], batch_size=12, transform=scaled(1.0), seed=0
    )
    assert size == 12
    assert all(len(per_block) == 40 // 12 for per_block in values.values())
    costs = sum(v for name, v in values.items() if name.startswith("cost/"))
    np.testing.assert_allclose(costs, values["loss"], rtol=1e-5)
    assert {"critic/loss", "critic/accuracy"} <= values.keys()


def test_costs_do_not_depend_on_what_is_left_over(method):
    model, players, state, data, _ = method
    settings = {"batch_size": 12, "transform": scaled(1.0), "seed": 0}
    rows = data.splits["test"]
    values, _ = split_costs(model, players, state, rows, **settings)
    fewer, _ = split_costs(model, players, state, rows[:36], **settings)
    for name in values:
        np.testing.assert_array_equal(values[name], fewer[name])


def test_base_codes_are_codes_through_the_flow(method):
    model, _, state, data, _ = method
    drawn = codes(model, state.variables(), data.splits["test"], transform=scaled(1.0), seed=0)
    back = model.apply(state.variables(), drawn.z0, method=lambda vae, z0: vae.prior.from_base(z0))
    np.testing.assert_allclose(back, drawn.z, atol=1e-4)
    assert not np.allclose(drawn.z, drawn.z0)


@pytest.mark.parametrize("batch_size", [1, 7, 39, 40, 500])
def test_codes_do_not_depend_on_the_batch_size(method, batch_size):
    model, _, state, data, _ = method
    rows, settings = data.splits["test"], {"transform": scaled(1.0), "seed": 0}
    drawn = codes(model, state.variables(), rows, **settings, batch_size=batch_size)
    keys = example_keys(stream_key(0, EVALUATE), jnp.arange(len(rows)))
    code = model.apply(state.variables(), jnp.asarray(rows), keys, method="encode")
    z0 = model.apply(state.variables(), code.z, method=lambda vae, z: vae.prior.to_base(z))
    expected = (code.z, z0, code.mean, code.q.stddev())
    for found, whole in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


def test_codes_are_the_components_of_the_aggregate_posterior(method):
    """A component alone has the density of its own code; all together are their mean."""
    model, _, state, data, _ = method
    variables, rows = state.variables(), data.splits["test"]
    drawn = codes(model, variables, rows, transform=scaled(1.0), seed=0)
    keys = example_keys(stream_key(0, EVALUATE), jnp.arange(len(rows)))
    code = model.apply(variables, jnp.asarray(rows), keys, method="encode")
    alone = [
        aggregate_log_density(*(a[i : i + 1] for a in drawn[::2]), drawn.scale[i : i + 1])
        for i in range(3)
    ]
    np.testing.assert_allclose(np.ravel(alone), code.log_q[:3], rtol=1e-4, atol=1e-4)
    every = code.q.log_prob(drawn.z[:, None])  # (P, N)
    expected = np.log(np.mean(np.exp(np.asarray(every, np.float64)), axis=1))
    density = aggregate_log_density(drawn.z, drawn.mean, drawn.scale)
    np.testing.assert_allclose(density, expected, rtol=1e-4, atol=1e-4)


def test_codes_without_a_density_have_no_scale(method):
    *_, data, config = method
    config = config.copy_and_resolve_references()
    config.posterior, config.prior, config.regularizer = "deterministic", "standard_normal", "none"
    model = make_model(config, data.x_shape)
    params, stats = initial_variables(model, jax.random.key(0), data.x_shape)
    variables = {"params": params, "batch_stats": stats}
    drawn = codes(model, variables, data.splits["test"], transform=scaled(1.0), seed=0)
    assert drawn.scale is None
    np.testing.assert_array_equal(drawn.z, drawn.mean)


def test_a_block_is_fetched_once_the_next_one_runs_and_before_a_third():
    events = []

    class Result:
        def __init__(self, indices):
            self.indices = indices
            events.append(f"start {indices[0]}")

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.indices[0]}")
            return self.indices

    blocks = in_blocks(lambda rows, indices: Result(indices), np.zeros(8), 3)
    found = [(values.tolist(), done) for values, done in blocks]
    assert found == [([0, 1, 2], 3), ([3, 4, 5], 6), ([6, 7], 8)]
    order = ["start 0", "start 3", "fetch 0", "start 6", "fetch 3", "fetch 6"]
    assert events == order


@pytest.mark.parametrize("base", [False, True])
def test_the_density_grid_holds_nearly_all_of_the_prior(method, base):
    model, _, state, data, _ = method
    drawn = codes(model, state.variables(), data.splits["test"], transform=scaled(1.0), seed=0)
    points = drawn.z0 if base else drawn.z
    x, y, log_density = density_grid(model, state.variables(), points, base=base)
    mass = np.exp(log_density).sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert 0.97 < mass < 1.005


def test_samples_are_decoded_draws_of_the_prior_through_the_flow(method):
    model, _, state, _, _ = method
    variables = state.variables()
    samples = prior_samples(model, variables, 50, seed=0)
    again = prior_samples(model, variables, 50, seed=0)
    other = prior_samples(model, variables, 50, seed=0, draw=1)
    np.testing.assert_array_equal(samples["x"], again["x"])
    assert not np.allclose(samples["x"], other["x"])
    decoded = model.apply(variables, samples["z"], method="decode")
    np.testing.assert_allclose(samples["x"], decoded, atol=1e-5)
    from_base = lambda vae, z0: vae.prior.from_base(z0)  # noqa: E731
    z = model.apply(variables, samples["z0"], method=from_base)
    np.testing.assert_allclose(samples["z"], z, atol=1e-4)


@pytest.mark.long
def test_evaluation_refuses_other_data_and_keeps_the_old_result(method, tmp_path):
    _, _, _, data, config = method
    vaejax.fit(config, tmp_path, quiet=True)
    result = evaluate(tmp_path, importance_samples=3)
    before = (tmp_path / "evaluation.json").read_bytes()
    shifted = {name: rows + 1 for name, rows in data.splits.items()}
    with pytest.raises(ValueError, match="other data"):
        evaluate(tmp_path, replace(data, splits=shifted))
    assert (tmp_path / "evaluation.json").read_bytes() == before
    metrics = result["metrics"]
    assert metrics["importance_weighted_nll"]["value"] < -metrics["elbo"]["value"]
    assert jax.tree.all(jax.tree.map(lambda value: value is not None, metrics["elbo"]))
