"""One program on any number of devices: the device count changes nothing but rounding."""

import functools
import gc
import os
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FEW_PAIRS, PAIRS, one_line, some_long

from vaejax.config import load_config
from vaejax.data.batches import batch_rows
from vaejax.data.sources import dataset_from
from vaejax.data.transforms import scaled
from vaejax.objectives.divergences import ESTIMATORS, permuted_dims
from vaejax.objectives.regularizers import make_method
from vaejax.parallel import (
    AXIS,
    averaged,
    example_keys,
    gathered,
    local_rows,
    placed,
    pmapped,
    positions,
    usable_devices,
)
from vaejax.training.state import TRAIN, initial_state, stream_key
from vaejax.training.step import gradients, make_batch

BATCH_COUPLED = ("beta_b", "beta_tc", "factor", "info", "free_bits", "wae")
STEP = 3  # not 0, so that beta_b has a capacity and keys are folded


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """Compile fast, not well: the programs here run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def shard(array, count):
    return array.reshape(count, -1, *array.shape[1:])


def all_gradients(config, dataset, axis_name):
    """`(state, rows, pair_rows) -> {player: (gradients, metrics, statistics)}`."""
    num_examples = len(dataset.splits["train"])
    model, objective = make_method(config, dataset.x_shape, num_examples, axis_name)
    root = stream_key(config.seed, TRAIN)

    def function(state, rows, pair_rows):
        def batch():  # fresh keys for every player: sharing a draw is meant, reuse is not
            return make_batch(
                rows,
                pair_rows,
                transform=scaled(dataset.scale),
                root=root,
                step=state.step,
                axis_name=axis_name,
            )

        return {
            name: gradients(model, player, state, batch(), axis_name)
            for name, player in objective.players.items()
        }

    return function


def on_devices(config, dataset, state, rows, pair_rows, count):
    """What `count` simulated devices say; plain jit for None.  The first device's copy."""
    if count is None:
        return jax.device_get(jax.jit(all_gradients(config, dataset, None))(state, rows, pair_rows))
    devices = jax.local_devices()[:count]
    mapped = pmapped(all_gradients(config, dataset, AXIS), devices, (None, 0, 0))
    copy = placed(jax.device_get(state), devices)  # donated
    return jax.device_get(mapped(copy, shard(rows, count), shard(pair_rows, count)))


def assert_close(one, other, tolerance=2e-5):
    """Gradients to `tolerance` of their norm over all groups; metrics and statistics relatively."""
    assert one.keys() == other.keys()
    for player, (grads, metrics, stats) in one.items():
        other_grads, other_metrics, other_stats = other[player]
        jax.tree.map(lambda a, b: None, (grads, stats), (other_grads, other_stats))  # same trees
        leaves, other_leaves = jax.tree.leaves(grads), jax.tree.leaves(other_grads)
        norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves))
        assert np.isfinite(norm)
        assert norm > 0
        for a, b in zip(leaves, other_leaves, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * norm, err_msg=player)
        assert metrics.keys() == other_metrics.keys()
        for name, value in metrics.items():
            # An MMD is a difference of sums of 70, and a term of the loss.
            sums = name in ("cost/mmd", "loss") and "cost/mmd" in metrics
            atol = 5e-5 if sums else 1e-6
            np.testing.assert_allclose(other_metrics[name], value, rtol=2e-5, atol=atol)
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(other_stats), strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6)


@functools.cache
def inputs(regularizer, prior):
    """(config, dataset, state, rows, pair_rows); parameters are initialized once per prior."""
    config = load_config("configs/tiny.py").unlock()
    config.regularizer, config.prior = regularizer, prior
    dataset = dataset_from(config)
    rows = batch_rows(dataset, config.seed, STEP, config.batch_size)
    state = initial(prior, regularizer == "factor")
    if regularizer == "rae_sn":  # normalized layers have statistics
        state = state.replace(stats=initialized(config).stats)
    return config, dataset, state, *rows


