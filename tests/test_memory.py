"""What does not fit into memory is one line that says what takes less; nothing is lost."""

import shutil

import jax
import pytest
from conftest import one_line
from test_resume import assert_same_run

import vaejax
from vaejax import memory
from vaejax.cli import main
from vaejax.cli_errors import KNOBS
from vaejax.config import from_json, to_json
from vaejax.memory import check_memory, is_exhausted
from vaejax.training import feed
from vaejax.training.checkpoint import Checkpoints, saved_steps

TINY = ["--config", "configs/tiny.py", "--devices", "2", "--quiet"]
EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes."


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """(folder, model, state) of a run that has all the memory it wants; read-only."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    assert main(["train", *TINY, "--workdir", str(folder)]) == 0
    model, state, _ = vaejax.load(folder)
    return folder, model, jax.device_get(state)


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError(EXHAUSTED), MemoryError()], ids=type)
def test_a_step_that_finds_no_memory_loses_nothing(capsys, tmp_path, monkeypatch, twin, error):
    mapped, folder = feed.mapped_steps, tmp_path / "run"

    def failing(*arguments):
        program, calls = mapped(*arguments), []

        def step(state, *rest):
            calls.append(rest)
            if len(calls) > 2:  # after the first checkpoint
                raise error
            return program(state, *rest)

        step.lower = program.lower
        return step

    with monkeypatch.context() as patch:
        patch.setattr(feed, "mapped_steps", failing)
        line = refused(capsys, "train", *TINY, "--workdir", folder)
    assert line.startswith("vaejax: error: out of memory (")
    assert line.endswith(KNOBS["train"])
    assert (str(error) or "MemoryError") in line
    assert saved_steps(folder) == [2]
    assert main(["train", *TINY, "--workdir", str(folder)]) == 0
    assert_same_run(folder, twin)


COMMANDS = {"evaluate": [], "sample": [], "figures": [], "fit-density": [], "report": []}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_takes_less(capsys, tmp_path, monkeypatch, twin, command):
    def restore(*arguments):
        raise ValueError("checkpoint 4 cannot be read") from jax.errors.JaxRuntimeError(EXHAUSTED)

    monkeypatch.setattr(Checkpoints, "restore", restore)
    folder = shutil.copytree(twin[0], tmp_path / "run")
    place = [folder] if command == "report" else ["--workdir", folder]
    line = refused(capsys, command, *place)
    assert f"out of memory (checkpoint 4 cannot be read); {KNOBS[command]}" in line


def test_a_table_says_what_takes_less(capsys, tmp_path, monkeypatch):
    def fill_table(*arguments, **more):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr("vaejax.tables.table.fill_table", fill_table)
    flags = ["--config", "configs/table_two_moons.py", "--config.seeds=(0,)"]
    line = refused(capsys, "table", *flags, "--workdir", tmp_path)
    assert f"(Unable to allocate 7 TiB); {KNOBS['table']}" in line


LARGE = [
    "latent_dim=65537",
    "latent_dim=2147483648",
    "encoders.mlp.widths=1000000,1000000",
    "encoders.mlp.widths=2147483647,2147483647,2147483647",
    "decoders.mlp.widths=" + ",".join(["8"] * 65),
    "priors.decoupled.width=2147483647",
    "priors.decoupled.num_blocks=1001",
    "datasets.two_moons.num_train=2147483647",
    "datasets.two_moons.num_test=10000000000",
    "steps_per_dispatch=1000000",
    "num_steps=2147483648",
    "schedules.constant.learning_rate=1e39",
    "optimizers.adam.b1=1.0",
]


@pytest.mark.parametrize("flag", LARGE)
def test_a_size_beyond_all_memory_and_sense_is_refused_at_once(capsys, tmp_path, flag):
    line = refused(capsys, "train", *TINY, "--workdir", tmp_path / "run", f"--config.{flag}")
    assert "must be" in line or "more than 64" in line or " GB of memory, and there are " in line
    assert not (tmp_path / "run").exists()


def test_an_integer_beyond_all_floats_is_refused():
    text = to_json(vaejax.load_config("configs/tiny.py"))
    assert text.count('"b1": 0.9,') == 2
    with one_line("b1 is 10+; it must be at most 3.4"):
        from_json(text.replace('"b1": 0.9,', f'"b1": 1{"0" * 400},', 1))


def test_the_data_of_an_image_have_bounds(capsys, tmp_path):
    flags = ["--config.dataset=stand_in", "--config.datasets.stand_in.x_shape=65536,65536,3"]
    line = refused(capsys, "train", *TINY, "--workdir", tmp_path / "run", *flags)
    assert "stand_in would take " in line
    assert "lower its num_train" in line


def test_a_model_or_a_step_that_is_too_large_is_not_tried(capsys, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(memory, "machine_memory", lambda: 5_000)
        row = "--config.datasets.two_moons.num_train=24"
        flags = ["--config.datasets.two_moons.num_test=24", row, "--workdir", tmp_path / "run"]
        line = refused(capsys, "train", *TINY, *flags)
        assert "parameters and what optimizers know of them would take 0.0 GB" in line
        assert not (tmp_path / "run").exists()
    monkeypatch.setattr(feed, "machine_memory", lambda: 10_000)
    line = refused(capsys, "train", *TINY, "--workdir", tmp_path / "run")
    assert "a step would take 0.0 GB" in line
    assert "lower config.batch_size" in line


def test_what_came_of_a_lack_of_memory_is_known_as_such():
    damaged = ValueError("damaged")
    damaged.__cause__ = MemoryError()
    assert is_exhausted(damaged)
    assert is_exhausted(jax.errors.JaxRuntimeError(EXHAUSTED))
    for other in (ValueError(EXHAUSTED), RuntimeError("INTERNAL"), None):
        assert not is_exhausted(other)
    check_memory(10, "this", "less", 10)
    with one_line("this would take 3.0 GB of memory, and there are 2.0 GB; less"):
        check_memory(3e9, "this", "less", 2e9)
