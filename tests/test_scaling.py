"""What many devices and large batches cost, as far as compiling tells it."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line, some_long

from vaejax.benchmark.communication import communication
from vaejax.benchmark.stepper import make_run
from vaejax.data.sources import dataset_from
from vaejax.objectives.divergences import (
    ESTIMATORS,
    KERNELS,
    log_aggregate_posterior_at,
    squared_mmd,
)
from vaejax.probability import distrax
from vaejax.training.feed import make_feed, mapped_steps
from vaejax.training.plan import lone_plan

WIDTHS = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter")


def compiled_collectives(config, num_devices):
    """Bytes of the results of all collectives in the compiled program of one step, by kind."""
    plan, devices = lone_plan(make_run(config, dataset_from(config))), jax.local_devices()
    devices = devices[:num_devices]
    supply = plan.supply(devices)
    program = mapped_steps(plan.train_step, devices, supply)
    first = next(make_feed(supply, supply.source_shape(devices), devices, [range(1)]))
    text = program.lower(plan.state_shapes(devices), *first.arguments).compile().as_text()
    total = dict.fromkeys(COLLECTIVES, 0)
    for results, kind in re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", text):
        for width, dims in re.findall(r"(\w+)\[([\d,]*)\]", results):
            total[kind] += WIDTHS[width] * math.prod(int(n) for n in dims.split(",") if n)
    return total


@pytest.mark.parametrize("regularizer", some_long(["none", "beta_tc", "factor", "info"], ["info"]))
def test_what_a_step_is_said_to_communicate_is_in_the_compiled_program(tiny, regularizer):
    config = tiny(regularizer=regularizer)
    config.steps_per_dispatch = 1
    said = communication(config, dataset_from(config), 4)
    found = compiled_collectives(config, 4)
    assert said.gathered == found["all-gather"]
    assert said.scattered == 4 * found["reduce-scatter"]
    # The compiler sums only once what two metrics share.
    assert 0 <= said.reduced - found["all-reduce"] <= 4 * 4
    assert (said.gathered > 0) == (regularizer != "none")


@pytest.mark.parametrize("regularizer", some_long(["none", "beta_tc", "factor", "info"], ["info"]))
def test_one_device_copies_nothing_in_the_name_of_others(tiny, regularizer):
    config = tiny(regularizer=regularizer)
    config.encoders.mlp.batch_norm = True
    config.steps_per_dispatch = 1
    assert sum(communication(config, dataset_from(config), 1)) == 0
    assert sum(communication(config, dataset_from(config), 2)) > 0
    assert set(compiled_collectives(config, 1).values()) == {0}


def test_gradients_cost_the_same_for_any_batch_and_codes_in_proportion_to_it(tiny):
    def of(batch_size, num_devices):
        config = tiny()
        config.batch_size = batch_size
        config.datasets.two_moons.num_train = 8192
        return communication(config, dataset_from(config), num_devices)

    small, large = of(24, 8), of(8192, 8)
    assert small.reduced == large.reduced
    assert large.gathered / small.gathered == large.scattered / small.scattered == 8192 / 24
    many = of(8192, 4096)
    assert many == large
    assert many.sent(1) == 0
    assert large.sent(8) < many.sent(4096) < 2 * large.sent(8)
    with one_line("batch_size 24 does not divide evenly over 7 devices"):
        of(24, 7)


def total_correlation(parameters, z, first, num, most):
    """The estimate for rows `first` on, of a batch of `num`."""
    log_weights = functools.partial(ESTIMATORS["mss"], batch_size=num, num_examples=10**6)
    log_prob, rows = distrax.Normal(*parameters).log_prob, first + jnp.arange(len(z))
    given = {} if most is None else {"most": most}
    joint, marginals = log_aggregate_posterior_at(z, rows, log_prob, log_weights, **given)
    return (joint - marginals.sum(axis=-1)).mean()


@pytest.mark.parametrize("most", [1, 7 * 24 * 3, 12 * 24 * 3])
def test_pairs_of_codes_taken_in_turn_give_the_same_value_and_gradient(key, most):
    keys = jax.random.split(key, 3)
    mean, log_scale, z = (jax.random.normal(each, (24, 3)) for each in keys)
    arguments = (mean, jnp.exp(log_scale)), z[5:17]  # of one of two devices, and a rest
    function = jax.value_and_grad(total_correlation, argnums=(0, 1))
    whole = function(*arguments, 5, 24, most=12 * 24 * 3)
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(function(*arguments, 5, 24, most)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("most", [1, 5 * 24 * 3])
def test_pairs_of_draws_taken_in_turn_give_the_same_value_and_gradient(key, most, unbiased):
    u, z = jax.random.normal(key, (2, 24, 3)) * jnp.array([1.0, 2.0])[:, None, None]
    function = jax.value_and_grad(discrepancy, argnums=(0, 1))
    whole, in_turn = (function(u, z[:17], unbiased, each) for each in (2**24, most))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(in_turn), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def discrepancy(u, z, unbiased, most=None):
    given = {} if most is None else {"most": most}
    return squared_mmd(u, z, KERNELS["imq"](u, z), unbiased, **given)


def test_the_memory_of_a_large_batch_grows_with_it_and_not_with_its_square():
    num, codes = 65_536, jax.ShapeDtypeStruct((65_536, 10), jnp.float32)

    def memory(function, *arguments):
        compiled = jax.jit(jax.grad(function, argnums=(0, 1))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for most in (None, 2**62):
        correlation = functools.partial(total_correlation, first=0, num=num, most=most)
        mmd = functools.partial(discrepancy, unbiased=False, most=most)
        for memory_ in memory(correlation, (codes, codes), codes), memory(mmd, codes, codes):
            assert memory_ < 2**30 if most is None else memory_ > num**2 * 10 * 4
