"""One update: who moves, and by how much.  Run as a script, this writes golden_steps.json."""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from conftest import FEW_PAIRS, PAIRS, some_long
from flax import linen as nn

from vaejax.config import load_config
from vaejax.data.batches import batch_rows
from vaejax.data.sources import dataset_from
from vaejax.data.transforms import scaled
from vaejax.models.priors import Decoupled
from vaejax.objectives.adversaries import permutation_critic_loss
from vaejax.objectives.regularizers import REGULARIZERS, make_method
from vaejax.parallel import AXIS, placed, pmapped
from vaejax.training.state import TRAIN, initial_state, stream_key
from vaejax.training.step import gradients, make_batch, make_train_step
from vaejax.types import GENERATIVE, GROUPS, Player

GOLDEN = Path(__file__).with_name("golden_steps.json")
CHANGED = "if you meant to change the method, update this and say why in Changes"


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """Compile fast, not well: the programs here run a few times."""
    assert jax.config.jax_debug_key_reuse  # every step of this file is checked for it
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config_of(regularizer="beta_tc", prior="decoupled", **values):
    config = load_config("configs/tiny.py").unlock()
    config.update(regularizer=regularizer, prior=prior, **values)
    return config


class Run:
    """A training step on one config, not yet compiled, and what it needs."""

    def __init__(self, config, players=None, axis_name=None):
        self.config, self.dataset = config, dataset_from(config)
        self.transform = scaled(self.dataset.scale)
        x_shape, num_examples = self.dataset.x_shape, len(self.dataset.splits["train"])
        self.model, objective = make_method(config, x_shape, num_examples, axis_name)
        self.players = dict(objective.players)
        used = {name: self.players[name] for name in players or self.players}
        self.step = self.step_of(self.model, used, axis_name)

    def step_of(self, model, players, axis_name=None):
        fixed = {"transform": self.transform, "seed": self.config.seed, "axis_name": axis_name}
        return make_train_step(model, players, ema_decay=self.config.ema_decay, **fixed)

    def state(self, model=None):
        model, x_shape = model or self.model, self.dataset.x_shape
        return initial_state(model, self.players, self.config.seed, x_shape, self.config.ema_decay)

    def rows(self, step):
        return batch_rows(self.dataset, self.config.seed, step, self.config.batch_size)

    def batch(self, step=0):
        root = stream_key(self.config.seed, TRAIN)
        return make_batch(*self.rows(step), transform=self.transform, root=root, step=step)


@functools.cache
def three_steps(regularizer, prior):
    """States before and after, the metrics of step 3, and how often the step was traced."""
    run, traced = Run(config_of(regularizer, prior, ema_decay=0.9)), []

    def counted(*arguments):
        traced.append(1)
        return run.step(*arguments)

    step, states = jax.jit(counted), [run.state()]
    for number in range(3):
        state, metrics = step(states[-1], *run.rows(number))
        states.append(state)
    metrics = {name: float(value) for name, value in sorted(metrics.items())}
    return run, [jax.device_get(state) for state in states], metrics, len(traced)


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_near(one, other, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=0.1 * tolerance),
        one,
        other,
    )


def differs(one, other):
    return jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), one, other)


@pytest.mark.parametrize(("regularizer", "prior"), some_long(PAIRS, FEW_PAIRS))
def test_three_steps_move_every_parameter_in_one_trace_to_the_recorded_metrics(regularizer, prior):
    _, states, metrics, traced = three_steps(regularizer, prior)
    assert traced == 1
    moved = differs(states[0].params, states[-1].params)
    assert set(moved) == set(GROUPS)
    assert all(jax.tree.leaves(moved))
    assert bool(moved["critic"]) == (regularizer == "factor")
    assert bool(moved["prior"]) == (prior == "decoupled")
    assert states[-1].step == 3
    expected = json.loads(GOLDEN.read_text())[f"{regularizer} x {prior}"]
    assert metrics.keys() == expected.keys(), CHANGED
    wrong = {
        name: (metrics[name], value)
        for name, value in expected.items()
        if not math.isclose(metrics[name], value, rel_tol=1e-3, abs_tol=1e-4)
    }
    assert not wrong, f"{CHANGED}: {wrong}"


def test_moving_average_is_the_hand_computed_one():
    _, states, _, _ = three_steps("factor", "decoupled")
    average = states[0].params
    for state in states[1:]:
        average = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, average, state.params)
        assert_near(average, state.ema)
        assert state.variables()["params"] is state.ema


@pytest.mark.parametrize(("alone", "other"), [("vae", "critic"), ("critic", "vae")])
def test_a_step_without_the_other_player_leaves_its_groups_bit_identical(alone, other):
    both, states, _, _ = three_steps("factor", "decoupled")
    run = Run(both.config, players=[alone])
    after, _ = jax.device_get(jax.jit(run.step)(states[0], *run.rows(0)))
    for group in run.players[other].owns:
        assert_identical(states[0].params[group], after.params[group])
    assert_identical(states[0].opt_state[other], after.opt_state[other])


