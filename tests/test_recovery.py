"""What a run may do about numbers that are not finite, and that it does the same when resumed."""

import dataclasses
import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line
from test_forensics import BAD_STEP, config, data
from test_resume import fit

import vaejax
from vaejax.config import validate
from vaejax.data.sources import dataset_from
from vaejax.training.checkpoint import saved_steps
from vaejax.training.forensics import replay, rows_of
from vaejax.training.metrics import NonFiniteError, rows
from vaejax.training.recovery import RECOVERIES, lowered, skipping, slowed
from vaejax.training.replicas import fit_replicas
from vaejax.training.run import Run


def skip(most=1, **values):
    made = config(log_every=1, recovery="skip", **values)
    made.recoveries.skip.most = most
    return made


def lower(factor=2.0**-24, most=1, **values):
    """Gradient descent whose first step is so long that the second one sees no finite number."""
    made = config(log_every=1, optimizer="sgd", recovery="lower", **values)
    made.recoveries.lower.update(factor=factor, most=most)
    made.schedules.constant.learning_rate = 1e4
    return made


def log(folder, split=None):
    found = rows(folder / "metrics.jsonl")
    return [row for row in found if split in (None, row["split"])]


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(two))


def assert_same_files(one, two):
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert saved_steps(one) == saved_steps(two)
    for step in saved_steps(one):
        assert_equal(*(vaejax.load(each, checkpoint=step)[1] for each in (one, two)))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The folder of a run that skipped its bad step; read-only."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    fit(skip(), folder, dataset=data(1e30))
    return folder


def test_a_skipped_step_changes_nothing_but_its_number(twin, tmp_path):
    run = Run(skip(), tmp_path, data(1e30))
    train_step = jax.jit(run.train_step(None, {}))
    state = run.start()
    for step in range(12):
        following, _ = train_step(state, *rows_of(run, step))
        state = state.replace(step=following.step) if step == BAD_STEP - 1 else following
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        jax.device_get(vaejax.load(twin)[1]),
        jax.device_get(state),
    )
    assert [row["step"] for row in log(twin, "train") if row["skipped"]] == [BAD_STEP]
    bad = log(twin, "train")[BAD_STEP - 1]
    assert not np.isfinite(bad["loss"])


def test_where_all_is_finite_nothing_is_skipped(tmp_path):
    fit(config(log_every=1), tmp_path / "none")
    fit(skip(), tmp_path / "skip")
    assert_equal(*(vaejax.load(tmp_path / name)[1] for name in ("none", "skip")))
    found = log(tmp_path / "skip", "train")
    assert {row.pop("skipped") for row in found} == {0.0}
    assert found == log(tmp_path / "none", "train")


