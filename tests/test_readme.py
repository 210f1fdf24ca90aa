"""The commands and snippets of the README and of the documentation run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = "\n".join([README, *(p.read_text() for p in sorted((ROOT / "launch/docs").glob("*.md")))])
QUICK = "--xla_backend_optimization_level=0"  # of compilation, not of what it makes
SHORT = ["--config.num_steps=20", "--config.eval_every=20", "--config.log_every=10"]


def blocks(language, text=PAGES):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def environment(tmp_path):
    """The interpreter that runs the tests, on the path, in a folder where runs may be left."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join([scripts, os.environ["PATH"]])
    flags = {"XLA_FLAGS": QUICK, "PATH": path, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **flags}


def ran(script, tmp_path):
    """The finished process of a script of the README, by this interpreter and in this folder."""
    script = re.sub(r"^(vaejax|python) ", f"{sys.executable} -m \\1 ", script, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euc", script.replace("-m python ", "")],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_ci_runs_the_test_command_of_the_readme():
    assert "bash launch/test.sh\n" in blocks("bash", README)
    assert "\nbash launch/test.sh || status=1\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.long
def test_quickstart_leaves_what_the_readme_says_and_then_finds_it_complete(tmp_path):
    assert blocks("bash", README)[0] == "bash launch/quickstart.sh\n"
    workdir = tmp_path / "quickstart"
    command = ["bash", str(ROOT / "launch" / "quickstart.sh"), *SHORT]
    environment = {**os.environ, "WORKDIR": str(workdir), "XLA_FLAGS": QUICK}
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    sentence = re.search(r"leaves `runs/quickstart/` with (.*?)\. Run again", README, re.DOTALL)
    for name in re.findall(r"`([a-z._/]+)`", sentence[1]):
        assert (workdir / name).exists(), name
    written = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.*")}
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "is complete" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.*")} == written


@pytest.mark.long
def test_the_commands_of_a_pair_run_as_written(tmp_path):
    (script,) = (block for block in blocks("bash", README) if "runs/moons" in block)
    ran(script.replace("decoupled", f"decoupled {' '.join(SHORT)}", 1), tmp_path)


@pytest.mark.long
def test_a_sweep_and_what_it_costs_run_as_written(tmp_path):
    (sweep,) = (block for block in blocks("bash") if "--replicas" in block)
    (costs,) = (block for block in blocks("bash") if "--estimate" in block)
    done = ran(f"{sweep}\n{costs}", tmp_path)
    assert "runs/sweep/seed=2,beta=4.0" in done.stdout
    assert "parameters" in done.stdout
    assert "GFLOP/s" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("script", [b for b in blocks("bash") if "config.dataset" in b])
def test_the_users_own_data_are_trained_on_as_written(tmp_path, script):
    if "pictures" in script:
        rows = np.random.default_rng(0).integers(0, 256, (80, 40, 36, 3), np.uint8)
        (tmp_path / "pictures").mkdir()
        for index, row in enumerate(rows):
            Image.fromarray(row).save(tmp_path / "pictures" / f"{index}.png")
    if "tfds" in script:
        (builder,) = (b for b in blocks("python") if "GeneratorBasedBuilder" in b)
        (tmp_path / "builder.py").write_text(builder)
        script = f"python builder.py\n{script}"
    done = ran(script.replace("--workdir", f"{' '.join(SHORT)} --workdir"), tmp_path)
    assert "complete: 20 steps" in done.stdout


@pytest.mark.long
def test_parts_of_ones_own_are_trained_as_written(tmp_path):
    (mine,) = (block for block in blocks("python", README) if "PRIORS[" in block)
    (script,) = (block for block in blocks("bash", README) if "mine.py" in block)
    (tmp_path / "mine.py").write_text(mine)
    done = ran(script, tmp_path)
    assert "small_codes x long_flow on ring" in done.stderr
    assert "runs/mine is complete: 4 steps" in done.stdout


def test_the_data_commands_run_as_written(tmp_path):
    from vaejax.data.catalog import CATALOG, EMBEDDED

    (script,) = (block for block in blocks("bash") if "data list" in block)
    done = ran(script, tmp_path)
    for name in (*CATALOG, *EMBEDDED):
        assert f"\n{name} " in done.stdout


@pytest.mark.long
def test_the_snippets_run_as_written(tmp_path):
    snippets = [block for block in blocks("python") if "GeneratorBasedBuilder" not in block]
    for index, snippet in enumerate(snippets):
        (tmp_path / f"snippet_{index}.py").write_text(snippet)
    script = "import glob, runpy\nfor p in sorted(glob.glob('snippet_*.py')): runpy.run_path(p)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = re.search(r"# (0\.6 mss .*)", PAGES)[1]
    assert answer.split(", ") == [line for line in done.stdout.splitlines() if line[:2] == "0."]


@pytest.mark.long
def test_the_table_command_makes_a_table_of_the_same_columns(tmp_path):
    (script,) = (block for block in blocks("bash") if "vaejax table" in block)
    assert script.strip() in re.sub(r"\s+", " ", README)
    few = "(('none', 'regularizer=none', 'num_steps=20'),)"
    given = f"--config.seeds='(0,)' --config.methods=\"{few}\" --config.importance_samples=2"
    ran(script.replace("--workdir", f"{given} --workdir"), tmp_path)
    made = (tmp_path / "runs/table_digits/table.md").read_text()
    full = (ROOT / "configs" / "README.md").read_text()
    header = full.partition("## Digits")[2].split("\n\n")[1].splitlines()[0]
    assert header in made
    assert [
        line.split("|")[2].strip() for line in made.splitlines() if line.startswith("| none")
    ] == [
        "standard_normal",
        "decoupled",
    ]


def test_the_table_of_the_readme_is_an_extract():
    def rows(text):
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]

    full = (ROOT / "configs" / "README.md").read_text()
    header, _, *ours = rows(README.partition("<!-- extract")[2].split("\n\n")[0])[1:]
    table = rows(full.partition("## Digits")[2].split("\n\n")[1])
    places = [table[0].index(name) for name in header]
    assert len(ours) == 7
    for row in ours:
        assert row in [[one[place] for place in places] for one in table]


def test_the_names_that_the_pages_list_are_those_of_the_tables():
    from vaejax.config import default_config

    config = default_config()
    for name in [*config.priors, *config.regularizers, *config.observations]:
        assert f"`{name}`" in PAGES
    for path in re.findall(r"`(vaejax/[a-z_./]*|tests/[a-z_./]*|configs/[a-z_.]*)", PAGES):
        assert (ROOT / path.split(":")[0]).exists(), path
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / path).exists(), path
