"""Operations are those that a convolution of ones counts; steps timed are those of training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line

from vaejax.benchmark.estimate import cost_estimate, estimate_text, num_parameters, quantity
from vaejax.benchmark.measure import alternating, benchmark, rates
from vaejax.benchmark.operations import operations, step_operations
from vaejax.benchmark.report import lines, markdown, table
from vaejax.benchmark.startup import startup_seconds
from vaejax.benchmark.stepper import compilation, make_run, our_stepper
from vaejax.config import load_config
from vaejax.data.batches import batch_rows
from vaejax.data.sources import dataset_from
from vaejax.training.plan import lone_plan

# Sides, features, kernel, and how it is applied; transposed and gradient convolutions dilate.
CONVOLUTIONS = [
    ((7, 7), (3, 5), (3, 3), {"window_strides": (1, 1), "padding": "VALID"}),
    ((8, 6), (3, 5), (4, 4), {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))}),
    ((4, 5), (2, 3), (4, 4), {"padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 2)}),
    ((9, 9), (2, 3), (3, 2), {"padding": ((0, 1), (2, 0)), "rhs_dilation": (2, 3)}),
    ((6, 6), (4, 6), (3, 3), {"padding": "SAME", "feature_group_count": 2}),
    ((6, 6), (4, 6), (3, 3), {"padding": "SAME", "batch_group_count": 2}),
]


def convolution(x, kernel, how):
    given = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **how}
    return jax.lax.conv_general_dilated(x, kernel, **given)


def ones_of(side, features, taps, how):
    groups = how.get("feature_group_count", 1)
    return jnp.ones((4, *side, features[0])), jnp.ones((*taps, features[0] // groups, features[1]))


@pytest.mark.parametrize(("side", "features", "taps", "how"), CONVOLUTIONS)
def test_a_convolution_of_ones_sums_to_the_pairs_that_meet(side, features, taps, how):
    x, kernel = ones_of(side, features, taps, how)
    pairs = int(convolution(x, kernel, how).sum())
    assert operations(lambda x, k: convolution(x, k, how), x, kernel) == 2 * pairs


@pytest.mark.parametrize(("side", "features", "taps", "how"), CONVOLUTIONS)
def test_each_gradient_of_a_convolution_costs_what_the_convolution_does(side, features, taps, how):
    x, kernel = ones_of(side, features, taps, how)

    def loss(x, kernel):
        return (convolution(x, kernel, how) ** 2).sum()

    forward = operations(loss, x, kernel)
    assert forward > 0
    assert operations(jax.grad(loss, argnums=1), x, kernel) == 2 * forward
    assert operations(jax.grad(loss, argnums=(0, 1)), x, kernel) == 3 * forward


@pytest.mark.parametrize("formula", ["ij,jk->ik", "bij,bkj->bik", "bijc,cjd->bid", "i,i->"])
def test_a_product_of_ones_sums_to_the_pairs_that_meet(formula):
    sizes = {"b": 3, "i": 4, "j": 5, "k": 6, "c": 2, "d": 7}
    inputs = formula.partition("->")[0].split(",")
    arrays = [jnp.ones([sizes[letter] for letter in letters]) for letters in inputs]
    pairs = int(jnp.einsum(formula, *arrays).sum())
    assert operations(lambda *a: jnp.einsum(formula, *a), *arrays) == 2 * pairs


def test_loops_branches_and_calls_count_what_runs_in_them():
    a = jnp.ones((4, 4))
    one = operations(jnp.dot, a, a)

    def turns(a):
        return jax.lax.scan(lambda b, _: (b @ a, None), a, length=5)[0]

    def branch(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a)

    def unknown_turns(a):
        return jax.lax.while_loop(lambda b: b.sum() < 9, lambda b: b @ a, a)

    assert operations(turns, a) == 5 * one
    assert operations(branch, a) == 2 * one
    assert operations(jax.checkpoint(jax.jit(jnp.dot)), a, a) == one
    with one_line("known number of turns"):
        operations(unknown_turns, a)


def test_a_dense_autoencoder_costs_three_passes_less_the_gradient_of_x(tiny):
    config = tiny("standard_normal", "none")
    config.encoders.mlp.widths, config.decoders.mlp.widths = (7, 5), (6,)
    forward = [2 * 7, 7 * 5, 5 * 2 * 2, 2 * 6, 6 * 2]  # layers, from x over (mean, scale) to x
    likelihood = 2 * 2  # its sum over x is a product with ones, forward and backward
    expected = 2 * config.batch_size * (3 * sum(forward) - forward[0] + likelihood)
    assert step_operations(config, dataset_from(config)) == expected


@pytest.mark.parametrize("name", ["mnist", "svhn", "celeba"])
def test_operations_are_the_same_for_every_lowering_and_grow_with_the_batch(name):
    config = load_config(f"configs/tiny.py:{name}").unlock()
    config.prior, config.regularizer = "standard_normal", "none"
    dataset = dataset_from(config)
    counts = []
    for config.convolutions, config.batch_size in (("native", 4), ("matmul", 4), ("auto", 8)):
        counts.append(step_operations(config, dataset))
    assert counts[1] == counts[0]
    assert counts[2] == 2 * counts[0]


@pytest.mark.long
@pytest.mark.parametrize("regularizer", ["none", "factor"])  # of one batch, and of two
def test_timed_steps_are_training_steps_and_compilation_takes_none(tiny, regularizer):
    config = tiny("standard_normal", regularizer)
    dataset = dataset_from(config)
    run, devices = make_run(config, dataset), jax.local_devices()[:1]
    stepper = our_stepper(config, dataset, devices)
    compilation(stepper.plan, devices)
    assert stepper.run(2) > 0
    state, step = run.start(), jax.jit(run.train_step(None, {}))
    streams = (0,) if regularizer == "none" else (0, 1)
    for number in range(2):
        state, _ = step(state, *batch_rows(dataset, 0, number, config.batch_size, streams))
    assert int(stepper.state.step) == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        dict(stepper.state.params),
        dict(state.params),
    )


def test_compile_time_is_measured_without_the_persistent_cache(tiny, tmp_path):
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    config = tiny("standard_normal", "none")
    plan = lone_plan(make_run(config, dataset_from(config)))
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        compilation(plan, jax.local_devices()[:1])
        assert not list(tmp_path.iterdir())
        jax.jit(lambda x: x * 3.25)(1.0)
        assert list(tmp_path.iterdir())  # it is on again
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_runners_take_turns_and_the_warm_up_does_not_count():
    calls = []

    class Counter:
        def __init__(self, name):
            self.name = name

        def run(self, num_steps):
            calls.append((self.name, num_steps))
            return float(len(calls))

    seconds = alternating({"a": Counter("a"), "b": Counter("b")}, 3, 7)
    assert calls[2:] == [("a", 7), ("b", 7)] * 3
    assert list(seconds["a"]) == [3, 5, 7]
    assert list(seconds["b"]) == [4, 6, 8]


def test_rates_agree_with_each_other():
    found = rates(np.array([2.0, 4.0, 8.0]), 10, 50, operations=300, roofline=1500.0)
    assert found["seconds_per_step"] == {"median": 0.4, "min": 0.2, "max": 0.8}
    assert found["examples_per_second"]["median"] == 50 / 0.4
    assert found["steps_per_second"]["max"] == 1 / 0.2
    assert found["operations_per_second"] == 300 / 0.4
    assert found["share_of_roofline"] == found["operations_per_second"] / 1500


def test_an_estimate_counts_the_parameters_that_training_has(tiny):
    config = tiny("decoupled", "factor")
    dataset = dataset_from(config)
    state = make_run(config, dataset).start()
    leaves = jax.tree.leaves(state.params)
    assert sum(num_parameters(config, dataset).values()) == sum(leaf.size for leaf in leaves)
    estimate = cost_estimate(config, dataset, jax.local_devices()[:2])
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert estimate["memory"]["arguments"] >= arrays + dataset.splits["train"].nbytes
    text = estimate_text(estimate)
    assert f"{sum(leaf.size for leaf in leaves):,} parameters" in text
    assert quantity(estimate["operations_per_step"], "FLOP") in text
    assert "on each device" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.814e9, "2.81 GB"), (5e23, "5e+05 EB")],
)
def test_quantities_have_three_digits(value, text):
    assert quantity(value, "B") == text


@pytest.mark.long
def test_a_benchmark_is_json_and_every_number_of_it_is_in_the_tables(tiny):
    config = tiny("decoupled", "beta_tc")
    result = benchmark(config, rounds=2, num_steps=2, startup=False)
    assert json.loads(json.dumps(result)) == result
    achieved = result["operations_per_step"] / result["ours"]["seconds_per_step"]["median"]
    roofline = result["roofline"]["operations_per_second"]
    assert result["ours"]["share_of_roofline"] == pytest.approx(achieved / roofline)
    shown = dict(lines(result))
    assert shown["parameters"] == f"{sum(result['parameters'].values()):,}"
    assert table(result).row_count == len(shown)
    rows = markdown([("tiny", result), ("again", result)]).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 4


def test_bad_input_is_one_line(tiny):
    config = tiny()
    with one_line("'tensorflow'.*torch"):
        benchmark(config, against="tensorflow", startup=False)
    with one_line("0 rounds"):
        benchmark(config, rounds=0, startup=False)


def test_a_run_that_takes_no_step_is_an_error_with_its_reason(tiny):
    config = tiny()
    config.dataset = "arrays"
    with one_line("no step .*datasets.arrays.path"):
        startup_seconds(config)