@pytest.mark.long
def test_a_run_may_skip_so_many_steps_and_goes_on_when_allowed_more(twin, tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        fit(config(log_every=1), tmp_path / "run", dataset=data(1e30))
    assert caught.value.step == BAD_STEP
    fit(skip(), tmp_path / "run", dataset=data(1e30))
    assert log(tmp_path / "run")[BAD_STEP:] == log(twin)[BAD_STEP:]
    assert_equal(*(vaejax.load(each)[1] for each in (tmp_path / "run", twin)))
    train = np.full((12 * 24, 2), 1e30, np.float32)  # in every step
    nothing = dataclasses.replace(given := data(1e30), splits={**given.splits, "train": train})
    with pytest.raises(NonFiniteError) as caught:
        fit(skip(most=4), tmp_path / "all", dataset=nothing)
    assert caught.value.step == 5
    assert saved_steps(tmp_path / "all") == [3]


def test_an_interrupted_run_skips_and_counts_as_the_other(twin, tmp_path):
    fit(skip(), tmp_path / "run", dataset=data(1e30))
    for step in (9, 6):
        fit(skip(), tmp_path / "run", dataset=data(1e30), checkpoint=step)
        assert_same_files(tmp_path / "run", twin)


@pytest.mark.long
def test_replay_passes_over_steps_that_were_skipped(twin):
    run = Run(skip(), twin, dataset_from(skip(), data(1e30)))
    assert replay(run, 12).step == 12
    assert replay(run, BAD_STEP).first.stage == "layer"


def test_replay_passes_over_what_was_skipped_though_the_config_skips_no_more(twin, tmp_path):
    folder = Path(shutil.copytree(twin, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    run = Run(config(log_every=1), folder, dataset_from(config(), data(1e30)))
    assert replay(run, 10).step == 10
    (folder / "metrics.jsonl").unlink()
    assert replay(run, 10).step == BAD_STEP


def test_steps_whose_state_alone_is_not_finite_are_skipped_told_and_counted(tmp_path):
    """An update overflows, though loss and gradient are numbers."""
    made = skip(most=2, optimizer="sgd", prior="standard_normal")
    made.log_every, made.schedules.constant.learning_rate = 100, 1e38
    with pytest.raises(NonFiniteError, match="at step 3 what it leads to is not finite") as caught:
        fit(made, tmp_path)
    assert caught.value.step == 3
    assert "of the state after the step params/" in str(caught.value)
    assert [row["step"] for row in log(tmp_path) if row["skipped"]] == [1, 2, 3]
    assert np.isfinite([row["loss"] for row in log(tmp_path)]).all()


def test_replicas_skip_each_for_itself():
    def decay(state, rows):
        return state.replace(step=state.step + 1, params=state.params / rows), {"rows": rows}

    from vaejax.training.state import TrainState

    state = TrainState(jnp.zeros(3, jnp.int32), jnp.full(3, 8.0), {}, {}, {})
    after, metrics = jax.vmap(skipping(decay))(state, jnp.array([2.0, 0.0, jnp.nan]))
    assert after.params.tolist() == [4.0, 8.0, 8.0]
    assert after.step.tolist() == [1, 1, 1]
    assert metrics["skipped"].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.long
def test_a_lowered_rate_is_that_of_a_run_with_a_lower_rate(tmp_path, capsys):
    """Without a checkpoint before: from the start, where powers of two change no digit."""
    fit(lower(), tmp_path / "lowered", quiet=False)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recovery")]
    assert len(said) == 1
    assert said[0].endswith(f"goes on from step 0 with learning rates times {2.0**-24:g}")
    slow = config(log_every=1, optimizer="sgd")
    slow.schedules.constant.learning_rate = 1e4 * 2.0**-24
    fit(slow, tmp_path / "slow")
    assert_equal(*(vaejax.load(tmp_path / name)[1] for name in ("lowered", "slow")))
    (line,) = log(tmp_path / "lowered", "recovery")
    assert (line["step"], line["factor"]) == (0, 2.0**-24)
    assert log(tmp_path / "lowered", "train") == log(tmp_path / "slow", "train")


@pytest.mark.long
def test_a_run_goes_back_to_its_checkpoint_so_many_times(tmp_path):
    given = {"dataset": data(1e30)}
    made = config(recovery="lower")
    made.recoveries.lower.most = 2
    with pytest.raises(NonFiniteError) as caught:  # one of whose examples is bad at any rate
        fit(made, tmp_path / "run", **given)
    assert caught.value.step == BAD_STEP
    told = [(row["step"], row["failed_step"]) for row in log(tmp_path / "run", "recovery")]
    assert told == [(6, BAD_STEP)] * 2


@pytest.mark.long
def test_an_interrupted_run_keeps_its_rate_or_lowers_it_again(tmp_path):
    fit(lower(), tmp_path / "run")
    fit(lower(), tmp_path / "other")
    fit(lower(), tmp_path / "other", checkpoint=6)
    assert_same_files(tmp_path / "run", tmp_path / "other")
    with one_line("lowered for a run by itself"):
        fit_replicas(lower(), {"seed": [0, 1]}, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_rates_are_the_product_of_what_was_lowered_before():
    assert slowed(np.zeros((0, 2))) is None
    rate = slowed(np.array([(3, 0.5), (3, 0.5), (6, 0.25)]))
    assert [float(rate(jnp.int32(step))) for step in range(8)] == [1] * 3 + [1 / 4] * 3 + [
        1 / 16
    ] * 2


def test_lines_after_a_step_are_those_of_another_future(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [f'{{"step": {step}, "split": "recovery", "factor": 0.5}}\n' for step in (3, 6)]
    path.write_text("".join(lines))
    assert [len(lowered(path, step)) for step in (2, 3, 5, 6)] == [0, 1, 1, 2]


@pytest.mark.parametrize("factor", ["", ', "factor": -0.5', ', "factor": "nan"', ', "factor": 2'])
def test_a_factor_that_nobody_wrote_is_refused(tmp_path, factor):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 3, "split": "recovery"{factor}}}\n')
    with one_line("is damaged: the factor of learning rates after step 3 is"):
        lowered(path, 3)


def test_bad_numbers_are_refused():
    assert set(RECOVERIES) == set(config().recoveries)
    for factor in (0.0, 1.0):
        with one_line(f"recoveries.lower.factor is {factor}; it must be between 0 and 1"):
            RECOVERIES["lower"](factor=factor, most=1)
    made = config()
    made.recoveries.skip.most = 0
    with one_line("recoveries.skip.most is 0; it must be at least 1"):
        validate(made)
