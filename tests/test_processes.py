"""Two processes with two devices each: the run of one process, to its files and its end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import vaejax
from vaejax.config import load_config, to_json
from vaejax.training.checkpoint import saved_steps
from vaejax.training.metrics import rows

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
REGULARIZERS = ("beta_tc", "factor", "info")
NUM_STEPS, MIDDLE = 8, 4
# What each of the processes does; FOLDER also has what they are to stumble over.
DRIVER = """
import dataclasses, json, sys
from pathlib import Path
import jax
jax.config.update("jax_enable_preemption_service", False)
port, process, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, cluster_detection_method="deactivate")
import numpy as np, vaejax
from vaejax.config import load_config
from vaejax.data.sources import dataset_from
from vaejax.training.replicas import fit_replicas

def config_of(name, **values):
    config = load_config(str(folder / f"{name}.json")).unlock()
    config.update(values)
    return config

said = []
def refused(function):
    try:
        function()
    except (ValueError, RuntimeError) as error:
        said.append(f"{type(error).__name__}: {error}")

info = config_of("info")
refused(lambda: vaejax.fit(config_of("info", seed=process), folder / "never"))
refused(lambda: vaejax.fit(config_of("info", seed=9), folder / "one", quiet=True))
refused(lambda: vaejax.fit(config_of("info", batch_size=23), folder / "never"))
refused(lambda: vaejax.fit(info, folder / "never", num_devices=3))
refused(lambda: fit_replicas(info, {"seed": [0, 1]}, folder / "never"))
for name in sys.argv[4:]:
    vaejax.fit(config_of(name), folder / name, quiet=process > 0)
