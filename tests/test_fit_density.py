"""Densities are kept with a run bit by bit, and every mistake is one line."""

import json

import jax
import numpy as np
import pytest
from conftest import one_line
from test_densities import codes, config_of

import vaejax
from vaejax.cli import main
from vaejax.config import overridden
from vaejax.data.sources import dataset_from, make_transform
from vaejax.expost import store
from vaejax.expost.families import default_density_config, fit_codes, validate_density
from vaejax.expost.fit import fit_density, sourced, sources, training_codes
from vaejax.models.vae import VAE
from vaejax.parallel import example_keys
from vaejax.training import validation
from vaejax.training.loop import load
from vaejax.training.state import DENSITY, stream_key


def trained(folder, **changes):
    config = vaejax.load_config("configs/tiny.py").unlock()
    config.regularizer = "none"
    config.update(changes)
    vaejax.fit(config, folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints 2 and 4, averaged parameters, and a density."""
    workdir = trained(tmp_path_factory.mktemp("run"), ema_decay=0.5)
    fit_density(workdir, "gmm", config=config_of("gmm"))
    return workdir


@pytest.fixture(scope="module")
def loaded(run):
    return load(run)


def snapshot(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_a_density_is_restored_bit_by_bit_in_place_of_the_prior(run, loaded):
    model, state, _ = loaded
    config = config_of("gmm")
    dataset = dataset_from(loaded[2])
    rows, transform = dataset.splits["train"], make_transform(loaded[2], dataset)
    z = training_codes(model, state.variables(), rows, transform, config)
    fitted = fit_codes(z, config)
    other, changed = sourced(run, model, state, "gmm")
    assert other.prior == fitted.density
    for params in (changed.params, changed.ema):
        jax.tree.map(np.testing.assert_array_equal, params["prior"], fitted.params)
    for group in ("encoder", "posterior", "decoder"):
        assert changed.params[group] is state.params[group]
    key = jax.random.key
    drawn = other.apply(changed.variables(), key(0), 20, method=lambda m, *a: m.prior.sample(*a))
    expected = fitted.density.apply({"params": fitted.params}, key(0), 20, method="sample")
    np.testing.assert_array_equal(drawn, expected)
    x = other.apply(changed.variables(), key(0), 20, method=VAE.sample)
    decoded = model.apply(state.variables(), drawn, method=VAE.decode)
    np.testing.assert_array_equal(x, decoded)
    assert sourced(run, model, state, "prior") == (model, state)


def test_a_kl_through_the_model_is_that_of_the_density(run, loaded):
    model, state, config = loaded
    other, changed = sourced(run, model, state, "gmm")
    x = dataset_from(config).splits["test"]
    terms, before = (
        vae.apply(variables, x, jax.random.split(jax.random.key(1), len(x)))
        for vae, variables in ((other, changed.variables()), (model, state.variables()))
    )
    np.testing.assert_array_equal(terms.code.z, before.code.z)
    log_prob = other.prior.apply(
        {"params": changed.params["prior"]}, terms.code.z, method="log_prob"
    )
    expected = -terms.code.q.entropy() - log_prob
    np.testing.assert_allclose(terms.kl, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(terms.kl, before.kl, atol=1e-2)


@pytest.mark.parametrize("kind", ["sample", "mean"])
def test_codes_are_draws_by_index_or_means_whatever_the_blocks(loaded, monkeypatch, kind):
    model, state, run_config = loaded
    config = default_density_config().unlock()
    config.codes, config.seed = kind, 3
    dataset = dataset_from(run_config)
    rows, transform = dataset.splits["train"], make_transform(run_config, dataset)
    keys = example_keys(stream_key(3, DENSITY), np.arange(len(rows)))
    code = model.apply(state.variables(), rows, keys, method=VAE.encode)
    expected = code.z if kind == "sample" else code.mean
    for layer_bytes in (2**21, 300):
        monkeypatch.setitem(validation._LAYER_BYTES, "cpu", layer_bytes)
        found = training_codes(model, state.variables(), rows, transform, config)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_fit_that_is_there_is_not_made_again_and_another_asks(run):
    before, said = snapshot(run), []
    card = fit_density(run, "gmm", config=config_of("gmm"), say=said.append)
    assert said == [f"{run}/densities/gmm.npz is there"]
    assert card == json.loads((run / "densities" / "gmm.json").read_text())
    with one_line(r"another density 'gmm'.*row.num_components: 3 != 2.*--name, or --replace"):
        fit_density(run, "gmm", config=config_of("gmm", num_components=2))
    with one_line("density: 'gmm' != 'gaussian'"):
        fit_density(run, "gaussian", name="gmm")
    assert snapshot(run) == before
    again = fit_density(run, "gmm", config=config_of("gmm"), replace=True)
    assert {**again, "seconds": 0, "npz_sha256": 0} == {**card, "seconds": 0, "npz_sha256": 0}


def test_a_density_of_another_step_is_refused_and_can_be_fitted_beside_it(run):
    model, state, _ = load(run, 2)
    with one_line(r"fitted at step 4, and this is step 2; `vaejax fit-density .*--checkpoint 2"):
        sourced(run, model, state, "gmm")
    card = fit_density(run, "gaussian", name="early", checkpoint=2)
    assert card["step"] == 2
    assert sources(run) == ["prior", "early", "gmm"]
    changed = sourced(run, model, state, "early")[1]
    assert {*changed.params["prior"]} == {"mean", "scale", "flow"}
    with one_line("step: 2 != 4"):
        fit_density(run, "gaussian", name="early")


def test_what_is_not_there_is_one_line_that_says_what_is(run, loaded):
    model, state, _ = loaded
    with one_line(r"no density 'gm' in .*; did you mean 'gmm'\? \(prior,.* gmm\)"):
        sourced(run, model, state, "gm")
    with one_line(r"`vaejax fit-density --workdir .* --density flow` fits one"):
        sourced(run, model, state, "flow")


@pytest.mark.parametrize("damage", ["flip", "cut", "no arrays", "description", "another run"])
def test_a_damaged_density_is_one_line_and_stays(loaded, run, tmp_path, damage):
    model, state, _ = loaded
    for name in ("config.json", "densities/gmm.npz", "densities/gmm.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((run / name).read_bytes())
    arrays, description = store.paths(tmp_path, "gmm")
    content, said = arrays.read_bytes(), "cannot be read .*--replace"
    if damage == "flip":
        arrays.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "cut":
        arrays.write_bytes(content[:-1])
    elif damage == "no arrays":
        arrays.unlink()
    elif damage == "description":
        description.write_text(description.read_text()[:-20])
    else:
        text = (tmp_path / "config.json").read_text()
        (tmp_path / "config.json").write_text(text.replace('"seed": 0', '"seed": 1', 1))
        said = "codes of another run"
    before = snapshot(tmp_path)
    with one_line(said):
        sourced(tmp_path, model, state, "gmm")
    assert snapshot(tmp_path) == before


def test_held_out_splits_bad_names_and_other_data_are_refused(run):
    before = snapshot(run)
    for split in ("test", "validation"):
        with one_line(f"codes of the train split, not of '{split}'"):
            fit_density(run, "gaussian", name="leak", split=split)
    for name in ("prior", "../gmm", ".hidden", "a b"):
        with one_line("a density cannot be called"):
            fit_density(run, "gaussian", name=name)
    other = vaejax.load_config("configs/tiny.py").unlock()
    other.datasets.two_moons.noise = 0.2
    with one_line("other data"):
        fit_density(run, "gaussian", name="other", dataset=dataset_from(other))
    assert snapshot(run) == before


def test_a_deterministic_autoencoder_gets_a_density_and_the_command_tells(tmp_path, capsys):
    workdir = trained(tmp_path, posterior="deterministic", prior="standard_normal")
    flags = ["--config.densities.gmm.select=bic", "--config.densities.gmm.candidates=(1,3)"]
    command = ["fit-density", "--workdir", str(workdir), "--name", "mix", "--quiet", *flags]
    assert main(command) == 0
    told = capsys.readouterr()
    card = json.loads((workdir / "densities" / "mix.json").read_text())
    assert card["row"]["candidates"] == [1, 3]
    assert f"log-density of 10 held-out codes: {card['log_density']['held_out']:.4f}" in told.out
    assert f"{workdir}/densities/mix.npz" in told.out
    assert main(command) == 0
    assert "mix.npz is there" in capsys.readouterr().out
    assert main([*command, "--config.seed=4"]) == 2
    assert "seed: 0 != 4" in capsys.readouterr().err
    model, state, _ = load(workdir)
    other, changed = sourced(workdir, model, state, "mix")
    x = dataset_from(load(workdir)[2]).splits["train"]
    keys = jax.random.split(jax.random.key(0), len(x))
    terms = other.apply(changed.variables(), x, keys)
    mean = card["log_density"]["train"] * 86 + card["log_density"]["held_out"] * 10
    assert -np.mean(terms.kl) == pytest.approx(mean / 96, abs=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.density=gm"], "unknown density 'gm'; did you mean 'gmm'"),
        (["--config.densities.gmm.num_component=3"], "did you mean 'num_components'"),
        (["--config.densities.gmm.num_components=0"], "must be at least 1"),
        (["--config.codes=means"], "unknown codes 'means'; did you mean 'mean'"),
        (["--config.held_out=1.0"], r"held_out is 1.0; it must be in \(0, 1\)"),
    ],
)
def test_a_bad_config_is_one_line(flags, said):
    with one_line(said):
        overridden(default_density_config(), flags, validate_density)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("gmm", {"num_components": 300}, "as many codes; there are 270"),
        ("gmm", {"select": "bick"}, "unknown densities.gmm.select 'bick'; did you mean 'bic'"),
        ("gmm", {"select": "bic", "candidates": (271,)}, "there are only 270 codes"),
        ("gmm", {"covariance_floor": 0.0}, "densities.gmm.covariance_floor is 0.0; it must be"),
        ("gaussian", {"covariance_floor": 0.0}, "densities.gaussian.covariance_floor is 0.0"),
        ("flow", {"mask": "haf"}, "unknown densities.flow.mask 'haf'; did you mean 'half'"),
        ("vae", {"initial_scale": 0.0}, "initial_scale is 0.0; it must be positive"),
    ],
)
def test_a_bad_row_is_one_line(name, row, said):
    with one_line(said):
        fit_codes(codes(), config_of(name, **row))


def test_bad_codes_are_one_line():
    bad = codes()
    bad[3, 1] = np.nan
    for given, said in ((bad, "1 of 300 codes are not finite"), (bad[:1], "at least 2")):
        with one_line(said):
            fit_codes(given, config_of("gaussian"))
    none_left = default_density_config().unlock()
    none_left.held_out = 0.999
    with one_line("held_out is 0.999; of 300 codes none is left to fit to"):
        fit_codes(codes(), none_left)
