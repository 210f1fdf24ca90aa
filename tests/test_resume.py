"""Interrupted and resumed equals uninterrupted, bit for bit, and nothing on disk is lost."""

import contextlib
import dataclasses
import functools
import gc
import json
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
from conftest import some_long

import vaejax
from vaejax.config import load_config, to_json
from vaejax.data.batches import batch_indices
from vaejax.data.sources import dataset_from
from vaejax.training import loop, workdir
from vaejax.training.checkpoint import CheckpointError, Checkpoints, saved_steps
from vaejax.training.feed import dispatches
from vaejax.training.metrics import NonFiniteError

# A failed read leaves callbacks of tensorstore behind that find orbax's event loop closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ROOT = Path(__file__).parents[1]
NUM_STEPS = 300
DRIVER = """
import sys, jax, vaejax
jax.config.update("jax_cpu_enable_async_dispatch", False)
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


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """(folder, model, state) of the run that nothing interrupts; read-only."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    model, state, _ = fit(config_of(), folder)
    return folder, model, jax.device_get(state)


@pytest.fixture
def copy(twin, tmp_path):
    return Path(shutil.copytree(twin[0], tmp_path / "copy"))


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def assert_identical(state, other):
    assert jax.tree.structure(state) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(other), strict=True)
    for (path, one), two in pairs:
        one, two = np.asarray(one), np.asarray(two)
        same = (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
        assert same, jax.tree_util.keystr(path)


def assert_same_run(folder, twin):
    assert_identical(vaejax.load(folder)[1], twin[2])
    assert (folder / "metrics.jsonl").read_bytes() == (twin[0] / "metrics.jsonl").read_bytes()


def interrupted_after(count):
    """A stand-in for the signals of `fit`, of which one arrives after so many dispatches."""
    calls = iter([False] * count)
    signals = type("Signals", (), {"received": property(lambda self: next(calls, True))})
    return contextlib.nullcontext(signals())


@pytest.mark.long
def test_runs_interrupted_at_any_step_equal_the_uninterrupted_run(twin, tmp_path, monkeypatch):
    done = 0
    # Before the first, and next to what is due at 7, 20 and 50.
    for most, count in ((20, 0), (20, 1), (1, 18), (3, 5), (20, 4), (1, 1), (20, 4)):
        parts = dispatches(range(done, NUM_STEPS), most, (20, 50))
        with monkeypatch.context() as patch:
            patch.setattr(loop, "Signals", functools.partial(interrupted_after, count))
            state = fit(config_of(steps_per_dispatch=most), tmp_path / "run")[1]
        done = parts[count].start
        assert state.step == done
    assert done > 100
    fit(config_of(), tmp_path / "run")
    assert_same_run(tmp_path / "run", twin)


def started(folder, step):
    """A process that runs the config, once the last complete line of its metrics is of `step`."""
    config, path = folder.with_suffix(".json"), folder / "metrics.jsonl"
    config.write_text(to_json(config_of()))
    command = [sys.executable, "-c", DRIVER, config, folder]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    while process.poll() is None:
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            break
        time.sleep(0.001)
    return process


@pytest.mark.long
def test_a_run_killed_at_random_moments_equals_the_uninterrupted_run(twin, tmp_path):
    folder = tmp_path / "run"
    for step in (7, 70, 180):
        process = started(folder, step)
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        _, error = process.communicate()
        assert process.returncode == -signal.SIGKILL, error.decode()[-2000:]
        for name in ("metrics.jsonl", "timing.jsonl"):
            with (folder / name).open("a") as file:
                file.write('{"step": 8, "spl')  # cut short
    process = started(folder, NUM_STEPS)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()[-2000:]
    assert_same_run(folder, twin)
    assert all(json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines())


def test_sigterm_saves_exits_with_0_and_resumes_to_the_uninterrupted_run(twin, tmp_path):
    folder = tmp_path / "run"
    process = started(folder, 28)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()[-2000:]
    assert 28 <= saved_steps(folder)[-1] < NUM_STEPS
    fit(config_of(), folder)
    assert_same_run(folder, twin)


def test_running_a_complete_run_again_and_loading_it_changes_no_file(twin, copy):
    before = contents(copy)
    assert_identical(fit(config_of(), copy)[1], twin[2])
    vaejax.load(copy)
    assert contents(copy) == before


def test_load_gives_from_the_folder_alone_what_fit_gave(twin):
    folder, _, state = twin
    model, loaded, config = vaejax.load(folder)
    assert_identical(loaded, state)
    assert to_json(config) == to_json(config_of(data_sha256=dataset_from(config).sha256))
    assert state.variables()["params"] is state.ema
    x = dataset_from(config).splits["test"][:5]
    terms, expected = (
        jax.jit(model.apply)(variables, x, jax.random.split(jax.random.key(0), 5))
        for variables in (loaded.variables(), {"params": state.ema, "batch_stats": {}})
    )
    assert_identical(terms, expected)
    for step in saved_steps(folder):
        assert vaejax.load(folder, checkpoint=step)[1].step == step


@pytest.mark.long
def test_resuming_on_another_number_of_devices_gives_close_values(twin, copy):
    assert fit(config_of(), copy, checkpoint=280, num_devices=4)[1].step == NUM_STEPS
    lines = [(f / "metrics.jsonl").read_text().splitlines()[-1] for f in (copy, twin[0])]
    last, expected = map(json.loads, lines)
    assert last.pop("split") == expected.pop("split")
    assert last == pytest.approx(expected, rel=1e-3, abs=1e-3)


def damage(path, how):
    data = path.read_bytes()
    middle = len(data) // 2
    path.unlink()
    if how == "truncated":
        path.write_bytes(data[:middle])
    elif how == "flipped":
        flipped = bytes(byte ^ 1 for byte in data[middle : middle + 1])
        path.write_bytes(data[:middle] + flipped + data[middle + 1 :])


@pytest.fixture
def _reads_end_here():
    """What Orbax left running when a read failed is collected while its warnings are ignored."""
    yield
    gc.collect()


@pytest.mark.usefixtures("_reads_end_here")
@pytest.mark.parametrize("how", ["truncated", "deleted"])
def test_a_damaged_checkpoint_is_named_kept_and_can_be_gone_back_from(twin, copy, how):
    newest = copy / "checkpoints" / str(NUM_STEPS)
    damage(max(newest.rglob("?*"), key=lambda path: path.is_file() * path.stat().st_size), how)
    before = contents(copy)
    for attempt in (lambda: fit(config_of(), copy), lambda: vaejax.load(copy)):
        with pytest.raises(CheckpointError, match=rf"{newest} cannot be read.*280"):
            attempt()
    assert contents(copy) == before
    fit(config_of(), copy, checkpoint=280)
    assert_same_run(copy, twin)
    aside = {f"checkpoints/{name}": found for name, found in contents(copy / "set_aside").items()}
    assert aside == {name: found for name, found in before.items() if f"/{NUM_STEPS}/" in name}


@pytest.mark.usefixtures("_reads_end_here")
@pytest.mark.parametrize("how", some_long(["truncated", "deleted", "flipped"], ["flipped"]))
def test_no_damaged_file_of_a_checkpoint_is_read_as_other_values(twin, copy, how):
    newest = copy / "checkpoints" / str(NUM_STEPS)
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        data, restored = path.read_bytes(), None
        damage(path, how)
        before = contents(copy)
        with Checkpoints(copy) as checkpoints, contextlib.suppress(CheckpointError):
            restored = checkpoints.restore(twin[2])
        if restored is not None:  # then what was damaged was not needed
            assert_identical(restored, twin[2])
        assert contents(copy) == before
        path.write_bytes(data)


def test_the_folder_of_another_run_is_refused_with_what_differs_and_not_written(copy):
    config, dataset, before = config_of(seed=1), dataset_from(config_of()), contents(copy)
    config.priors.decoupled.width = 9
    for checkpoint in (None, 280):
        with pytest.raises(ValueError, match=r"priors\.decoupled\.width: 8 != 9; seed: 0 != 1"):
            fit(config, copy, checkpoint=checkpoint)
    for split, rows in dataset.splits.items():
        other = dataclasses.replace(dataset, splits={**dataset.splits, split: rows[::-1]})
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


def assert_finite_checkpoints(folder):
    for state in (vaejax.load(folder, checkpoint=step)[1] for step in saved_steps(folder)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), state.step


@pytest.mark.long
def test_a_loss_that_is_not_finite_stops_with_step_and_term_again_and_again(tmp_path):
    config = config_of(regularizer="none", num_steps=12, log_every=1, checkpoint_every=3)
    config.datasets.two_moons.num_train = 12 * 24  # every example is seen once
    dataset = dataset_from(config)
    rows = dataset.splits["train"].copy()
    rows[batch_indices(config.seed, 7, len(rows), 24)[0]] = 1e30
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, "train": rows})
    for _ in range(2):  # the second call resumes, and meets the same batch
        with pytest.raises(NonFiniteError, match=r"at step 8 .*\breconstruction\b"):
            fit(config, tmp_path / "run", dataset=dataset)
        assert saved_steps(tmp_path / "run") == [3, 6]
        assert_finite_checkpoints(tmp_path / "run")


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    config = config_of(regularizer="none", num_steps=3, log_every=1, checkpoint_every=1)
    config.update(optimizer="sgd", schedule="constant")
    config.schedules.constant.learning_rate = 1e38
    with pytest.raises(NonFiniteError):
        fit(config, tmp_path / "run")
    assert_finite_checkpoints(tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({"batch_size": 97}, {}),  # the split has 96 examples
        ({}, {"num_devices": 5}),  # does not divide 24
        ({}, {"checkpoint": 5}),
        ({"encoder": "mnist"}, {}),
        ({"regularizer": "beta_tc", "posterior": "deterministic"}, {}),
        ({"schedules.cosine.warmup_steps": NUM_STEPS}, {}),
        ({"tensorboard": True}, {}),  # not installed
    ],
)
def test_bad_input_raises_one_line_before_anything_is_written(values, more, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = config_of()
    config.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        fit(config, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()
