"""A fitted density in place of the prior: what is told of one is not told of another."""

import json

import pytest
from conftest import one_line
from test_densities import config_of

import vaejax
from vaejax.cli import main
from vaejax.config import load_config
from vaejax.evaluation.evaluate import evaluate
from vaejax.evaluation.exhibits import factors
from vaejax.evaluation.layers import decoupling_of
from vaejax.expost import store
from vaejax.expost.fit import density_sha256, fit_density, sourced
from vaejax.reporting.opened import opened
from vaejax.reporting.report import write_report
from vaejax.training.loop import load

BRIEF = {"importance_samples": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A deterministic autoencoder of images, with a density."""
    config = load_config("configs/tiny.py:digits").unlock()
    config.regularizer, config.posterior, config.prior = "rae", "deterministic", "standard_normal"
    workdir = tmp_path_factory.mktemp("sources") / "run"
    vaejax.fit(config, workdir, quiet=True)
    fit_density(workdir, config=config_of("gmm"))
    return workdir


@pytest.mark.long
def test_metrics_of_a_density_that_was_replaced_are_not_kept(run):
    first = evaluate(run, source="gmm", metrics=["nearest_neighbors"], **BRIEF)
    assert first["density_sha256"] == density_sha256(run, "gmm")
    kept = evaluate(run, source="gmm", **BRIEF)
    assert kept["metrics"].keys() == first["metrics"].keys()
    fit_density(run, config=config_of("gmm", num_components=1), replace=True)
    with pytest.warns(UserWarning, match=r"no longer has .* of another step, density or code"):
        later = evaluate(run, source="gmm", **BRIEF)
    assert later["density_sha256"] != first["density_sha256"]
    assert not any("random" in name for name in later["metrics"])
    assert evaluate(run, **BRIEF)["density_sha256"] == ""


@pytest.mark.long
def test_a_page_says_that_another_density_was_evaluated(run):
    note = "evaluated with another density &#x27;gmm&#x27;"
    evaluate(run, source="gmm", **BRIEF)
    assert note not in write_report([run], sources=["gmm"]).read_text()
    fit_density(run, config=config_of("gmm", num_components=2), replace=True)
    assert note in write_report([run], sources=["gmm"]).read_text()


@pytest.mark.long
def test_a_page_shows_a_moving_picture_beside_its_own_source(run):
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    for name in ("moving", "moving_gmm"):
        (folder / f"{name}.gif").write_bytes(name.encode())
    text = write_report([run], sources=["prior", "gmm"]).read_text()
    assert text.count("data:image/gif") == 2
    for label, name in (("standard_normal prior", "moving"), ("gmm fitted", "moving_gmm")):
        assert f'alt="{name}, {label}' in text


@pytest.mark.parametrize(
    "change",
    [
        {"shape": {"num_components": 7}},
        {"shape": {"components": 3}},
        {"shape": 3},
        {"latent_dim": 5},
        {"latent_dim": None},
        {"density": "kde"},
        {"density": None},
        {"step": None},
        {"config_sha256": None},
    ],
)
def test_a_description_of_other_arrays_is_one_line(run, change):
    description = store.paths(run, "gmm")[1]
    text, (model, state, _) = description.read_text(), load(run)
    card = {key: each for key, each in {**json.loads(text), **change}.items() if each is not None}
    description.write_text(json.dumps(card))
    with one_line("gmm.npz cannot be read .*--replace"):
        sourced(run, model, state, "gmm")
    description.write_text(text)


def test_no_density_has_the_name_of_a_split(run):
    for name in ("validation", "train", "test", "validation_gmm"):
        with one_line("would have the file name of one of a split"):
            fit_density(run, "gaussian", name=name)


def test_a_drawing_of_a_model_knows_what_was_fitted_afterwards(run):
    assert not decoupling_of(opened(run).subject()).is_fitted
    assert decoupling_of(opened(run, source="gmm").subject()).is_fitted


def test_factors_move_by_the_spread_of_codes_where_there_is_no_normal_base(run):
    for source, is_scaled in (("prior", False), ("gmm", True)):
        subject = opened(run, source=source).subject()
        walk, spread = factors(subject).walk, subject.held_out.z0.std(axis=0)
        for k, dimension in enumerate(walk.dimensions):
            moved = walk.z0[k, -1, dimension] - walk.z0[k, 0, dimension]
            assert moved == pytest.approx(6 * (spread[dimension] if is_scaled else 1), rel=1e-4)


def test_the_command_says_where_codes_come_from_and_claims_no_bound(run, capsys):
    flags = ["--workdir", str(run), "--source", "gmm", "--importance-samples", "0"]
    assert main(["evaluate", *flags]) == 0
    told = capsys.readouterr().out
    assert "codes drawn from gmm, fitted afterwards" in told
    assert "samples_gmm.png" in told
    assert f"vaejax figures --workdir {run} --source gmm" in told
    assert "lower bound" not in told
