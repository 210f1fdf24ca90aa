"""Every pair of trunks learns in all of its parts, and is the same however it is computed."""

import functools

import jax
import numpy as np
import pytest
from conftest import some_long
from flax import linen as nn
from test_convolutions import assert_close, doubled
from test_networks import COUNTS, drawn, normal
from test_step import Run, differs

from vaejax.config import default_config, load_config
from vaejax.models.layers import ONE, Layers
from vaejax.models.networks import DECODERS, ENCODERS
from vaejax.training.step import gradients

SIDES = {"conv": 8, "svhn": 32, "mnist": 28, "mnist_factor": 28, "celeba": 64, "rae": 20}
FEW = {"rae": {"channels": (4, 6, 8), "kernel": 5}}  # the published ones have 20 million parameters
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mnist", "mnist_factor", "celeba")]


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """Compile fast, not well: the programs here run a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.long
@pytest.mark.parametrize("name", ["conv", "svhn", "rae", *SLOW])
def test_one_step_moves_every_parameter_of_every_architecture(name):
    channels = 1 if name.startswith("mnist") else 3
    config = default_config().unlock()
    config.update(dataset="stand_in", encoder=name, decoder=name, regularizer="none", batch_size=4)
    x_shape = (SIDES[name], SIDES[name], channels)
    config.datasets.stand_in.update(x_shape=x_shape, num_train=8, num_test=8)
    config.priors.decoupled.num_blocks = 2
    for rows in (config.encoders, config.decoders):
        rows[name].update(FEW.get(name, {}))
    run = Run(config)
    state = run.state()
    after, metrics = jax.jit(run.step)(state, *run.rows(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, metrics)))
    moved = differs((state.params, state.stats), (after.params, after.stats))
    still = [jax.tree_util.keystr(path) for path, m in jax.tree.leaves_with_path(moved) if not m]
    assert not still


class FlaxLayers(Layers):
    """The layers as Flax has them, by the same names in the tree."""

    def conv(self, channels, kernel, padding=ONE):
        return nn.Conv(channels, kernel, padding=padding)

    def halving(self, channels, kernel=4):
        return nn.Conv(channels, (kernel, kernel), 2)

    def doubling(self, channels, kernel=4):
        return nn.ConvTranspose(channels, (kernel, kernel), (2, 2))

    def keeping(self, channels, kernel):
        return nn.ConvTranspose(channels, (kernel, kernel))

    def upsampling(self, channels):
        convolution = nn.Conv(channels, (3, 3), padding="VALID")
        return lambda x: convolution(doubled(x))

    def growing(self, channels, kernel=(3, 3)):
        return nn.ConvTranspose(channels, kernel, padding="VALID")


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["conv", "svhn", "mnist", "mnist_factor", "celeba", "rae"])
def test_parameters_serve_flax_and_both_ways_to_compute(name, kind):
    """The same tree, and from it the same features or images and the same statistics."""
    x_shape = COUNTS[name][0]
    table, made = (ENCODERS, {}) if kind == "encoder" else (DECODERS, {"x_shape": x_shape})
    made |= default_config()[f"{kind}s"][name].to_dict() | FEW.get(name, {})
    given = normal(2, *x_shape) if kind == "encoder" else normal(2, 3)
    ways = (FlaxLayers(), Layers("native"), Layers("matmul"))
    nets = [table[name](**made, layers=layers) for layers in ways]

    trees = [jax.eval_shape(net.init, jax.random.key(0), given) for net in nets]
    assert trees[0] == trees[1] == trees[2]
    variables = drawn(nets[0], given)

    @jax.jit
    def computed(variables, given):
        training = {"train": True, "mutable": ["batch_stats"]}
        return [
            (net.apply(variables, given), net.apply(variables, given, **training)) for net in nets
        ]

    expected, *found = computed(variables, given)
    assert_close(found, [expected, expected])


def by_layer(grads):
    """The arrays of a layer as one: a bias that batch norm takes out has a gradient of zero."""

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    def is_layer(tree):
        return not any(isinstance(part, dict) for part in tree.values())

    return jax.tree.map(flat, {k: v for k, v in grads.items() if v}, is_leaf=is_layer)


@pytest.mark.parametrize(
    ("preset", "trunks"),
    some_long([("own_images", "conv"), ("svhn", "svhn")], [("own_images", "conv")]),
)
def test_losses_and_gradients_of_a_method_are_the_same_either_way(preset, trunks):
    """And so is the initial state, so that a run can go on in the other way."""
    config = load_config(f"configs/tiny.py:{preset}").unlock()
    config.update(batch_size=4, encoder=trunks, decoder=trunks, regularizer="beta_h")
    found, states = [], []
    for config.convolutions in ("native", "matmul"):
        run = Run(config)
        for trunk in (run.model.encoder, run.model.decoder):
            assert trunk.layers.lowering == config.convolutions
        states.append(run.state())
        step = jax.jit(functools.partial(gradients, run.model, run.players["vae"]))
        found.append(step(states[0], run.batch()))
    jax.tree.map(np.testing.assert_array_equal, *states)
    (grads, *rest), (other_grads, *others) = found
    assert_close(rest, others)
    assert_close(by_layer(grads), by_layer(other_grads), 1e-4)