def test_no_player_sees_the_update_of_another():
    run, states, _, _ = three_steps("factor", "decoupled")
    frozen = {**run.players, "vae": run.players["vae"]._replace(tx=optax.set_to_zero())}
    step = run.step_of(run.model, frozen)
    start = states[0].replace(opt_state={**states[0].opt_state, "vae": optax.EmptyState()})
    after, _ = jax.jit(step)(start, *run.rows(0))
    assert_near(after.params["critic"], states[1].params["critic"])
    assert_identical(after.params["encoder"], states[0].params["encoder"])


def test_critic_loss_has_zero_gradient_with_respect_to_every_generative_group():
    run, states, _, _ = three_steps("factor", "decoupled")
    outsider = Player(GENERATIVE, permutation_critic_loss(), optax.sgd(1.0))

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(player):
        return gradients(run.model, player, states[1], run.batch())[0]

    grads = gradient(outsider)
    assert set(grads) == set(GENERATIVE)
    jax.tree.map(np.testing.assert_array_equal, grads, jax.tree.map(np.zeros_like, grads))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient(run.players["critic"])))


class NormEncoder(nn.Module):
    """A dense layer with batch norm: the cheapest encoder that has statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))


@pytest.mark.parametrize("names", [["critic"], ["reader"], ["vae", "critic"]])
def test_statistics_move_only_with_the_player_that_owns_them(names):
    run = Run(config_of("factor", "standard_normal"))
    model = run.model.clone(encoder=NormEncoder())
    run.players["reader"] = run.players["vae"]._replace(owns=("prior", "decoder"))
    before = run.state(model)

    def stats_after(*names):
        step = run.step_of(model, {name: run.players[name] for name in names})
        return jax.jit(step)(before, *run.rows(0))[0].stats

    after = stats_after(*names)
    moved = jax.tree.leaves(differs(before.stats, after))
    assert len(moved) == 2
    assert all(moved) == any(moved) == ("vae" in names)
    if "vae" in names:  # the critic's passes over x and x' left no trace
        assert_near(after, stats_after("vae"))


def test_on_eight_devices_the_step_is_traced_once_and_its_state_has_no_device_axis():
    run, traced, devices = Run(config_of("factor"), axis_name=AXIS), [], jax.local_devices()

    def counted(*arguments):
        traced.append(1)
        return run.step(*arguments)

    before = run.state()
    step, state = pmapped(counted, devices, (None, 0, 0)), placed(before, devices)
    for number in range(3):
        rows = [r.reshape(8, -1, *r.shape[1:]) for r in run.rows(number)]
        state, metrics = step(state, *rows)
    assert len(traced) == 1
    assert jax.tree.structure(before) == jax.tree.structure(state)
    for old, leaf in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        assert (leaf.shape, leaf.dtype) == (old.shape, old.dtype)
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.addressable_shards) == 8
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, leaf)
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.long
def test_jit_equals_no_jit():
    run = Run(config_of("factor", "standard_normal", optimizer="sgd"))
    state, rows = run.state(), run.rows(0)
    compiled, metrics = jax.jit(run.step)(state, *rows)
    with jax.disable_jit():
        plain, plain_metrics = run.step(state, *rows)
    assert_near(plain_metrics, metrics, 1e-4)
    assert_near(plain.params, compiled.params, 1e-4)


def test_clipping_bounds_the_update_and_keeps_its_direction():
    def update(clip_norm):
        config = config_of("none", "standard_normal", clip_norm=clip_norm, optimizer="sgd")
        config.optimizers.sgd.momentum = 0.0
        config.schedules.constant.learning_rate = 1.0
        run = Run(config)
        state = run.state()
        after, metrics = jax.jit(run.step)(state, *run.rows(0))
        moved = jax.tree.map(lambda a, b: np.ravel(b - a), state.params, after.params)
        return np.concatenate(jax.tree.leaves(moved)), float(metrics["grad_norm/vae"])

    free, norm = update(0.0)
    clipped, clipped_norm = update(0.25)
    assert norm > 1
    assert clipped_norm == pytest.approx(norm)  # what is reported is the norm before clipping
    assert np.linalg.norm(clipped) == pytest.approx(0.25, rel=1e-4)
    cosine = free @ clipped / np.linalg.norm(free) / np.linalg.norm(clipped)
    assert cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("regularizer", list(REGULARIZERS))
def test_the_density_of_a_code_is_evaluated_once(regularizer, monkeypatch):
    """What a flow costs is paid once, whether a KL, its parts or both are asked for."""
    run = Run(config_of(regularizer), players=["vae"])
    state, original, seen = run.state(), Decoupled.log_prob, []

    def counted(prior, z):
        seen.append(z)
        return original(prior, z)

    monkeypatch.setattr(Decoupled, "log_prob", counted)
    jax.eval_shape(run.step, state, *run.rows(0))
    assert len(seen) == 1


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    recorded = {f"{r} x {p}": three_steps(r, p)[2] for r, p in PAIRS}
    GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")
