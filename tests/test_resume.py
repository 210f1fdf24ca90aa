"""Interrupted and resumed equals uninterrupted, bit for bit, and nothing on disk is lost."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import vaejax
from vaejax.config import load_config, to_json
from vaejax.data.batches import batch_indices
from vaejax.data.sources import dataset_from
from vaejax.training import loop, workdir
from vaejax.training.checkpoint import CheckpointError, Checkpoints, saved_steps
from vaejax.training.metrics import NonFiniteError

ROOT = Path(__file__).parents[1]
NUM_STEPS = 300
DRIVER = """
import sys, jax
jax.config.update("jax_cpu_enable_async_dispatch", False)
import vaejax
vaejax.fit(vaejax.load_config(sys.argv[1]), sys.argv[2], num_devices=2, quiet=True)
"""


def config_of(**values):
    config = load_config("configs/tiny.py").unlock()
    config.update(num_steps=NUM_STEPS, log_every=7, eval_every=50, checkpoint_every=20)
    config.update(regularizer="factor", prior="decoupled", ema_decay=0.9, schedule="cosine")
    config.update(values)
    return config


def fit(config, folder, **more):
    return vaejax.fit(config, folder, **{"num_devices": 2, "quiet": True, **more})


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    """One compilation for all the runs of this file, also those of other processes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    settings = {
        "jax_compilation_cache_dir": str(shared / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """(folder, model, state) of the run that nothing interrupted; read-only."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    model, state, _ = fit(config_of(), folder)
    return folder, model, jax.device_get(state)


@pytest.fixture
def copy(twin, tmp_path):
    return Path(shutil.copytree(twin[0], tmp_path / "copy"))


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def times(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_identical(state, other):
    assert jax.tree.structure(state) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(other), strict=True)
    for (path, one), two in pairs:
        one, two = np.asarray(one), np.asarray(two)
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert one.tobytes() == two.tobytes(), jax.tree_util.keystr(path)


def assert_same_run(folder, twin):
    assert_identical(vaejax.load(folder)[1], twin[2])
    metrics, expected = ((f / "metrics.jsonl").read_bytes() for f in (folder, twin[0]))
    assert metrics.decode().splitlines() == expected.decode().splitlines()
    assert metrics == expected


class Interrupt:
    """A signal that arrives during step `after` of a call of `fit`."""

    def __init__(self, after):
        self.left = after

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    @property
    def received(self):
        self.left -= 1
        return self.left < 0


def test_runs_interrupted_at_any_step_equal_the_uninterrupted_run(twin, tmp_path, monkeypatch):
    done = 0
    for steps in (0, 1, 19, 33, 108):  # before the first, and next to what is due at 7, 20 and 50
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_Signals", lambda steps=steps: Interrupt(steps))
            state = fit(config_of(), tmp_path / "run")[1]
        done += steps
        assert state.step == done
        assert_identical(vaejax.load(tmp_path / "run")[1], state) if done else None
    fit(config_of(), tmp_path / "run")
    assert_same_run(tmp_path / "run", twin)


def start(folder, compiled):
    config = folder.with_suffix(".json")
    config.write_text(to_json(config_of()))
    command = [sys.executable, "-c", DRIVER, str(config), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | compiled, stderr=subprocess.PIPE)


def wait_for_step(process, folder, step):
    """Until the last complete line of the metrics is of `step` or later."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        path = folder / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            return
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        time.sleep(0.001)
    process.kill()
    raise TimeoutError


def test_a_run_killed_at_random_moments_equals_the_uninterrupted_run(twin, tmp_path, compiled):
    folder = tmp_path / "run"
    for step in (7, 70, 180):
        process = start(folder, compiled)
        wait_for_step(process, folder, step)
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 8, "split": "train", "lo')  # cut short
        with (folder / "timing.jsonl").open("a") as file:
            file.write('{"st')
    process = start(folder, compiled)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()[-2000:]
    assert_same_run(folder, twin)
    assert all(json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines())


def test_sigterm_saves_exits_with_zero_and_resumes_to_the_uninterrupted_run(
    twin, tmp_path, compiled
):
    process = start(tmp_path / "run", compiled)
    wait_for_step(process, tmp_path / "run", 30)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()[-2000:]
    last = saved_steps(tmp_path / "run")[-1]
    logged = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 30 <= last < NUM_STEPS
    assert last - 7 < json.loads(logged[-1])["step"] <= last
    fit(config_of(), tmp_path / "run")
    assert_same_run(tmp_path / "run", twin)


def test_running_a_complete_run_again_and_loading_it_changes_no_file(twin, copy):
    before = contents(copy), times(copy)
    state = fit(config_of(), copy)[1]
    assert_identical(state, twin[2])
    vaejax.load(copy)
    assert (contents(copy), times(copy)) == before


def test_load_gives_from_the_folder_alone_what_fit_gave(twin):
    folder, _, state = twin
    model, loaded, config = vaejax.load(folder)
    assert_identical(loaded, state)
    assert to_json(config) == to_json(config_of())
    assert state.variables()["params"] is state.ema
    x, keys = dataset_from(config).splits["test"][:5], jax.random.split(jax.random.key(0), 5)
    apply = jax.jit(model.apply)
    terms = apply(loaded.variables(), x, keys)
    assert_identical(terms, apply({"params": state.ema, "batch_stats": {}}, x, keys))
    assert np.isfinite(terms.reconstruction).all()
    for step in saved_steps(folder):
        assert vaejax.load(folder, checkpoint=step)[1].step == step


def test_resuming_on_another_number_of_devices_gives_close_values(twin, copy):
    state = fit(config_of(), copy, checkpoint=280, num_devices=4)[1]
    assert state.step == NUM_STEPS
    rows = [json.loads((f / "metrics.jsonl").read_text().splitlines()[-1]) for f in (copy, twin[0])]
    assert rows[0].keys() == rows[1].keys()
    for name, value in rows[1].items():
        assert rows[0][name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_a_damaged_checkpoint_is_named_kept_and_can_be_gone_back_from(twin, copy, damage):
    newest = copy / "checkpoints" / str(NUM_STEPS)
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    else:
        victim.unlink()
    before = contents(copy)
    for attempt in (lambda: fit(config_of(), copy), lambda: vaejax.load(copy)):
        with pytest.raises(CheckpointError, match=rf"{newest} cannot be read.*280"):
            attempt()
    assert contents(copy) == before
    fit(config_of(), copy, checkpoint=280)
    assert_same_run(copy, twin)
    aside = {f"checkpoints/{name}": data for name, data in contents(copy / "set_aside").items()}
    assert aside == {name: d for name, d in before.items() if f"/{NUM_STEPS}/" in name}


@pytest.mark.parametrize("damage", ["truncated", "deleted", "flipped"])
def test_no_damaged_file_of_a_checkpoint_is_read_as_other_values(twin, copy, damage):
    newest = copy / "checkpoints" / str(NUM_STEPS)
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        data, name = path.read_bytes(), str(path.relative_to(newest))
        middle = len(data) // 2
        path.unlink()
        if damage == "truncated":
            path.write_bytes(data[:middle])
        elif damage == "flipped" and data:
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        before = contents(copy)
        with Checkpoints(copy) as checkpoints:
            try:
                assert_identical(checkpoints.restore(twin[2]), twin[2])
            except CheckpointError as error:
                assert str(newest) in str(error), name
            except AssertionError as error:
                raise AssertionError(f"{name} {damage}: other values, no error") from error
        assert contents(copy) == before
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1, "batch_size": 12}, r"batch_size: 24 != 12; seed: 0 != 1"),
        ({"priors.decoupled.width": 9}, r"priors\.decoupled\.width: 8 != 9"),
    ],
)
def test_the_folder_of_another_config_is_refused_with_the_differing_keys(copy, change, named):
    config, before = config_of(), contents(copy)
    config.update_from_flattened_dict(change)
    for checkpoint in (None, 280):
        with pytest.raises(ValueError, match=named):
            fit(config, copy, checkpoint=checkpoint)
    assert contents(copy) == before


