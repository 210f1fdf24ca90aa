"""Any config and any command line trains a step, or ends with one line and status 2."""

import contextlib
import io
import itertools
import json
import math
import re
import shutil
import signal
import warnings

import hypothesis
import numpy as np
import pytest
from fuzzing import TREE, changes, command_lines
from hypothesis import strategies as st
from PIL import Image

from vaejax.cli import main

SECONDS = 240  # of a command, on a busy machine: more is a hang
FEW, MANY = 12, 150  # of configs, and of command lines
EXAMPLES = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
SMALL = {
    "num_steps": 1,
    "datasets.swiss_roll.num_train": 48,
    "datasets.swiss_roll.num_test": 24,
    "datasets.stand_in.x_shape": [8, 8, 1],
    "encoders.conv.channels": [2],
    "decoders.conv.channels": [2],
}


def put(tree, dotted, value):
    """Set a key of nested dictionaries; below what is none, nothing."""
    *path, last = dotted.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            return
    tree[last] = value


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with data, and with a run that is finished."""
    folder = tmp_path_factory.mktemp("fuzz")
    generator = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=generator.normal(size=(40, 2)).astype(np.float32))
    (folder / "pictures").mkdir()
    for k in range(30):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{k}.png")
    assert (
        outcome(folder, "train", "--config", "configs/tiny.py", "--workdir", folder / "run")[0] == 0
    )
    return folder


class Hang(BaseException):
    pass


def outcome(folder, *arguments):
    """(exit status, lines of standard error but warnings) of a command in this process."""

    def stop(*_):
        raise Hang(arguments)

    said, told = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said):
            warnings.simplefilter("default")  # as for a user
            with contextlib.redirect_stdout(told):
                status = main([str(each) for each in arguments])
    except SystemExit as end:
        status = end.code
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    lines = said.getvalue().splitlines()
    return status, [line for line in lines if not line.startswith("vaejax: warning: ")]


def contents(folder):
    paths = {path: path.lstat() for path in folder.rglob("*")}
    return {path: path.is_dir() or stat.st_mtime_ns for path, stat in paths.items()}


def check(folder, *arguments):
    """A step, or one line and nothing written.  -> what came of it."""
    before = contents(folder)
    status, lines = outcome(folder, *arguments)
    if status == 1:  # what diverges has trained
        assert "not finite" in lines[-1], lines
        return "diverged"
    if status == 0:
        return "done"
    assert status == 2, (status, lines)
    assert len(lines) == 1, lines
    assert lines[0].startswith("vaejax: error: "), lines
    assert len(lines[0]) < 1_500, lines
    assert all(character.isprintable() for character in lines[0]), lines
    assert contents(folder) == before
    return "refused"


COUNTER = itertools.count()


def train(home, changed, as_flags):
    """`vaejax train` of the tiny config with these changes, in a new folder.  -> its arguments."""
    folder = home / f"fuzz{next(COUNTER)}"
    folder.mkdir()
    given = {"datasets.arrays.path": str(home / "x.npz")}
    given |= {"datasets.image_folder.path": str(home / "pictures")}
    given = {**SMALL, **given, **changed}
    arguments = ["train", "--workdir", folder / "run", "--quiet", "--devices", 1, "--config"]
    if as_flags:
        return folder, [*arguments, "configs/tiny.py", *map(as_flag, given.items())]
    tree = json.loads(json.dumps(TREE))
    for key, value in given.items():
        put(tree, key, value)
    (folder / "config.json").write_text(json.dumps(tree))
    return folder, [*arguments, folder / "config.json"]


def as_flag(item):
    key, value = item
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"--config.{key}={text}"


def examples(count):
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_config_trains_or_is_refused_in_one_line(home, count):
    @examples(count)
    @hypothesis.given(changes(), st.booleans())
    def each(changed, as_flags):
        folder, arguments = train(home, changed, as_flags)
        came = check(folder, *arguments)
        hypothesis.event(came)
        if came == "done":
            rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
            assert all(math.isfinite(json.loads(row).get("loss", 0.0)) for row in rows)
        shutil.rmtree(folder)

    each()


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_command_line_is_done_or_refused_in_one_line(home, count):
    places = {"RUN": str(home / "run"), "HOME": str(home / "new"), "FILE": str(home / "x.npz")}

    @examples(count)
    @hypothesis.given(command_lines())
    def each(line):
        if line[:1] == ["table"] and "configs/table_digits.py" in line:
            line = [*line, "--config.datasets=()"]  # it would train for hours
        (home / "new").mkdir(exist_ok=True)
        pattern = "|".join(places)
        line = [re.sub(rf"^({pattern})(?=/|$)", lambda m: places[m[1]], each) for each in line]
        hypothesis.event(check(home, *line))

    each()
