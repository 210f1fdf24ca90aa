"""The soak: it sees what is lost or different, and a few rounds of it."""

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from soak import KEEP, Twin
from test_faults import SHORT
from test_resume import config_of, fit

from vaejax.config import to_json

# A failed read leaves callbacks of tensorstore behind that find orbax's event loop closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
FEW = {**SHORT, "num_steps": 100, "regularizer": "none", "schedule": "constant"}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Of runs with 5 checkpoints, which it has kept; read-only."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    return Twin(folder, fit(config_of(**FEW, keep_checkpoints=100), folder)[1])


@pytest.fixture
def run(twin, tmp_path):
    """What an uninterrupted run has."""
    folder = Path(shutil.copytree(twin.folder, tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "keep_checkpoints": KEEP}))
    for step in (20, 40):
        shutil.rmtree(folder / "checkpoints" / str(step))
    yield folder
    gc.collect()  # of what failed reads left running, while its warnings are ignored


def other_line(run):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace("1", "2"))


def other_state(run):
    newest = run / "checkpoints" / "100"
    shutil.rmtree(newest)
    shutil.copytree(run / "checkpoints" / "80", newest)


def other_config(run):
    path = run / "config.json"
    path.write_text(to_json(config_of(**FEW, seed=1, keep_checkpoints=KEEP)))


def left_over(run):
    (run / "checkpoints" / "60.orbax-checkpoint-tmp").mkdir()


def half_removed(run):
    min((run / "checkpoints" / "60").rglob("manifest.ocdbt")).unlink()


def one_too_few(run):
    shutil.rmtree(run / "checkpoints" / "60")


def newest_lost(run):
    shutil.rmtree(run / "checkpoints" / "100")


def lines_lost(run):
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def test_what_is_complete_and_whole_passes(twin, run):
    twin.check_complete(run, is_exact=True)
    twin.check_interrupted(run, [60, 80, 100], is_exact=True)


@pytest.mark.parametrize(
    "damage",
    [other_line, other_state, other_config, left_over, half_removed, one_too_few, lines_lost],
)
@pytest.mark.long
def test_a_complete_run_that_differs_is_seen(twin, run, damage):
    damage(run)
    with pytest.raises((AssertionError, ValueError)):
        twin.check_complete(run, is_exact=True)


@pytest.mark.parametrize("damage", [other_line, other_state, newest_lost, lines_lost])
def test_a_killed_run_that_lost_something_is_seen(twin, run, damage):
    damage(run)
    with pytest.raises((AssertionError, ValueError)):
        twin.check_interrupted(run, [60, 80, 100], is_exact=True)


@pytest.mark.slow
def test_a_few_rounds_of_kills_end_as_their_twins(tmp_path):
    command = [sys.executable, "tests/soak.py", "--kills=2", f"--folder={tmp_path}"]
    given = {"cwd": Path(__file__).parents[1], "capture_output": True, "text": True}
    for rounds in (2, 5):  # the second goes on
        done = subprocess.run([*command, f"--rounds={rounds}"], **given)
        assert done.returncode == 0, done.stderr + done.stdout
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally["rounds"] == 5
    assert tally["kills"] >= 5
    assert len(done.stdout.splitlines()) == 4
