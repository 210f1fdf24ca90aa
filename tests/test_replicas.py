"""A sweep trained as one program: every replica is its lone run, with a folder of its own."""

import contextlib
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import one_line

import vaejax
from vaejax.cli import main
from vaejax.config import load_config, saved_config, to_json
from vaejax.data.sources import dataset_from
from vaejax.evaluation.evaluate import evaluate
from vaejax.training import loop
from vaejax.training.checkpoint import saved_steps
from vaejax.training.metrics import rows
from vaejax.training.replicas import fit_replicas, parsed_sweep, replica_configs

SEEDS_AND_WEIGHTS = {"seed": [0, 2**32 - 1], "regularizers.beta_tc.beta": [1.0, 4.0]}
RATES_AND_WEIGHTS = {
    "schedules.constant.learning_rate": [1e-3, 4e-3],
    "likelihoods.gaussian.mse_weight": [1.0, 5.0],
    "regularizers.factor.critic_learning_rate": [1e-2, 1e-3],
}
SEEDS = {"seed": [3, 4]}


def config_of(**changes):
    """Gradient descent, under which rounding stays rounding; Adam turns the sign of what is 0."""
    config = load_config("configs/tiny.py").unlock()
    config.update(optimizer="sgd", log_every=1, **changes)
    return config


def convolutional():
    config = config_of(dataset="stand_in", encoder="conv", decoder="conv")
    config.update(prior="standard_normal", regularizer="none")
    config.datasets.stand_in.x_shape = (8, 8, 1)
    config.encoders.conv.channels = config.decoders.conv.channels = (4,)
    return config