@functools.cache
def initial(prior, with_critic):
    if not with_critic:
        state = initial(prior, True)
        return state.replace(params={**state.params, "critic": {}})
    config = load_config("configs/tiny.py").unlock()
    config.regularizer, config.prior = "factor", prior
    return initialized(config).replace(step=jnp.int32(STEP), opt_state={})


def initialized(config):
    model, objective = make_method(config, (2,), 96)
    return initial_state(model, objective.players, 0, (2,))


@functools.cache
def on_tiny(regularizer, prior, count):
    return on_devices(*inputs(regularizer, prior), count)


@pytest.mark.parametrize(("regularizer", "prior"), some_long(PAIRS, FEW_PAIRS))
def test_any_number_of_devices_gives_the_losses_and_gradients_of_plain_jit(regularizer, prior):
    reference = on_tiny(regularizer, prior, None)
    for count in (8, 4, 2) if regularizer in BATCH_COUPLED else (8,):
        assert_close(reference, on_tiny(regularizer, prior, count))
    if regularizer in BATCH_COUPLED and prior == "decoupled":
        for place in on_named_axis(regularizer, prior):
            assert_close(reference, place)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize(("regularizer", "prior"), PAIRS)
def test_every_pair_gives_the_same_on_every_number_of_devices(regularizer, prior, count):
    assert_close(on_tiny(regularizer, prior, None), on_tiny(regularizer, prior, count))


def on_named_axis(regularizer, prior):
    """What each of four places of a `vmap` over a named axis says."""
    config, dataset, state, rows, pair_rows = inputs(regularizer, prior)
    function = all_gradients(config, dataset, AXIS)
    mapped = jax.jit(jax.vmap(function, in_axes=(None, 0, 0), axis_name=AXIS))
    out = jax.device_get(mapped(state, shard(rows, 4), shard(pair_rows, 4)))
    return [jax.tree.map(lambda leaf, place=place: leaf[place], out) for place in range(4)]


def test_a_batch_coupled_cost_that_ignores_the_axis_is_noticed():
    config, dataset, state, rows, pair_rows = inputs("info", "decoupled")
    blind = jax.vmap(all_gradients(config, dataset, None), in_axes=(None, 0, 0))
    out = jax.device_get(jax.jit(blind)(state, shard(rows, 4), shard(pair_rows, 4)))
    out = jax.tree.map(lambda leaf: leaf.mean(axis=0), out)
    with pytest.raises(AssertionError):
        assert_close(on_tiny("info", "decoupled", None), out, tolerance=1e-3)


def batch_norm_inputs():
    config = load_config("configs/tiny.py").unlock()
    config.update(dataset="stand_in", encoder="svhn", decoder="svhn", regularizer="beta_tc")
    config.batch_size, config.latent_dim = 8, 3
    config.datasets.stand_in.num_train = config.datasets.stand_in.num_test = 16
    dataset = dataset_from(config)
    model, objective = make_method(config, dataset.x_shape, 16)
    state = initial_state(model, objective.players, 0, dataset.x_shape)
    # In the batch of step 0 a leaky unit is so near its kink that rounding may move it across.
    rows = batch_rows(dataset, 0, 1, config.batch_size)
    return config, dataset, state.replace(opt_state={}), *rows


@pytest.mark.long
def test_batch_norm_gives_the_same_gradients_and_statistics_on_any_number_of_devices():
    config, dataset, state, *rows = batch_norm_inputs()
    reference = on_devices(config, dataset, state, *rows, None)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.stats, reference["vae"][2])
    assert all(jax.tree.leaves(moved))
    for count in (2, 4):
        on_count = on_devices(config, dataset, state, *rows, count)
        assert_close(reference, on_count, tolerance=2e-4)


