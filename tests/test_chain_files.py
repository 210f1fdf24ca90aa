"""What the command line makes of chains: their files, the same ones again, and refusals."""

import numpy as np
import pytest
from conftest import one_line
from test_cli import refused

from vaejax.cli import main
from vaejax.cli_sample import parsed_options
from vaejax.reporting.chains import chains_of
from vaejax.reporting.opened import opened

AUTOENCODER = (
    "--config.posterior=deterministic",
    "--config.prior=standard_normal",
    "--config.regularizer=beta_h",
    "--config.regularizers.beta_h.beta=0",
)


def trained(tmp_path_factory, corruption):
    workdir = tmp_path_factory.mktemp(corruption)
    flags = ["--config", "configs/tiny.py", f"--config.corruption={corruption}", *AUTOENCODER]
    assert main(["train", "--workdir", str(workdir), "--quiet", *flags]) == 0
    return workdir


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return trained(tmp_path_factory, "gaussian")


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return trained(tmp_path_factory, "masking")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return trained(tmp_path_factory, "none")


def test_a_chain_becomes_arrays_and_two_pictures_the_same_ones_again(noisy, capsys):
    command = ["sample", "--workdir", str(noisy), "--chain", "langevin", "--num", "5"]
    command += ["--steps", "30", "--chain-options", "step_size=0.2"]
    assert main(command) == 0
    stem = "langevin_step_size=0.2_noise_steps30_seed0_n5"
    names = [f"{stem}.npz", f"{stem}.png", f"{stem}_path.png"]
    assert capsys.readouterr().out.split() == [str(noisy / "samples" / name) for name in names]
    before = [(noisy / "samples" / name).read_bytes() for name in names]
    with np.load(noisy / "samples" / names[0]) as arrays:
        np.testing.assert_array_equal(arrays["x"], arrays["path"][:, -1])
        assert arrays["steps"][[0, -1]].tolist() == [0, 30]
        assert arrays["autocorrelation"][0] == 1.0
    assert main(command) == 0
    assert [(noisy / "samples" / name).read_bytes() for name in names] == before
    assert main([*command, "--denoised"]) == 0
    with np.load(noisy / "samples" / f"{stem}_denoised.npz") as arrays:
        run = opened(noisy)
        with np.load(noisy / "samples" / names[0]) as states:
            codes = run.model.apply(run.variables, states["x"], method="embed")
        expected = run.model.apply(run.variables, codes, method="decode")
        np.testing.assert_allclose(arrays["x"], expected, atol=1e-5)


def test_the_means_of_a_denoising_chain_are_closer_to_each_other_than_its_draws(noisy):
    command = ["sample", "--workdir", str(noisy), "--chain", "denoising", "--steps", "20"]
    assert main(command) == 0
    assert main([*command, "--chain-options", "draw=false"]) == 0
    spreads = []
    for settings in ("", "_draw=false"):
        name = f"denoising{settings}_noise_steps20_seed0_n64.npz"
        with np.load(noisy / "samples" / name) as arrays:
            spreads.append(arrays["x"].std(axis=0))
    assert (spreads[1] < spreads[0]).all()


@pytest.mark.long
def test_more_chains_and_more_steps_leave_the_first_states_as_they_are(noisy, monkeypatch):
    run = opened(noisy)
    few = chains_of(run, 3, chain="denoising", num_steps=8)
    monkeypatch.setattr("vaejax.reporting.chains._MOST_FOLLOWED", {True: 2})
    more = chains_of(run, 6, chain="denoising", num_steps=8)
    assert len(more.path) == 2
    np.testing.assert_allclose(more.x[:3], few.x, atol=1e-5)
    monkeypatch.setattr("vaejax.reporting.chains._MOST_KEPT", 3)
    thinned = chains_of(run, 6, chain="denoising", num_steps=8)
    assert thinned.steps.tolist() == [0, 5, 8]
    np.testing.assert_allclose(thinned.path, more.path[:, [0, 5, 8]], atol=1e-5)
    assert not np.allclose(chains_of(run, 3, 1, chain="denoising", num_steps=8).x, few.x)


def test_chains_from_data_start_at_different_held_out_examples(noisy):
    run = opened(noisy)
    start = chains_of(run, 40, chain="denoising", num_steps=1, start="data").path[:, 0]
    held_out = run.held_out()
    np.testing.assert_array_equal(start[np.lexsort(start.T)], held_out[np.lexsort(held_out.T)])
    with one_line("41 chains from 40 held-out examples"):
        chains_of(run, 41, chain="denoising", num_steps=1, start="data")


@pytest.mark.parametrize(
    ("run", "flags", "said"),
    [
        ("clean", ["--chain", "denoising"], "config.corruption='none', not one of gaussian"),
        ("clean", ["--chain", "langevin"], "config.corruption='gaussian' of positive scale"),
        ("masked", ["--chain", "langevin"], "this one has 'masking'"),
        ("masked", ["--chain", "denosing"], "did you mean 'denoising'?"),
        ("masked", ["--steps", "3"], "--steps is of Markov chains"),
        ("masked", ["--denoised"], "--denoised is of Markov chains"),
        ("masked", ["--chain", "denoising", "--start", "date"], "did you mean 'data'?"),
        ("masked", ["--chain", "denoising", "--steps", "0"], "at least 1 each"),
        ("masked", ["--chain", "denoising", "--num", "0"], "at least 1 each"),
        ("masked", ["--chain", "denoising", "--seed", "-1"], "must be in [0, 2**32)"),
        ("masked", ["--chain", "contractive", "--chain-options", "scal=2"], "did you mean 'scale'"),
        ("masked", ["--chain", "contractive", "--chain-options", "start=2"], "unknown option"),
        ("masked", ["--chain", "contractive", "--chain-options", "scale"], "takes KEY=NUMBER"),
    ],
)
def test_what_is_refused_leaves_no_file(capsys, request, run, flags, said):
    workdir = request.getfixturevalue(run)
    assert said in refused(capsys, "sample", "--workdir", workdir, *flags)
    assert not (workdir / "samples").exists()


def test_options_are_numbers_and_truths_each_once():
    assert parsed_options(["draw=false", "scale=2"]) == {"draw": False, "scale": 2.0}
    for texts in (["a=b"], ["a"], ["a=1", "a=2"]):
        with one_line("each key once"):
            parsed_options(texts)
