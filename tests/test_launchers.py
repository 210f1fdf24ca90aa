"""The launchers hand every process its place and the arguments of `vaejax train`, and no more."""

import io
import json
import os
import runpy
import shlex
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vaejax.cli import _parser

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(map(str, [*ROOT.glob("launch/*.sh"), ROOT / ".ci/run"]))
ARGUMENTS = ["train", "--config", "configs/tiny.py:two moons", "--workdir", "it's here", "--quiet"]
DISTRIBUTED = runpy.run_path(str(ROOT / "launch/distributed.py"))
LOST = """\
E1121 16:05:06.62 14940 coordination_service.cc:1549] [14] Use error polling to propagate: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
The tasks have crashed. [type.googleapis.com/tensorflow.CoordinationServiceError='']
E1121 16:05:06.62 14951 coordination_service_agent.cc:289] Polled an error from coordination service.
"""  # noqa: E501
ENDED = """\
F1121 16:05:06.62 14951 client.h:80] Terminating process because the JAX distributed service detected fatal errors. UNAVAILABLE:
*** Check failure stack trace: ***
    @     0x7f1e0cc40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""  # noqa: E501


def test_the_scripts_are_clean_to_shellcheck():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [shellcheck, "--severity=style", *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert len(SCRIPTS) > 6
    assert (done.returncode, done.stdout) == (0, "")


def stand_in(folder, name):
    """A program of that name, which writes its arguments to a file beside it, as the only one."""
    path = folder / name
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(folder))}/seen\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_slurm_starts_one_process_for_each_of_its_tasks(tmp_path):
    environment = stand_in(tmp_path, "srun")
    given = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "8"}
    command = ["bash", ROOT / "launch/slurm.sh", *ARGUMENTS]
    subprocess.run(command, env={**environment, **given}, check=True)
    options, program = (tmp_path / "seen").read_text().split(".venv/bin/python\n")
    assert options.split() == ["--kill-on-bad-exit=1", "--cpus-per-task=8"]
    assert program.splitlines() == ["launch/distributed.py", *ARGUMENTS]
    header = (ROOT / "launch/slurm.sh").read_text()
    asked = dict(
        line[8:].strip("- ").split("=", 1) for line in header.splitlines() if "#SBATCH" in line
    )
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("TERM@")


def test_every_worker_of_a_tpu_slice_gets_the_command_word_for_word(tmp_path):
    environment = {**stand_in(tmp_path, "gcloud"), "TPU": "slice", "ZONE": "here"}
    subprocess.run(["bash", ROOT / "launch/tpu.sh", *ARGUMENTS], env=environment, check=True)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen[:8] == [
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "slice",
        "--zone",
        "here",
        "--worker=all",
    ]
    words = shlex.split(seen[-1])
    assert words[:4] == ["cd", "vaejax", "&&", "exec"]
    assert words[4:] == [".venv/bin/python", "launch/distributed.py", *ARGUMENTS]


def test_the_jobset_is_complete_and_its_numbers_agree():
    jobset = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) == {"network", "failurePolicy", "replicatedJobs"}
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert set(replicated) == {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"  # gives the pods names, and JOB_COMPLETION_INDEX
    assert job["backoffLimit"] == 0  # one lost pod restarts all
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert all(isinstance(word, str) for word in container["command"] + container["args"])
    assert (ROOT / container["command"][1]).is_file()

    arguments = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in container["args"]]
    options = DISTRIBUTED["_options"](arguments)
    assert options.processes == job["completions"] == job["parallelism"]
    assert (options.process, replicated["replicas"]) == (3, 1)
    name = jobset["metadata"]["name"]
    (port,) = container["ports"]
    host = f"{name}-{replicated['name']}-0-0.{name}"
    assert options.coordinator == f"{host}:{port['containerPort']}"
    trained, overrides = _parser().parse_known_args(options.arguments)
    assert (ROOT / trained.config).is_file()
    assert not overrides
    assert trained.stopped_status > 0  # an evicted pod has not completed its work
    assert Path(trained.workdir).is_relative_to(container["volumeMounts"][0]["mountPath"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("evaluate --workdir W", "evaluate is not train"),
        ("", "nothing is not train"),
        ("--processes 2 --process 0 train", "go together"),
        ("--process 0 train", "go together"),
        ("--coordinator a:1 --processes 2 --process 2 train", "--process is 2; it must be from 0"),
        ("--coordinator a --processes 2 --process 1 train", "'a', not HOST:PORT"),
        ("--patience 0 train", "--patience is 0"),
        ("--patience x train", "invalid int value: 'x'"),
        ("--coordinator a:1 --processes 0 --process 0 train", "--processes is 0"),
        ("--coordinator a:99999 --processes 2 --process 1 train", "port 99999; it must be from 1"),
    ],
)
def test_a_process_without_its_place_is_refused_in_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        DISTRIBUTED["_options"](arguments.split())
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        place = f"--coordinator localhost:{port} --processes 2 --process 0 train"
        with pytest.raises(SystemExit):
            DISTRIBUTED["_options"](place.split())
    assert f"process 0 cannot listen at port {port} (" in capsys.readouterr().err


def test_errors_may_go_to_a_file(tmp_path):
    program = "import runpy, sys; runpy.run_path(sys.argv[1])['_shorten_last_words']()"
    program += "; sys.stderr.reconfigure(errors='backslashreplace'); sys.exit('said')"
    with (tmp_path / "said").open("w") as file:
        command = [sys.executable, "-c", program, ROOT / "launch/distributed.py"]
        process = subprocess.Popen(command, stderr=file)
        assert process.wait(60) == 1
    limit = time.monotonic() + 60
    while not (said := (tmp_path / "said").read_text()) and time.monotonic() < limit:
        time.sleep(0.01)
    assert said == "said\n"


def last_words(text):
    out = io.StringIO()
    DISTRIBUTED["_pass_on"](io.StringIO(text), out)
    return out.getvalue()


def test_what_the_runtime_says_at_the_end_of_a_lost_run_becomes_one_line():
    unknown = LOST.splitlines(keepends=True)[-1] + ENDED
    for text, process in ((LOST + ENDED, "process 1"), (unknown, "another process")):
        before, line = last_words("step 1\nstep 2\n" + text).split("step 2\n")
        assert before == "step 1\n"
        assert line.count("\n") == 1
        assert line.startswith(f"distributed: error: {process} was lost or failed")
    for harmless in ("E1121 something else\nmore\n", LOST, json.dumps("x") + "\n"):
        assert last_words(harmless) == harmless
