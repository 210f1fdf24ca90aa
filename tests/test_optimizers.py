"""Optimizers and schedules: optax's, by the names of the config."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax.config import load_config
from vaejax.objectives.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer

assert_near = functools.partial(np.testing.assert_allclose, rtol=1e-5)


def config_of(optimizer, **values):
    config = load_config("configs/tiny.py").unlock()
    config.update(optimizer=optimizer, schedule="cosine", **values)
    return config


def test_schedules_reach_their_values():
    constant = SCHEDULES["constant"](100, learning_rate=0.5)
    assert [float(constant(step)) for step in (0, 50, 100, 10**6)] == [0.5] * 4
    for warmup in (0, 1, 10, 99):
        row = {"learning_rate": 0.5, "warmup_steps": warmup, "final_fraction": 0.1}
        cosine = SCHEDULES["cosine"](100, **row)
        rates = [float(cosine(step)) for step in range(121)]
        assert rates[0] == (0.5 if warmup == 0 else 0.0)
        assert rates[warmup] == pytest.approx(0.5)
        assert rates[100:] == pytest.approx([0.05] * 21)
        assert all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    with pytest.raises(ValueError, match="warmup_steps 100 >= num_steps 100"):
        SCHEDULES["cosine"](100, **{**row, "warmup_steps": 100})


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_optimizers_follow_the_schedule_of_the_config(optimizer):
    config = config_of(optimizer, num_steps=4)
    config.schedules.cosine.learning_rate = 0.1
    tx, params = make_optimizer(config), {"a": jnp.ones(3)}
    state, sizes = tx.init(params), []
    for _ in range(5):
        updates, state = tx.update({"a": jnp.ones(3)}, state, params)
        sizes.append(float(np.abs(updates["a"]).max()))
    assert sizes[0] == pytest.approx(0.1, rel=1e-2)
    assert sizes[4] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("clip_norm", [0.0, 0.7])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_are_those_of_optax_parameter_by_parameter(name, clip_norm):
    config = config_of(name, num_steps=9, clip_norm=clip_norm)
    ours, row = make_optimizer(config), dict(config.optimizers[name])
    theirs = getattr(optax, name)(SCHEDULES["cosine"](9, **config.schedules.cosine), **row)
    if clip_norm:
        theirs = optax.chain(optax.clip_by_global_norm(clip_norm), theirs)
    rng = np.random.default_rng(0)
    one = other = {"a": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=4))}
    state, their_state = ours.init(one), theirs.init(other)
    for _ in range(4):
        grads = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), one)
        updates, state = ours.update(grads, state, one)
        their_updates, their_state = theirs.update(grads, their_state, other)
        jax.tree.map(assert_near, updates, their_updates)
        one, other = optax.apply_updates(one, updates), optax.apply_updates(other, their_updates)