def test_other_data_are_refused_and_nothing_is_written(copy):
    dataset, before = dataset_from(config_of()), contents(copy)
    for split in ("train", "test"):
        rows = dataset.splits[split].copy()
        rows[-1, -1] += 1e-6
        other = dataclasses.replace(dataset, splits={**dataset.splits, split: rows})
        with pytest.raises(ValueError, match="other data"):
            fit(config_of(), copy, dataset=other)
    assert contents(copy) == before


def test_a_folder_claimed_only_in_part_gets_the_card_of_the_run_that_follows(tmp_path):
    card = workdir.dataset_card(dataset_from(config_of()))
    workdir.claim(tmp_path, config_of(), {**card, "name": "abandoned"})
    (tmp_path / "config.json").unlink()  # a crash between the two files
    workdir.check_same_run(tmp_path, config_of(), card)
    workdir.claim(tmp_path, config_of(), card)
    assert workdir.saved_card(tmp_path) == card


def poisoned(config, update, value):
    """The data of `config` with a value that only update number `update` sees."""
    config.datasets.two_moons.num_train = config.batch_size * config.num_steps
    dataset = dataset_from(config)
    rows = dataset.splits["train"].copy()
    rows[batch_indices(config.seed, update - 1, len(rows), config.batch_size)[0]] = value
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": rows})


def assert_finite_checkpoints(folder):
    for step in saved_steps(folder):
        state = vaejax.load(folder, checkpoint=step)[1]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), step


def test_a_loss_that_is_not_finite_stops_with_step_and_term_again_and_again(tmp_path):
    config = config_of(regularizer="none", prior="standard_normal", num_steps=12)
    config.update(log_every=1, checkpoint_every=3)
    dataset = poisoned(config, 8, 1e30)
    for _ in range(2):  # the second call resumes, and meets the same batch
        with pytest.raises(NonFiniteError, match=r"at step 8 .*\breconstruction\b"):
            fit(config, tmp_path / "run", dataset=dataset)
        assert saved_steps(tmp_path / "run") == [3, 6]
        assert_finite_checkpoints(tmp_path / "run")


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    config = config_of(regularizer="none", prior="standard_normal", num_steps=3, optimizer="sgd")
    config.update(log_every=1, checkpoint_every=1, schedule="constant")
    config.schedules.constant.learning_rate = 1e38
    with pytest.raises(NonFiniteError):
        fit(config, tmp_path / "run")
    assert_finite_checkpoints(tmp_path / "run")


BAD = {
    "batch larger than the split": ({"batch_size": 97}, {}),
    "devices that do not divide the batch": ({}, {"num_devices": 5}),
    "more devices than there are": ({}, {"num_devices": 9}),
    "no devices": ({}, {"num_devices": 0}),
    "a checkpoint that is not there": ({}, {"checkpoint": 5}),
    "an unknown regularizer": ({"regularizer": "beta_tcc"}, {}),
    "a trunk for other data": ({"encoder": "mnist"}, {}),
    "parts that do not fit": ({"regularizer": "beta_tc", "posterior": "deterministic"}, {}),
    "warm-up longer than the run": ({"schedules.cosine.warmup_steps": 300}, {}),
    "a package that is not installed": ({"tensorboard": True}, {}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_one_line_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    values, more = BAD[name]
    config = config_of()
    config.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        fit(config, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()
