"""What a run remembers of its data: which examples it never saw, and which data they are."""

import dataclasses
import json

import numpy as np
import pytest

import vaejax
from vaejax.cli import main
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from, make_transform
from vaejax.evaluation.evaluate import evaluate
from vaejax.reporting.run import write_figures
from vaejax.training.state import observed

SPLITS = {"validation": 0.25, "test": 0.2, "seed": 3}


def points(num=80, seed=0):
    x = np.random.default_rng(seed).normal(size=(num, 2)).astype(np.float32)
    return Dataset("points", {"train": x}, 1.0, labels={"train": np.arange(num)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on data that came in one piece: its folder, its config, and the data."""
    config = vaejax.load_config("configs/tiny.py").unlock()
    config.splits.update(SPLITS)
    folder = tmp_path_factory.mktemp("run")
    _, _, config = vaejax.fit(config, folder, points(), quiet=True)
    return folder, config


def given(config):
    """The config as the user wrote it, without what the run has filled in."""
    config = config.copy_and_resolve_references().unlock()
    config.data_sha256 = ""
    return config


def metric_rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_records_its_division_and_hash_and_watches_the_validation_split(run):
    folder, config = run
    saved, card = (json.loads((folder / f"{n}.json").read_text()) for n in ("config", "dataset"))
    assert saved["splits"] == SPLITS
    assert saved["data_sha256"] == card["sha256"] == config.data_sha256
    sizes = {split: facts["num_examples"] for split, facts in card["splits"].items()}
    assert sizes == {"train": 44, "validation": 20, "test": 16}
    assert {row["split"] for row in metric_rows(folder)} == {"train", "validation"}
    data = dataset_from(given(config), points())
    assert data.sha256 == config.data_sha256
    np.testing.assert_array_equal(
        data.splits["validation"][:], points().splits["train"][data.labels["validation"]]
    )


@pytest.mark.long
def test_every_split_is_evaluated_by_name_and_figures_draw_validation(run):
    folder, _ = run
    results = {
        split: evaluate(folder, points(), split=split, importance_samples=0)
        for split in ("train", "validation", "test")
    }
    for split, result in results.items():
        assert result["num_examples"] == {"train": 44, "validation": 20, "test": 16}[split]
        name = "evaluation.json" if split == "test" else f"evaluation_{split}.json"
        assert json.loads((folder / name).read_text()) == result
    last = metric_rows(folder)[-1]
    expected = results["validation"]["metrics"]["elbo"]["value"]
    assert (last["split"], last["step"]) == ("validation", 4)
    assert last["elbo"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="unknown split 'valid'; did you mean 'validation'"):
        evaluate(folder, points(), split="valid")


def test_other_data_are_refused_unless_told_and_then_named(run):
    folder, config = run
    for other in (points(seed=1), points(num=81)):
        with pytest.raises(ValueError, match=r"trained on other data.*--other-data allows it"):
            evaluate(folder, other)
        before = {path.name for path in folder.iterdir()}
        result = evaluate(folder, other, importance_samples=0, other_data=True)
        sha256 = dataset_from(given(config), other).sha256
        assert result["data"]["sha256"] == sha256
        new = {path.name for path in folder.iterdir()} - before
        assert new == {f"evaluation_{sha256[:8]}.json"}
    flat = Dataset("flat", {"train": np.zeros((80, 3), np.float32)}, 1.0)
    with pytest.raises(ValueError, match=r"for data of shape \(2,\); 'flat' has \(3,\)"):
        evaluate(folder, flat, other_data=True)


def test_the_run_goes_on_with_the_same_data_and_with_no_other(run, tmp_path):
    _, config = run
    before = vaejax.fit(given(config), tmp_path, points(), quiet=True)[2]
    config = given(config)
    noted = dataclasses.replace(points(), note="the same, found elsewhere")
    assert vaejax.fit(config, tmp_path, noted, quiet=True)[2].data_sha256 == before.data_sha256
    contents = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    with pytest.raises(ValueError, match="other data"):
        vaejax.fit(config, tmp_path, points(seed=1), quiet=True)
    config.splits.seed = 4
    with pytest.raises(ValueError, match=r"splits\.seed: 3 != 4"):
        vaejax.fit(config, tmp_path, points(), quiet=True)
    assert contents == {path: path.read_bytes() for path in tmp_path.glob("*.json*")}


def test_a_config_can_promise_its_data(run, tmp_path):
    _, config = run
    promised = config.copy_and_resolve_references()
    vaejax.fit(promised, tmp_path / "kept", points(), quiet=True)
    with pytest.raises(ValueError, match=r"points: the data have the SHA-256 .*data_sha256"):
        vaejax.fit(promised, tmp_path / "broken", points(seed=1), quiet=True)
    assert not (tmp_path / "broken").exists()


@pytest.mark.long
def test_figures_of_a_run_with_a_validation_split(tmp_path):
    config = vaejax.load_config("configs/tiny.py:digits").unlock()
    config.splits.update(SPLITS)
    vaejax.fit(config, tmp_path, quiet=True)
    assert all(path.is_file() for path in write_figures(tmp_path))


@pytest.mark.long
def test_a_run_finds_its_data_where_they_moved_and_other_data_when_told(tmp_path, capsys):
    def command(*arguments):
        status = main([*map(str, arguments)])
        return status, capsys.readouterr().err

    x = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1)).astype(np.uint8)
    for name, rows in (("here", x), ("there", x), ("other", x[::-1])):
        np.save(tmp_path / f"{name}.npy", rows)
    run = ("--workdir", tmp_path / "run")
    path = {p.stem: f"--config.datasets.arrays.path={p}" for p in tmp_path.glob("*.npy")}
    tiny = ("--config", "configs/tiny.py:digits", "--config.dataset=arrays")
    assert command("train", *run, *tiny, path["here"])[0] == 0
    (tmp_path / "here.npy").unlink()
    streamed = "--config.placement=streamed"
    assert command("train", *run, *tiny, path["there"], streamed)[0] == 0  # complete
    evaluate_ = ("evaluate", *run, "--importance-samples", "0")
    assert "which does not exist" in command(*evaluate_)[1]
    assert command(*evaluate_, path["there"])[0] == 0
    assert command("figures", *run, path["there"])[0] == 0
    for name in ("evaluate", "figures"):
        status, error = command(name, *run, path["other"])
        assert (status, "--other-data allows it" in error) == (2, True)
    assert command(*evaluate_, path["other"], "--other-data")[0] == 0
    assert command("figures", *run, path["other"], "--other-data")[0] == 0
    status, error = command(*evaluate_, path["other"], "--config.seed=1", "--other-data")
    assert (status, "seed: 0 != 1" in error) == (2, True)


def test_figures_of_data_made_in_python_need_them_again(tmp_path):
    config = vaejax.load_config("configs/tiny.py").unlock()
    config.dataset = "arrays"
    vaejax.fit(config, tmp_path, points(), quiet=True)
    with pytest.raises(ValueError, match="a Dataset made in Python must be given again"):
        write_figures(tmp_path)
    assert all(path.is_file() for path in write_figures(tmp_path, points()))


def test_something_is_always_held_out(tmp_path):
    config = vaejax.load_config("configs/tiny.py").unlock()
    config.splits.test = 0.0
    with pytest.raises(
        ValueError, match=r"points has no test split, and config\.splits\.test is 0"
    ):
        vaejax.fit(config, tmp_path / "run", points())
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_what_is_drawn_in_evaluation_is_the_same_for_every_run(tmp_path):
    results = []
    for seed in (0, 1):
        config = vaejax.load_config("configs/tiny.py:digits").unlock()
        config.update(seed=seed, observation="bernoulli", likelihood="bernoulli", num_steps=2)
        model, state, config = vaejax.fit(config, tmp_path / str(seed), quiet=True)
        data = dataset_from(config)
        transform = make_transform(config, data)
        rows = data.splits["test"]
        results.append(np.asarray(observed(transform, rows, np.arange(len(rows)))))
    np.testing.assert_array_equal(*results)
    metrics = evaluate(tmp_path / "0", split="test", importance_samples=0)["metrics"]
    assert "x drawn once per example" in metrics["elbo"]["protocol"]