vaejax.fit(info, folder / "one", checkpoint=MIDDLE, quiet=True)
data = dataset_from(info)
bad = {**data.splits, "train": np.full_like(data.splits["train"], 1e30)}
bad = dataclasses.replace(data, splits=bad)
refused(lambda: vaejax.fit(config_of("info"), folder / "diverged", bad, quiet=True))
(folder / f"said{process}.json").write_text(json.dumps(said))
"""


def config_of(regularizer):
    """Gradient descent, under which rounding stays rounding; Adam turns the sign of what is 0."""
    config = load_config("configs/tiny.py").unlock()
    config.update(regularizer=regularizer, prior="decoupled", optimizer="sgd", num_steps=NUM_STEPS)
    config.update(log_every=1, eval_every=MIDDLE, checkpoint_every=MIDDLE)
    config.placement = "streamed" if regularizer == "factor" else "resident"
    return config


def environment(num_devices):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    flags = {"XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0"}
    more = {"JAX_PLATFORMS": "cpu", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0"}
    return {**os.environ, **flags, **more, "PYTHON": sys.executable, "PATIENCE": "10"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `beta_tc`, `factor` and `info`, trained by two processes; read-only.

    `one`, trained by one process, went on from the middle in two.
    """
    folder, port = tmp_path_factory.mktemp("trained"), free_port()
    for name in REGULARIZERS:
        (folder / f"{name}.json").write_text(to_json(config_of(name)))
    vaejax.fit(config_of("info"), folder / "one", num_devices=1, quiet=True)
    program = DRIVER.replace("MIDDLE", str(MIDDLE))
    processes = []
    for process in range(2):
        command = [sys.executable, "-c", program, port, str(process), str(folder), *REGULARIZERS]
        given = {"cwd": ROOT, "env": environment(2), "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, **given))
    for process in processes:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error[-3000:]
    return folder


def assert_same_training(folder, other, start, steps=(MIDDLE, NUM_STEPS), rounding=1e-4):
    """Metrics to rounding; parameters to rounding of the way that the gradients moved them."""
    ours, theirs = rows(folder / "metrics.jsonl"), rows(other / "metrics.jsonl")
    for one, two in zip(ours, theirs, strict=True):
        assert (one["step"], one.pop("split")) == (two["step"], two.pop("split"))
        assert one == pytest.approx(two, rel=rounding, abs=rounding / 10)
    for step in steps:
        states = [vaejax.load(each, checkpoint=step)[1] for each in (folder, other)]
        ours, theirs = (jax.device_get(state.params) for state in states)
        moved = jax.tree.map(lambda a, b: np.linalg.norm(a - b), ours, start)
        away = jax.tree.map(lambda a, b: np.linalg.norm(a - b), ours, theirs)
        assert sum(jax.tree.leaves(away)) < 1e-4 * sum(jax.tree.leaves(moved))


def start_of(config):
    from vaejax.benchmark.stepper import make_run
    from vaejax.data.sources import dataset_from

    return jax.device_get(make_run(config, dataset_from(config)).start().params)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_two_processes_train_as_one_on_as_many_devices_and_on_one(trained, regularizer, tmp_path):
    config = config_of(regularizer)
    for count in (4, 1):
        vaejax.fit(config, tmp_path / str(count), num_devices=count, quiet=True)
        assert_same_training(trained / regularizer, tmp_path / str(count), start_of(config))


def test_a_run_goes_on_with_fewer_and_with_more_processes(trained, tmp_path):
    start = start_of(config_of("info"))
    assert saved_steps(trained / "one") == [MIDDLE, NUM_STEPS]
    assert [path.name for path in (trained / "one" / "set_aside").iterdir()] == [str(NUM_STEPS)]
    assert_same_training(trained / "one", trained / "info", start)
    fewer = Path(shutil.copytree(trained / "info", tmp_path / "fewer"))
    vaejax.fit(config_of("info"), fewer, checkpoint=MIDDLE, num_devices=1, quiet=True)
    assert_same_training(fewer, trained / "info", start)


def test_what_ends_one_process_ends_the_other_at_the_same_place(trained):
    first, second = (
        json.loads((trained / f"said{process}.json").read_text()) for process in (0, 1)
    )
    both = "ValueError: processes 0 and 1 have not the same config, data and number of devices"
    assert first[0] == second[0] == both
    assert "holds another run" in first[1] or "seed" in first[1]
    assert second[1] == "ValueError: stopped because of an error in process 0, which tells it"
    uneven = "ValueError: batch_size 23 does not divide evenly over 2 processes"
    assert first[2] == second[2] == uneven
    assert first[3] == second[3] == "ValueError: 3 devices do not divide evenly over 2 processes"
    assert first[4] == second[4] == "ValueError: replicas need one process, not 2: leave them out"
    assert not (trained / "never").exists()
    assert first[5].startswith("NonFiniteError: at step 1 these are not finite")
    assert first[5].startswith(f"{second[5]}; nothing was saved; `vaejax replay ")
    assert saved_steps(trained / "diverged") == []


def running(folder, step):
    """`launch/local.sh`, and the ids of its processes, once metrics of `step` are written."""
    arguments = ["2", "2", "train", "--config", "configs/tiny.py", "--workdir", str(folder)]
    given = {"num_steps": 10**6, "log_every": 10, "checkpoint_every": 20, "eval_every": 10**5}
    arguments += [f"--config.{key}={value}" for key, value in given.items()]
    said, path = folder.with_suffix(".err"), folder / "metrics.jsonl"
    with said.open("w") as file:
        script = subprocess.Popen(
            ["bash", "launch/local.sh", *arguments],
            cwd=ROOT,
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    limit = time.monotonic() + 300
    while script.poll() is None and time.monotonic() < limit:
        if path.exists() and any(row["step"] >= step for row in rows(path)):
            break
        time.sleep(0.1)
    lines = [line.split() for line in said.read_text().splitlines() if line.startswith("local: p")]
    assert script.poll() is None, said.read_text()
    return script, [int(words[-1]) for words in lines]


def test_a_signal_to_one_process_saves_and_a_lost_one_ends_the_other(tmp_path):
    folder = tmp_path / "run"
    script, processes = running(folder, 30)
    os.kill(processes[1], signal.SIGTERM)
    out, _ = script.communicate(timeout=120)  # Gloo, which joins the processes, also prints
    said = folder.with_suffix(".err").read_text()
    assert script.returncode == 0, said
    saved = saved_steps(folder)[-1]
    assert out.splitlines()[-1] == f"stopped and saved at step {saved}; the same command goes on"
    assert int(vaejax.load(folder)[1].step) == saved
    assert rows(folder / "metrics.jsonl")[-1]["step"] == saved // 10 * 10

    script, processes = running(folder, saved + 30)
    os.kill(processes[1], signal.SIGKILL)
    killed = time.monotonic()
    script.communicate(timeout=120)
    assert script.returncode == 128 + signal.SIGKILL
    assert time.monotonic() - killed < 60  # the patience of 10 seconds, and a slow machine
    lines = folder.with_suffix(".err").read_text().splitlines()
    lost = [line for line in lines if line.startswith("distributed: ")]
    assert len(lost) == 1
    # The heartbeats tell which process it was; the connection, if it breaks first, does not.
    which = "(process 1|another process) was lost or failed, so this one ends too; "
    assert re.match(f"distributed: error: {which}", lost[0])
    assert not any("failure" in line or ".cc:" in line for line in lines)
    assert saved_steps(folder)[-1] > saved
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
