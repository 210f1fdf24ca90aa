"""Bad input is one line and exit status 2, and nothing existing is overwritten or lost."""

import json
import signal
import subprocess
import sys
import time
import warnings

import pytest

from vaejax.cli import main

TINY = ["--config", "configs/tiny.py"]


def run(capsys, *arguments):
    """Exit status, and the lines of standard error."""
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err.splitlines()


def refused(capsys, *arguments):
    """The one line of a refusal."""
    status, lines = run(capsys, *arguments)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("vaejax: error: ")
    return lines[0]


def snapshot(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the tiny config."""
    workdir = tmp_path_factory.mktemp("finished")
    assert main(["train", *TINY, "--workdir", str(workdir), "--quiet"]) == 0
    return workdir


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.prio=decoupled"], "unknown key config.prio; did you mean 'prior'?"),
        (["--config.priors.decoupled.widht=3"], "did you mean 'width'?"),
        (["--config.prior=decopled"], "unknown prior 'decopled'; did you mean 'decoupled'?"),
        (["--config.regularizer=betatc"], "did you mean 'beta_tc'?"),
        (["--config.dataset=two_mons"], "did you mean 'two_moons'?"),
        (["--config.latent_dim=0"], "config.latent_dim is 0; it must be at least 1"),
        (["--config.latent_dim=two"], "latent_dim"),
        (["--config.encoders.mlp.widths=0,8"], "widths is 0; it must be at least 1"),
        (["--config.priors.decoupled.mask=haf"], "did you mean 'half'?"),
        (["--config.batch_size=500"], "batch_size is 500; it must be from 1 to 96"),
        (["--config.posterior=deterministic"], "needs log q(z|x)"),
        (["--config.encoder=mnist"], "fits images (H, W, C)"),
        (["--config.likelihoods.gaussian.mse_weight=0"], "must be positive"),
        (["--config.schedule=cosine", "--config.schedules.cosine.warmup_steps=9"], "warmup_steps"),
        (["--devices", "5"], "batch_size 24 does not divide evenly over 5 devices"),
        (["--devices", "99"], "99 devices asked for"),
        (["--checkpoint", "2"], "no checkpoint 2"),
        (["--confg"], "unknown argument '--confg'"),
        (["--config.seed=-1"], "config.seed is -1"),
        (["--config.likelihood=bernoulli"], "for data in [0, 1]"),
        (["--config.regularizer=info", "--config.regularizers.info.alpha=5"], "alpha <= 1"),
    ],
)
def test_a_bad_flag_is_one_line_and_leaves_no_folder(capsys, tmp_path, flags, said):
    line = refused(capsys, "train", *TINY, "--workdir", tmp_path / "run", *flags)
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*TINY, "--against", "tourch"], "unknown peer 'tourch'; did you mean 'torch'?"),
        ([*TINY, "--against", "torch", "--devices", "2"], "the PyTorch peer runs on one device"),
        ([*TINY, "--against", "torch", "--config.regularizer=info"], "knows regularizer none, "),
        ([*TINY, "--rounds", "0"], "at least 1 round"),
        ([*TINY, "--steps", "-1"], "7 rounds of -1 steps"),
        ([*TINY, "--devices", "5"], "batch_size 24 does not divide evenly over 5 devices"),
        ([*TINY, "--config.convolution=native"], "did you mean 'convolutions'?"),
        (["--config", "configs/tinny.py"], "did you mean 'configs/tiny.py'?"),
    ],
)
def test_a_bad_flag_of_the_benchmark_is_one_line(capsys, tmp_path, arguments, said):
    flags = ["--no-startup", "--json", tmp_path / "out.json"]
    assert said in refused(capsys, "bench", *arguments, *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_an_estimate_is_a_paragraph_and_trains_nothing(capsys, tmp_path):
    command = ["train", *TINY, "--workdir", str(tmp_path / "run"), "--estimate"]
    assert main(command) == 0
    (paragraph,) = capsys.readouterr().out.splitlines()
    assert ", encoder 24, " in paragraph
    assert "A step of 24 examples takes" in paragraph
    assert main([*command, "--config.num_steps=400"]) == 0
    (longer,) = capsys.readouterr().out.splitlines()
    assert ", 4 steps " in paragraph
    assert ", 400 steps " in longer
    assert "config.latent_dim is 0" in refused(capsys, *command, "--config.latent_dim=0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("configs/tinny.py", "did you mean 'configs/tiny.py'?"),
        ("configs/mnist.py:publised/none/decoupled", "did you mean 'published'?"),
        ("configs/mnist.py:published/nune/decoupled", "did you mean 'none/decoupled'?"),
    ],
)
def test_a_missing_config_or_preset_offers_the_nearest(capsys, tmp_path, config, said):
    line = refused(capsys, "train", "--config", config, "--workdir", tmp_path / "run")
    assert said in line


def test_a_config_file_with_a_mistake_is_named(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vaejax import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.priro = 'decoupled'\n"
        "    return config\n"
    )
    line = refused(capsys, "train", "--config", path, "--workdir", tmp_path / "run")
    assert str(path) in line
    assert "priro" in line


def test_a_missing_prepared_directory_says_what_to_do(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    started = time.monotonic()
    line = refused(capsys, "train", "--config", "configs/mnist.py", "--workdir", tmp_path / "run")
    assert time.monotonic() - started < 5
    assert "mnist" in line
    assert str(tmp_path / "nowhere") in line
    assert "TFDS_DATA_DIR" in line


def test_another_run_is_refused_with_the_differing_keys(capsys, finished):
    before = snapshot(finished)
    line = refused(
        capsys,
        "train",
        *TINY,
        "--workdir",
        finished,
        "--config.seed=1",
        "--config.prior=standard_normal",
    )
    assert "prior: 'decoupled' != 'standard_normal'" in line
    assert "seed: 0 != 1" in line
    assert snapshot(finished) == before


@pytest.mark.parametrize("command", ["evaluate", "sample", "figures"])
def test_reading_a_run_under_another_config_is_refused(capsys, finished, command):
    before = snapshot(finished)
    line = refused(capsys, command, *TINY, "--workdir", finished, "--config.seed=1")
    assert "seed: 0 != 1" in line
    assert snapshot(finished) == before


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "figures"])
def test_a_folder_without_a_run_is_named(capsys, tmp_path, command):
    line = refused(capsys, command, "--workdir", tmp_path / "none")
    assert str(tmp_path / "none") in line
    assert not (tmp_path / "none").exists()


def test_a_folder_with_strange_files_of_ours_is_refused(capsys, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("precious\n")
    line = refused(capsys, "train", *TINY, "--workdir", tmp_path)
    assert "metrics.jsonl" in line
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\n"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("arguments", [["trian"], ["train"], [], ["sample", "--num", "many"]])
def test_a_mistake_in_the_command_itself_is_one_line(capsys, arguments):
    with pytest.raises(SystemExit) as exit_of:
        main(arguments)
    assert exit_of.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vaejax: error: ")


def test_a_file_in_place_of_the_checkpoints_is_refused(capsys, tmp_path):
    (tmp_path / "checkpoints").write_text("precious")
    assert "is not a folder" in refused(capsys, "train", *TINY, "--workdir", tmp_path)
    assert (tmp_path / "checkpoints").read_text() == "precious"


def test_a_json_config_that_is_none_is_named(capsys, tmp_path):
    (tmp_path / "mine.json").write_text("{")
    line = refused(capsys, "train", "--config", tmp_path / "mine.json", "--workdir", tmp_path / "r")
    assert "mine.json cannot be read" in line


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_saves_and_ends_with_its_status(tmp_path, number, status):
    flags = ["--config.num_steps=1000000", "--config.checkpoint_every=1000000"]
    flags += ["--stopped-status", "75"]  # after SIGTERM
    command = [sys.executable, "-m", "vaejax", "train", *TINY, "--workdir", str(tmp_path), *flags]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, **given)
    while process.poll() is None and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "stopped and saved at step" in said
    assert [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_damaged_config_is_named(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0')
    assert str(tmp_path / "config.json") in refused(capsys, "train", *TINY, "--workdir", tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"seed": 0'


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["evaluate", "--split", "tset"], "did you mean 'test'?"),
        (["evaluate", "--importance-samples", "-1"], "at least"),
        (["evaluate", "--checkpoint", "3"], "no checkpoint 3"),
        (["sample", "--num", "0"], "at least 1"),
        (["sample", "--seed", "-1"], "must be in [0, 2**32)"),
        (["train", "--stopped-status", "300"], "--stopped-status is 300; it must be in [0, 128)"),
    ],
)
def test_bad_flags_of_the_reading_commands(capsys, finished, flags, said):
    before = snapshot(finished)
    assert said in refused(capsys, *flags, "--workdir", finished)
    assert snapshot(finished) == before


def test_a_finished_run_says_so_and_changes_nothing(capsys, finished):
    before = snapshot(finished)
    assert main(["train", *TINY, "--workdir", str(finished)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert snapshot(finished) == before


def test_a_run_goes_on_from_its_folder_alone(capsys, finished):
    assert main(["train", "--workdir", str(finished)]) == 0
    assert "is complete" in capsys.readouterr().out


def test_a_diverging_run_ends_with_status_1_and_names_the_step(capsys, tmp_path):
    flags = ["--config.optimizer=sgd", "--config.schedules.constant.learning_rate=1e30"]
    status, lines = run(capsys, "train", *TINY, "--workdir", tmp_path / "run", "--quiet", *flags)
    assert status == 1
    assert "at step 2 these are not finite" in lines[-1]


def test_warnings_are_one_line(capsys, tmp_path):
    flags = ["--config.regularizers.beta_tc.gamma=9", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, lines = run(capsys, "train", *TINY, "--workdir", tmp_path / "run", *flags)
    assert status == 0
    assert len(lines) == 1
    assert lines[0].startswith("vaejax: warning: beta_tc with gamma 9 > beta 4")


def test_evaluation_and_samples_of_a_finished_run(finished):
    workdir = ["--workdir", str(finished)]
    assert main(["evaluate", *workdir, "--importance-samples", "10"]) == 0
    metrics = json.loads((finished / "evaluation.json").read_text())["metrics"]
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["split"] == "test"
    assert metrics["elbo"]["value"] == pytest.approx(last["elbo"], rel=1e-6)
    assert all(metric["protocol"] for metric in metrics.values())
    assert main(["sample", *workdir, "--num", "7"]) == 0
    first = (finished / "samples" / "seed0_n7.npz").read_bytes()
    assert main(["sample", *workdir, "--num", "7"]) == 0
    assert (finished / "samples" / "seed0_n7.npz").read_bytes() == first
    assert main(["figures", *workdir]) == 0
    drawn = {path.stem for path in (finished / "figures").glob("*.png")}
    assert drawn == {"training", "reconstructions", "samples", "latent"}


def test_help_imports_nothing_heavy():
    program = (
        "import sys, vaejax.cli\n"
        "try: vaejax.cli.main(['train', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'flax', 'absl', 'ml_collections'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
