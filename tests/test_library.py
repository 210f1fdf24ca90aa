"""The public functions of a model: their examples run, and nothing but a key draws."""

import dataclasses
import doctest
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import one_line

import vaejax
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.evaluation.protocol import Protocol
from vaejax.objectives.divergences import KERNELS
from vaejax.training import validation
from vaejax.training.validation import make_split_terms

ROOT = Path(__file__).parents[1]
# What the examples of some take from those of others.
FIRST = ("fit", "load", "dataset_from", "make_transform", "batch_rows", "Player", "initial_state")
FIRST += ("fit_density",)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """What the examples leave behind, in a folder of their own."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def test_every_public_name_has_an_example_that_runs(digits, monkeypatch):
    monkeypatch.chdir(digits)
    x = np.zeros((3, 8, 8, 1), np.float32)
    known = {"vaejax": vaejax, "np": np, "jax": jax, "optax": optax, "x": x}
    runner = doctest.DocTestRunner(verbose=False)
    for name in [*FIRST, *sorted({*vaejax.__all__} - {*FIRST})]:
        text = getattr(vaejax, name).__doc__
        test = doctest.DocTestParser().get_doctest(text, known, name, None, 0)
        assert test.examples, f"{name} has no example"
        runner.run(test, clear_globs=False)
        known = test.globs
    assert runner.summarize(verbose=False).failed == 0


def test_what_evaluate_may_be_told_is_named():
    named = {field.name for field in dataclasses.fields(Protocol)}
    assert named <= set(re.findall(r"\w+", vaejax.evaluate.__doc__ or ""))


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    """A run on a few two moons: (its folder, what `load` gives)."""
    config = vaejax.load_config("configs/tiny.py")
    config.datasets.two_moons.num_test = 11
    workdir = tmp_path_factory.mktemp("moons") / "run"
    vaejax.fit(config, workdir, quiet=True)
    return workdir, *vaejax.load(workdir)


@pytest.mark.long
def test_nothing_depends_on_how_many_are_taken_at_once(moons, monkeypatch):
    _, model, state, config = moons
    x, key = vaejax.observed(config), jax.random.key(5)

    def everything():
        z = vaejax.embed(model, state, x)
        bound = vaejax.log_prob(model, state, x, key, num_samples=3)
        q = vaejax.encode(model, state, x)
        return z, vaejax.decode(model, state, z), vaejax.sample(model, state, key, 11), bound, q

    at_once = everything()
    monkeypatch.setattr(validation, "_LAYER_BYTES", {"cpu": 1})
    for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(everything()), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_what_is_given_has_no_draw_and_what_is_drawn_is_of_its_key(moons):
    _, model, state, config = moons
    x = vaejax.observed(config)
    q = vaejax.encode(model, state, x)
    np.testing.assert_array_equal(q.mean(), vaejax.embed(model, state, x))
    assert np.all(np.asarray(q.stddev()) > 0)
    some, more = (vaejax.sample(model, state, jax.random.key(1), n) for n in (3, 7))
    np.testing.assert_allclose(some, more[:3], rtol=1e-5, atol=1e-6)
    assert np.all(np.ptp(more, axis=0) > 0)
    others = vaejax.sample(model, state, jax.random.key(2), 3)
    assert np.all(np.abs(others - some).max(axis=1) > 1e-3)


def test_samples_have_the_law_of_the_prior(moons):
    _, model, state, _ = moons
    key = jax.random.key(0)
    ours = vaejax.sample(model, state, key, 4_000)
    bound = model.bind(state.variables())
    theirs = np.asarray(bound.decode(bound.prior.sample(key, 4_000)))
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / 4_000)
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error)


def test_one_importance_sample_is_the_elbo_of_one_draw_on_average(moons):
    _, model, state, config = moons
    dataset = vaejax.dataset_from(config)
    rows, x = dataset.splits["train"], vaejax.observed(config, "train")
    transform = vaejax.make_transform(config, dataset)
    elbo = make_split_terms(model, transform=transform, seed=0)(state.variables(), rows)["elbo"]
    bound = vaejax.log_prob(model, state, x, jax.random.key(0), num_samples=1)
    difference = bound - elbo
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    more = vaejax.log_prob(model, state, x, jax.random.key(0), num_samples=50)
    assert more.mean() > bound.mean()
    again = importance_weighted_bound(
        model, state.variables(), rows, num_samples=50, transform=transform, key=jax.random.key(0)
    )
    np.testing.assert_allclose(more, again, rtol=1e-6)


def test_observed_rows_are_those_of_the_split_and_scaled(digits):
    config = vaejax.load_config(str(ROOT / "configs" / "tiny.py:digits"))
    dataset = vaejax.dataset_from(config)
    x = vaejax.observed(config)
    np.testing.assert_allclose(x, dataset.splits["test"] / 16, rtol=1e-6)
    np.testing.assert_array_equal(vaejax.observed(config, dataset.splits["test"][:5]), x[:5])
    config.observation = "bernoulli"
    drawn = vaejax.observed(config)
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_array_equal(drawn[:5], vaejax.observed(config, dataset.splits["test"][:5]))


def test_the_mean_of_checkpoints_is_evaluated_and_training_goes_on_from_the_last(moons):
    workdir, model, state, _ = moons
    first, last = (vaejax.load(workdir, step)[1] for step in vaejax.saved_steps(workdir))
    mean = vaejax.averaged_weights([first, last])
    half = jax.tree.map(lambda a, b: (a + b) / 2, first.params, last.params)
    jax.tree.map(np.testing.assert_allclose, mean.variables()["params"], half)
    assert mean.params is last.params
    assert mean.opt_state is last.opt_state
    z = np.ones((1, 2))
    one, both = (vaejax.decode(model, each, z) for each in (last, mean))
    assert np.abs(one - both).max() > 0
    with one_line("0 states of 0 models"):
        vaejax.averaged_weights([])


def test_a_kernel_is_a_name_or_a_function(moons):
    _, model, state, config = moons
    terms = SimpleNamespace(
        code=SimpleNamespace(z=vaejax.embed(model, state, vaejax.observed(config)))
    )
    bound, found = model.bind(state.variables()), {}
    for name, kernel in KERNELS.items():
        costs = vaejax.mmd_to_prior(2.0, name), vaejax.mmd_to_prior(2.0, kernel)
        found[name], given = (cost(bound, terms, jax.random.key(3), 0)["mmd"] for cost in costs)
        assert found[name] == given > 0
    assert len(set(map(float, found.values()))) == len(KERNELS)
    default = vaejax.mmd_to_prior(2.0)(bound, terms, jax.random.key(3), 0)
    assert default["mmd"] == found["imq"]
    with one_line("unknown kernel 'imk'; did you mean 'imq'"):
        vaejax.mmd_to_prior(2.0, "imk")
    with one_line("kernel is 5; a name, or a function"):
        vaejax.mmd_to_prior(2.0, 5)


@pytest.mark.parametrize("cost", [vaejax.kl, [vaejax.reconstruction], None, lambda model: {}])
def test_what_is_no_cost_is_refused_when_a_loss_is_composed(cost):
    with one_line("is no cost, a function of .model, terms, key, step."):
        vaejax.loss_of(vaejax.reconstruction, cost)
    with one_line("a loss of no costs"):
        vaejax.loss_of()


def test_raw_floats_of_fewer_bits_are_x(moons):
    _, model, state, config = moons
    x = vaejax.observed(config)[:5]
    few = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_array_equal(
        vaejax.embed(model, state, few), vaejax.embed(model, state, np.float32(few))
    )


def test_bad_input_is_refused_in_one_line(moons):
    _, model, state, config = moons
    with one_line("x is of type uint8, not of floats; `observed`"):
        vaejax.embed(model, state, np.zeros((3, 2), np.uint8))
    with one_line(r"x has shape \(2,\); this model has x of \(N, 2\)"):
        vaejax.encode(model, state, np.zeros(2))
    with one_line(r"z has shape \(5, 3\); codes have 2 numbers"):
        vaejax.decode(model, state, np.zeros((5, 3)))
    x = np.zeros((3, 2), np.float32)
    for key in (0, jax.random.split(jax.random.key(0)), x, None):
        for drawn in (vaejax.sample, lambda *given: vaejax.log_prob(*given[:2], x, given[2])):
            with one_line("is not one key; jax.random.key"):
                drawn(model, state, key)
    for count in (0, 2.5, "3", None):
        with one_line("samples asked for; a whole number"):
            vaejax.sample(model, state, jax.random.key(0), count)
        with one_line("samples asked for; a whole number"):
            vaejax.log_prob(model, state, x, jax.random.key(0), count)
    for given in ((state, model), (model, state.params), (model.bind(state.variables()), state)):
        for function in (vaejax.embed, vaejax.decode, vaejax.encode):
            with one_line("the first two arguments are a model and its state"):
                function(*given, x)
    with one_line("codes are real numbers"):
        vaejax.decode(model, state, x + 1j)
    for config_of in (vaejax.fit, lambda given, folder: vaejax.fit(dict(given=given), folder)):
        with one_line("a config is a ConfigDict, not of type"):
            config_of("configs/tiny.py", "nowhere")
    with one_line("unknown option 'importance_sample'; did you mean 'importance_samples'"):
        vaejax.evaluate("nowhere", importance_sample=3)
    with one_line("step is -1"):
        vaejax.batch_rows(vaejax.dataset_from(config), 0, -1, 5)
    with one_line("did you mean 'test'"):
        vaejax.observed(config, "tset")
    with one_line(r"rows have shape \(4, 3\) and type float64; those of 'two_moons' are \(N, 2\)"):
        vaejax.observed(config, np.zeros((4, 3)))
    without = model.clone(posterior=type("P", (), {"has_density": False})())
    with one_line("this posterior has no density"):
        vaejax.log_prob(without, state, np.zeros((1, 2), np.float32), jax.random.key(0))