# The config, its sweep, and the replicas that are compared with their lone runs.
CASES = {
    "beta_tc": (config_of(), SEEDS_AND_WEIGHTS, (0, 1, 2, 3)),
    "factor": (config_of(regularizer="factor"), RATES_AND_WEIGHTS, (3, 4)),
    "conv": (convolutional(), SEEDS, (1,)),
}


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """`lone(case)`: the folders of lone runs, by name of the replica."""

    @functools.cache
    def folders(case):
        config, sweep, compared = CASES[case]
        named = list(replica_configs(config, sweep).items())
        folder = tmp_path_factory.mktemp(case)
        for name, one in (named[place] for place in compared):
            vaejax.fit(one, folder / name, num_devices=1, quiet=True)
        return {path.name: path for path in sorted(folder.iterdir())}

    return folders


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of the finished sweep over seeds and weights; read-only."""
    config, sweep, _ = CASES["beta_tc"]
    folder = tmp_path_factory.mktemp("swept")
    fit_replicas(config, sweep, folder, num_devices=1, vectorized=False, quiet=True)
    return folder


@pytest.fixture
def copy(swept, tmp_path):
    return Path(shutil.copytree(swept, tmp_path / "copy"))


def again(folder, **more):
    """The same sweep in `folder`."""
    given = {"num_devices": 1, "vectorized": False, "quiet": True, **more}
    return fit_replicas(*CASES["beta_tc"][:2], folder, **given)


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def assert_close(folder, other, tolerance):
    """The metrics and the last states of two runs agree."""
    found, expected = rows(folder / "metrics.jsonl"), rows(other / "metrics.jsonl")
    assert len(found) == len(expected) > 4
    for one, two in zip(found, expected, strict=True):
        assert one.pop("split") == two.pop("split")
        assert one == pytest.approx(two, rel=tolerance, abs=tolerance)
    states = (vaejax.load(path)[1] for path in (folder, other))
    for one, two in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("case", "vectorized", "num_devices", "tolerance"),
    [
        pytest.param("beta_tc", True, 1, 2e-4, marks=pytest.mark.long),
        ("beta_tc", True, 4, 2e-4),
        pytest.param("beta_tc", False, 4, 2e-4, marks=pytest.mark.long),
        pytest.param("factor", None, 1, 2e-4, marks=pytest.mark.long),
        pytest.param("conv", None, 1, 2e-4, marks=pytest.mark.long),
        pytest.param("conv", True, 1, 2e-4, marks=pytest.mark.long),
    ],
)
def test_every_replica_equals_its_lone_run(
    lone, tmp_path, case, vectorized, num_devices, tolerance
):
    config, sweep, _ = CASES[case]
    given = {"vectorized": vectorized, "num_devices": num_devices, "quiet": True}
    folders = {path.name: path for path in fit_replicas(config, sweep, tmp_path, **given)}
    assert list(folders) == list(replica_configs(config, sweep))
    for name, other in lone(case).items():
        assert_close(folders[name], other, tolerance)
        assert saved_steps(folders[name]) == saved_steps(other)
        assert to_json(saved_config(folders[name])) == to_json(saved_config(other))
    ended = {(path / "metrics.jsonl").read_text() for path in folders.values()}
    assert len(ended) == len(folders)  # no two alike


def test_replicas_one_after_the_other_are_nearly_their_lone_runs(lone, swept):
    for name, other in lone("beta_tc").items():
        assert_close(swept / name, other, 1e-5)


def test_a_replica_is_evaluated_loaded_and_found_complete_alone(lone, copy):
    name, other = next(iter(lone("beta_tc").items()))
    before = contents(copy)
    _, state, config = vaejax.load(copy / name)
    finished = vaejax.fit(saved_config(copy / name), copy / name, quiet=True)[1]
    jax.tree.map(np.testing.assert_array_equal, state, finished)
    assert contents(copy) == before
    found, expected = (evaluate(path, importance_samples=4) for path in (copy / name, other))
    for metric, value in expected["metrics"].items():
        assert found["metrics"][metric]["value"] == pytest.approx(value["value"], rel=1e-4)
    config.unlock().num_steps = 8
    with one_line("num_steps: 4 != 8"):
        vaejax.fit(config, copy / name, quiet=True)


def test_an_interrupted_replica_goes_on_alone(copy, swept):
    name = "seed=0,beta=4.0"
    shutil.rmtree(copy / name / "checkpoints" / "4")
    assert (
        vaejax.fit(saved_config(copy / name), copy / name, num_devices=1, quiet=True)[1].step == 4
    )
    assert_close(copy / name, swept / name, 1e-6)


def interrupted_after(count):
    calls = iter([False] * count)
    signals = type("Signals", (), {"received": property(lambda self: next(calls, True))})
    return contextlib.nullcontext(signals())


@pytest.mark.long
@pytest.mark.parametrize("vectorized", [False, True])
def test_interrupted_replicas_end_as_uninterrupted_ones(swept, tmp_path, monkeypatch, vectorized):
    for step, count in ((1, 1), (2, 1)):  # a dispatch of one step, then one until a checkpoint
        with monkeypatch.context() as patch:
            patch.setattr(loop, "Signals", functools.partial(interrupted_after, count))
            folders = again(tmp_path, vectorized=vectorized)
        assert [saved_steps(path)[-1] for path in folders] == [step] * 4
    before = [(path / "timing.jsonl").read_text() for path in folders]
    for path, lines in zip(again(tmp_path, vectorized=vectorized), before, strict=True):
        assert (path / "timing.jsonl").read_text().startswith(lines)  # not done again
        assert_close(path, swept / path.name, 2e-4 if vectorized else 1e-6)
        if not vectorized:
            text = (swept / path.name / "metrics.jsonl").read_text()
            assert (path / "metrics.jsonl").read_text() == text


def test_what_is_complete_is_left_alone_and_the_others_go_on_from_what_all_have(copy, swept):
    first, second, *complete = (path.name for path in sorted(copy.iterdir()))
    shutil.rmtree(copy / first / "checkpoints" / "4")
    shutil.rmtree(copy / second / "checkpoints" / "4")
    for file in ("metrics.jsonl", "timing.jsonl"):  # cut short by a crash
        with (copy / second / file).open("a") as log:
            log.write('{"step": 3, "spl')
    before = {name: contents(copy / name) for name in complete}
    assert [path.parent for path in again(copy)] == [copy] * 4
    assert {name: contents(copy / name) for name in complete} == before
    for name in (first, second):
        assert saved_steps(copy / name)[-1] == 4
        assert_close(copy / name, swept / name, 1e-6)
    everything = contents(copy)
    again(copy)
    assert contents(copy) == everything


@pytest.mark.long
def test_a_replica_that_diverges_ends_alone(lone, tmp_path, capsys):
    (tmp_path / "config.json").write_text(to_json(config_of()))
    given = ["--config", tmp_path / "config.json", "--workdir", tmp_path / "sweep", "--devices=1"]
    given += ["--quiet", "--replicas", "schedules.constant.learning_rate=1e30,1e-3,1e28"]
    assert main(["train", *map(str, given)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    for name in ("learning_rate=1e+30", "learning_rate=1e+28"):
        assert f"{name}: at step 2 these are not finite" in line
    good = tmp_path / "sweep" / "learning_rate=0.001"
    assert_close(good, lone("beta_tc")["seed=0,beta=4.0"], 2e-4)
    for name in ("learning_rate=1e+30", "learning_rate=1e+28"):
        assert saved_steps(tmp_path / "sweep" / name) == []
        logged = rows(tmp_path / "sweep" / name / "metrics.jsonl")
        assert logged[-1]["step"] < 4
        assert not np.isfinite(logged[-1]["loss"])


REFUSED = [
    ("regularizers.beta_tc.bta=1", "unknown key config.regularizers.beta_tc.bta.*'beta'"),
    ("sed=0:3", "unknown key config.sed.*'seed'"),
    ("latent_dim=2,3", "config.latent_dim cannot differ between replicas; .*seed"),
    ("num_steps=2,3", "config.num_steps cannot differ"),
    ("prior=decoupled", "config.prior cannot differ"),
    ("regularizers.beta_tc.log_det=0,1", "log_det cannot differ"),
    ("regularizers.beta_tc=1", "beta_tc cannot differ"),
    ("encoders.mlp.leaky_slope=0.1,0.2", "leaky_slope cannot differ"),
    ("regularizers.factor.gamma=1,2", "not in use: config.regularizer is 'beta_tc'"),
    ("seed=3:3", "'seed=3:3' is not like seed=0:8"),
    ("seed=1.5", "'seed=1.5' is not like"),
    ("seed", "'seed' is not like"),
    ("regularizers.beta_tc.beta=x", "is not like regularizers.beta_tc.beta=0:8"),
    ("regularizers.beta_tc.beta=1,1.0", "is not like"),
    ("regularizers.beta_tc.beta=1,nan", "must be finite"),
    ("seed=-1:2", "config.seed is -1"),
    ("likelihoods.gaussian.mse_weight=1,0", "must be positive"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_bad_sweep_is_one_line_and_leaves_no_folder(tmp_path, text, said):
    config = config_of()
    with one_line(said):
        fit_replicas(config, parsed_sweep([text], config), tmp_path / "sweep", quiet=True)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_from_python_is_held_to_the_same(tmp_path):
    for sweep, said in [
        ({"latent_dim": [2, 3]}, "config.latent_dim cannot differ"),
        ({"sed": [0]}, "unknown key config.sed"),
    ]:
        with one_line(said):
            fit_replicas(config_of(), sweep, tmp_path / "sweep", quiet=True)
    info = config_of(regularizer="info")
    with one_line("alpha <= 1"):
        fit_replicas(info, {"regularizers.info.alpha": [0.0, 2.0]}, tmp_path / "sweep", quiet=True)
    with one_line("config.seed is swept twice"):
        parsed_sweep(["seed=0:2", "seed=4:6"], info)
    assert not (tmp_path / "sweep").exists()


def test_the_folder_of_another_run_is_refused_before_anything_is_written(copy):
    (copy / "seed=1,beta=1.0").mkdir()
    before = contents(copy)
    config, sweep, _ = CASES["beta_tc"]
    other = config.copy_and_resolve_references()
    other.batch_size = 12
    with one_line("batch_size: 24 != 12"):
        fit_replicas(other, {**sweep, "seed": [7, 0]}, copy, quiet=True)
    assert contents(copy) == before
    assert not (copy / "seed=7,beta=1.0").exists()


def test_the_command_prints_the_folders_and_refuses_in_one_line(copy, capsys):
    config = copy.parent / "config.json"
    config.write_text(to_json(CASES["beta_tc"][0]))
    command = ["train", "--config", str(config), "--workdir", str(copy), "--quiet", "--replicas"]
    texts = ["seed=0,4294967295", "regularizers.beta_tc.beta=1,4"]
    before = contents(copy)
    assert main([*command, *texts]) == 0
    names = [f"seed={seed},beta={beta}" for seed in (0, 2**32 - 1) for beta in (1.0, 4.0)]
    assert capsys.readouterr().out.splitlines() == [str(copy / name) for name in names]
    assert main([*command, "seed=0:2", "--checkpoint", "2"]) == 2
    assert main([*command, "seed=0:2", "latent_dim=2,3"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--checkpoint goes back in one run" in first
    assert "config.latent_dim cannot differ" in second
    assert contents(copy) == before


def test_replicas_and_their_data_are_those_of_the_config(copy):
    for path in copy.iterdir():
        seed, beta = path.name.removeprefix("seed=").split(",beta=")
        config = saved_config(path)
        assert (config.seed, config.regularizers.beta_tc.beta) == (int(seed), float(beta))
        assert config.data_sha256 == dataset_from(config).sha256
        assert json.loads((path / "dataset.json").read_text())["sha256"] == config.data_sha256
