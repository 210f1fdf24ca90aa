"""What goes wrong around a run ends in one line, loses nothing, and the same command goes on."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from test_resume import assert_same_run, config_of, contents, fit

from vaejax import locks
from vaejax.cli import main
from vaejax.config import to_json
from vaejax.locks import held
from vaejax.training import checkpoint
from vaejax.training.checkpoint import CheckpointError, Checkpoints, host_copy, saved_steps
from vaejax.training.metrics import MetricsLog, rows

ROOT = Path(__file__).parents[1]
SHORT = {"num_steps": 60, "eval_every": 30}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """(folder, model, state) of the run that nothing goes wrong with; read-only."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    return folder, *fit(config_of(**SHORT), folder)[:2]


def command(folder, **values):
    """`vaejax train` of the config, in a process of its own."""
    path = folder.with_suffix(".json")
    path.write_text(to_json(config_of(**{**SHORT, **values})))
    flags = ["train", "--config", path, "--workdir", folder, "--devices", "2", "--quiet"]
    return [sys.executable, "-m", "vaejax", *map(str, flags)]


def assert_same_in_the_end(folder, **values):
    """Going on with what is in `folder` gives what a run of the config in another folder does."""
    other = folder.with_name("other")
    config = config_of(**{**SHORT, **values})
    expected = fit(config, other)
    fit(config, folder)
    assert_same_run(folder, (other, *expected[:2]))


def ended(done):
    """Its one line of error."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def hold(path, is_held):
    with held(path, "it"):
        is_held.set()
        time.sleep(600)


@pytest.mark.long
def test_a_folder_has_one_trainer_and_a_killed_one_leaves_it(tmp_path, twin):
    folder, context = tmp_path / "run", multiprocessing.get_context("spawn")
    folder.mkdir()
    is_held = context.Event()
    owner = context.Process(target=hold, args=(folder / ".lock", is_held))
    owner.start()
    assert is_held.wait(60)
    before = contents(folder)
    with one_line(f"{folder} is in use by process {owner.pid} on "):
        fit(config_of(**SHORT), folder)
    assert contents(folder) == before
    owner.kill()
    owner.join()
    fit(config_of(**SHORT), folder)
    assert_same_run(folder, twin)
    assert not (folder / ".lock").exists()


def test_a_lock_whose_file_is_removed_while_it_is_awaited_is_taken_anew(tmp_path, monkeypatch):
    path, looks = tmp_path / ".lock", iter([True, False])
    flock = locks.fcntl.flock

    def released_meanwhile(file, flags):
        flock(file, flags)
        if next(looks, False):
            path.unlink()  # as its owner does, between the two acts of this process

    monkeypatch.setattr(locks.fcntl, "flock", released_meanwhile)
    with held(path, "it"):
        assert path.read_text().startswith(f"process {os.getpid()} ")
        monkeypatch.undo()
        with one_line("it is in use by"), held(path, "it"):
            pass
    assert not path.exists()


def test_a_lock_needs_no_room_on_the_disk(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / ".lock"
    monkeypatch.setattr(locks.os, "write", full)
    with held(path, "it"), one_line("it is in use by another process"), held(path, "it"):
        pass
    assert not path.exists()


def test_a_full_disk_is_one_line_before_a_checkpoint_and_room_lets_it_go_on(
    tmp_path, twin, monkeypatch
):
    folder, free = tmp_path / "run", iter([10**9, 1000])
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
        with pytest.raises(CheckpointError, match=r"goes on from checkpoint 20 \(.*0\.0 MB are fr"):
            fit(config_of(**SHORT), folder)
    assert saved_steps(folder) == [20]
    fit(config_of(**SHORT), folder)
    assert_same_run(folder, twin)


@pytest.mark.long
def test_metrics_that_cannot_be_written_are_one_line_and_what_was_cut_is_made_again(tmp_path, twin):
    folder = tmp_path / "run"
    files = [path for path in twin[0].rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    limit = 2 * max(path.stat().st_size for path in files)

    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    limited += "; from vaejax.cli import main; sys.exit(main(sys.argv[1:]))"  # as on a full disk
    longer = {"num_steps": 400, "log_every": 1}
    flags = command(folder, **longer)[3:]
    environment = {**os.environ, "VAEJAX_CACHE": str(tmp_path / "cache")}
    given = {"env": environment, "cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", limited, *flags], **given)
    assert f"File too large: '{folder / 'metrics.jsonl'}'" in ended(done)
    assert_same_in_the_end(folder, **longer)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, twin, monkeypatch):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: 2e9 - now())
    fit(config_of(**SHORT), tmp_path / "run")
    assert_same_run(tmp_path / "run", twin)


def test_what_a_killed_process_left_of_a_checkpoint_is_removed_by_the_next(tmp_path, twin):
    folder = Path(shutil.copytree(twin[0], tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints" / "60")
    partial = folder / "checkpoints" / "60.orbax-checkpoint-tmp"
    shutil.copytree(folder / "checkpoints" / "40", partial)
    assert saved_steps(folder)[-1] == 40
    fit(config_of(**SHORT), folder)
    assert_same_run(folder, twin)
    assert not partial.exists()


def test_a_checkpoint_that_a_kill_left_removed_in_part_is_none(tmp_path, twin, monkeypatch):
    def killed(path):
        min(Path(path).rglob("manifest.ocdbt")).unlink()
        raise KeyboardInterrupt

    def saving(keep, *steps):
        with Checkpoints(tmp_path, keep) as checkpoints:
            for step in steps:
                checkpoints.save(host_copy(twin[2].replace(step=np.int32(step))))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            saving(2, 1, 2, 3, 4)
    assert saved_steps(tmp_path) == [2, 3]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert [checkpoints.restore(twin[2], step).step for step in (2, 3)] == [2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    saving(1)  # one too many, as after a kill between save and removal
    assert saved_steps(tmp_path) == [3]


def test_links_in_the_places_of_a_lock_and_of_metrics_are_not_followed(tmp_path):
    precious, elsewhere = tmp_path / "precious", tmp_path / "elsewhere"
    precious.write_text("mine")
    (tmp_path / ".lock").symlink_to(precious)
    with one_line(r"\.lock is a link, or no file; remove it"), held(tmp_path / ".lock", "it"):
        pass
    assert precious.read_text() == "mine"
    (tmp_path / "metrics.jsonl").symlink_to(elsewhere)
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", {"loss": 1.0})
    assert not elsewhere.exists()
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "train", "loss": 1.0}]


def test_names_that_no_checkpoint_has_are_none(tmp_path):
    for name in ("7", "0", "007", "\u00b2", "-1", "9" * 200, "8.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert saved_steps(tmp_path) == [0, 7]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        fit(config_of(**SHORT), tmp_path / "run")


def test_a_folder_below_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run"
    (tmp_path / "run.json").write_text(to_json(config_of(**SHORT)))
    flags = ["--config", str(tmp_path / "run.json"), "--workdir", str(path)]
    assert main(["train", *flags]) == 2
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.long
def test_sigterm_twice_ends_at_once_and_what_was_saved_goes_on(tmp_path, twin):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder, log_every=1), cwd=ROOT)
    while not saved_steps(folder):
        time.sleep(0.01)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)
    assert_same_in_the_end(folder, log_every=1)
