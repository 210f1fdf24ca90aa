"""A step that goes wrong is found again, and what went wrong first has its name."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from conftest import some_long
from test_resume import config_of, fit

from vaejax.cli import main
from vaejax.data.batches import batch_indices
from vaejax.data.sources import dataset_from
from vaejax.training.forensics import STAGES, replay, state_before
from vaejax.training.metrics import NonFiniteError
from vaejax.training.run import Run

BAD_STEP = 8  # counted from 1


def config(**values):
    """Every example is seen once, and a checkpoint is kept every three steps."""
    more = {"num_steps": 12, "log_every": 100, "eval_every": 100, "checkpoint_every": 3}
    made = config_of(**{"regularizer": "none", "schedule": "constant", **more, **values})
    made.datasets.two_moons.num_train = 12 * 24
    return made


def data(value, **values):
    """Data of which one example, that of one step alone, is `value`."""
    made = config(**values)
    dataset = dataset_from(made)
    rows = dataset.splits["train"].copy()
    rows[batch_indices(made.seed, BAD_STEP - 1, len(rows), 24)[0]] = value
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": rows})


def failed(folder, dataset=None, **values):
    with pytest.raises(NonFiniteError, match=r"\A[^\n]+\Z") as caught:
        fit(config(**values), folder, dataset=dataset)
    return caught.value


def first_of(folder, step=BAD_STEP):
    return json.loads((folder / "replays" / f"step={step}" / "report.json").read_text())["first"]


@pytest.mark.long
@pytest.mark.parametrize("most", [1, 20])
def test_the_step_is_found_though_nothing_is_logged_there(tmp_path, most):
    dataset = data(1e30)
    error = failed(tmp_path / "run", dataset, steps_per_dispatch=most)
    assert error.step == BAD_STEP
    assert f"at step {BAD_STEP} " in str(error)
    assert "checkpoint 6 is the last good one" in str(error)
    assert re.search(r"the largest before them was \d.*e\+30, in the output of layer ", str(error))
    with np.load(tmp_path / "run" / "replays" / f"step={BAD_STEP}" / "batch.npz") as file:
        rows = batch_indices(config().seed, BAD_STEP - 1, 12 * 24, 24)
        np.testing.assert_array_equal(file["rows"], dataset.splits["train"][rows])


def test_a_code_too_large_to_square_is_blamed_on_its_density(tmp_path):
    failed(tmp_path / "run", data(1e30))
    first = first_of(tmp_path / "run")
    assert (first["stage"], first["name"]) == ("layer", "prior/log_prob")
    assert (first["bad"], first["size"]) == (1, 24)


@pytest.mark.parametrize("group", some_long(["encoder", "decoder", "prior"], ["prior"]))
def test_parameters_of_no_use_are_named_before_all_that_they_spoil(tmp_path, group):
    fit(config(num_steps=6), tmp_path / "run")
    run = Run(config(num_steps=6), tmp_path / "run", dataset_from(config()))
    good = run.start()
    kernels = [path for path, _ in jax.tree.leaves_with_path(good.params[group])]
    broken = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * np.inf if path == kernels[-1] else leaf, good.params[group]
    )
    run.start = lambda: good.replace(params={**good.params, group: broken})
    found = replay(run, 1)
    assert found.step == 1
    assert found.first.stage == "before"
    assert found.first.name.startswith(f"params/{group}/")
    assert {each.stage for each in found.findings} == set(STAGES)


@pytest.mark.long
def test_an_update_that_overflows_is_blamed_on_the_update(tmp_path):
    row = {"schedules.constant.learning_rate": 1e38, "optimizer": "sgd", "prior": "standard_normal"}
    made = config()
    made.update_from_flattened_dict(row)
    with pytest.raises(NonFiniteError) as caught:
        fit(made, tmp_path / "run")
    first = first_of(tmp_path / "run", caught.value.step - 1)
    assert first["stage"] == "after"
    assert first["name"].startswith("params/")


@pytest.mark.parametrize(
    "regularizer", some_long(["none", "beta_tc", "factor", "rae_sn"], ["factor"])
)
def test_steps_taken_again_give_the_state_of_the_run(tmp_path, regularizer):
    values = {"regularizer": regularizer, "num_steps": 7, "ema_decay": 0.0}
    if regularizer == "rae_sn":
        values |= {"posterior": "deterministic", "prior": "standard_normal"}
    fit(config(**values), tmp_path / "run", num_devices=1)
    run = Run(config(**values), tmp_path / "run", dataset_from(config(**values)))
    found = replay(run, 7)
    assert (found.step, found.first) == (7, None)
    after = {each.name: each.largest for each in found.findings if each.stage == "after"}
    state = jax.device_get(state_before(run, 8))
    for path, leaf in jax.tree.leaves_with_path(state.params):
        name = "params/" + "/".join(key.key for key in path)
        assert after[name] == pytest.approx(np.abs(leaf).max(), rel=1e-4)


def test_the_command_tells_the_same_and_changes_nothing_of_the_run(tmp_path, capsys):
    bad = data(1e30)
    np.savez(tmp_path / "moons.npz", x_train=bad.splits["train"], x_test=bad.splits["test"])
    made = config(dataset="arrays")
    made.datasets.arrays.path = str(tmp_path / "moons.npz")
    folder = tmp_path / "run"
    with pytest.raises(NonFiniteError) as caught:
        fit(made, folder)
    before = (folder / "metrics.jsonl").read_bytes()
    assert main(["replay", "--workdir", str(folder), "--quiet"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-2] in str(caught.value)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert main(["replay", "--workdir", str(folder), "--step", "7", "--quiet"]) == 0
    assert "step 7, taken again, is finite" in capsys.readouterr().out
    for step, said in (("0", "no step 0; the run has steps 1 to 12"), ("13", "no step 13")):
        assert main(["replay", "--workdir", str(folder), "--step", step]) == 2
        assert said in capsys.readouterr().err