@pytest.mark.parametrize("count", [1, 4])
def test_a_program_goes_with_its_last_user(count):
    # What stays would add up: a process that trains some hundred times runs out of mappings.
    def doubled(state, rows):
        return 2 * state, averaged(rows.sum(), AXIS)

    devices = jax.local_devices()[:count]
    program = pmapped(doubled, devices, (None, 0))
    state, mean = program(placed(np.float32(3), devices), np.ones((count, 5)))
    assert (float(state), float(mean)) == (6, 5)
    function = weakref.ref(doubled)
    del doubled, program
    gc.collect()
    assert function() is None


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_draws_belong_to_global_positions_on_every_device(count):
    rows = np.arange(48, dtype=np.float32).reshape(24, 2)

    def draws(rows, pair_rows, axis_name=None):
        root = stream_key(0, TRAIN)
        batch = make_batch(
            rows, pair_rows, transform=scaled(2.0), root=root, step=STEP, axis_name=axis_name
        )
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(batch.keys)
        mmd_key, permutation_key = jax.random.split(batch.key)
        shuffled = permuted_dims(permutation_key, gathered(batch.pair, axis_name))
        shuffled = local_rows(shuffled, len(rows), axis_name)
        local = (batch.x, batch.pair, noise, shuffled)
        return gathered(local, axis_name), jax.random.normal(mmd_key, (24, 2))

    reference = jax.device_get(draws(rows, -rows))
    devices = jax.local_devices()[:count]
    mapped = jax.pmap(functools.partial(draws, axis_name=AXIS), axis_name=AXIS, devices=devices)
    out = jax.device_get(mapped(shard(rows, count), shard(-rows, count)))
    for place in range(count):
        jax.tree.map(
            lambda a, b, place=place: np.testing.assert_array_equal(a, b[place]), reference, out
        )


def test_draws_of_other_steps_streams_and_examples_differ():
    def noise(seed, step, stream=TRAIN):
        root = stream_key(seed, stream)
        batch = make_batch(np.zeros((24, 2)), None, transform=scaled(1.0), root=root, step=step)
        own = jax.vmap(jax.random.bits)(batch.keys)
        return [*own.tolist(), int(jax.random.bits(batch.key))]

    seen = [*noise(0, 0), *noise(0, 1), *noise(1, 0), *noise(1, 1), *noise(0, 0, TRAIN + 1)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("count", [2, 4, 8])
def test_weights_of_the_shards_stack_to_the_weights_of_the_batch(estimator, count):
    weights = ESTIMATORS[estimator]
    whole = weights(jnp.arange(24), 24, 1000)
    parts = [weights(rows, 24, 1000) for rows in jnp.arange(24).reshape(count, -1)]
    np.testing.assert_array_equal(jnp.concatenate(parts), whole)


def test_collectives_are_the_identity_without_an_axis():
    tree = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(3)}
    for function in (gathered, averaged):
        jax.tree.map(np.testing.assert_array_equal, function(tree, None), tree)
    np.testing.assert_array_equal(local_rows(tree["a"], 3, None), tree["a"])
    np.testing.assert_array_equal(positions(3, None), [0, 1, 2])


def test_a_key_of_an_example_is_a_function_of_its_index_alone(key):
    whole = jax.random.key_data(example_keys(key, jnp.arange(10)))
    some = jax.random.key_data(example_keys(key, jnp.array([7, 2])))
    np.testing.assert_array_equal(some, whole[jnp.array([7, 2])])


def test_the_devices_used_divide_what_lies_on_them():
    assert [len(usable_devices(size)) for size in (24, 7, 3, 10)] == [8, 7, 3, 5]
    with one_line("number of replicas 4 does not divide evenly over 3 devices"):
        usable_devices(4, 3, "number of replicas")
    with one_line("9 devices asked for; there are 8"):
        usable_devices(9, 9)


@pytest.mark.parametrize("flags", ["", "--xla_force_host_platform_device_count=5"])
def test_a_cpu_has_a_device_for_each_core_unless_its_user_chose_a_number(flags):
    program = """if True:
        import jax, os, vaejax.parallel
        os.sched_getaffinity = lambda process: range(4)
        vaejax.parallel.one_device_per_core(6)
        print(jax.local_device_count())
        """
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (5 if flags else 3)
