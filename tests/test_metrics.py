"""Metrics of models: where the answer is known, and what must not change it."""

import argparse
import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line

import vaejax
from vaejax.cli_evaluate import METRIC_NAMES, SET_NAMES, evaluation_flags, evaluation_options
from vaejax.config import load_config
from vaejax.data.sources import dataset_from, make_transform
from vaejax.evaluation import comparison, features, subject
from vaejax.evaluation.comparison import Comparison
from vaejax.evaluation.control import Control
from vaejax.evaluation.evaluate import evaluate
from vaejax.evaluation.features import FeatureMap, classifier_features
from vaejax.evaluation.metrics import METRICS, OF_SAMPLES, fitting, frechet, metrics_of
from vaejax.evaluation.protocol import SETS, Counts, Protocol
from vaejax.evaluation.subject import Subject
from vaejax.models.vae import make_model
from vaejax.training.state import initial_state

SMALL = Counts(reference=300, latent=400, images=300, pairs=100)
LATENT = ("symmetric_kl", "information", "leakage")


def config_of(num_test=320, **changes):
    config = load_config("configs/tiny.py").unlock()
    config.datasets.two_moons.update(num_train=400, num_test=num_test)
    config.update(changes)
    return config


def subject_of(counts=SMALL, scale=1.0, **changes):
    """An untrained model, all its parameters times `scale`."""
    config = config_of(**changes)
    dataset = dataset_from(config)
    model = make_model(config, dataset.x_shape)
    variables = initial_state(model, {}, 0, dataset.x_shape).variables()
    variables = jax.tree.map(lambda leaf: scale * leaf, variables)
    transform, protocol = make_transform(config, dataset), Protocol(counts=counts)
    return Subject(model, variables, dataset, transform, 0, protocol)


def values(found):
    return {name: each["value"] for name, each in found.items()}


@pytest.mark.parametrize("prior", ["standard_normal", "decoupled"])
def test_a_collapsed_posterior_agrees_with_the_prior_and_tells_nothing(prior):
    # Without weights every q(z|x) is N(0, I), and every flow the identity.
    found = values(metrics_of(subject_of(prior=prior, scale=0.0), LATENT))
    for name in ("symmetric_kl", "mutual_information", "active_units", "leakage[0.1]"):
        assert found[name] == pytest.approx(0, abs=1e-5)
    assert abs(found["symmetric_kl_knn[representation]"]) < 0.4
    assert found["leak_fraction[0.1]"] == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / 400))


def test_information_and_divergence_add_up_to_the_kl_of_the_codes():
    one = subject_of(prior="decoupled", scale=3.0)
    found = metrics_of(one, LATENT)
    codes = one.reference
    log_q = -(((codes.z - codes.mean) / codes.scale) ** 2 / 2 + np.log(codes.scale)).sum(axis=1)
    bound = one.model.bind(one.variables)
    total = log_q - np.log(2 * np.pi) - np.asarray(bound.prior.log_prob(jnp.asarray(codes.z)))
    parts = [found["mutual_information"], found["kl_aggregate_to_prior"]]
    error = np.hypot(total.std() / np.sqrt(len(total)), parts[1]["standard_error"])
    assert sum(part["value"] for part in parts) == pytest.approx(total.mean(), abs=4 * error)
    both = values(found)
    one_way, other_way = both["kl_aggregate_to_prior"], both["kl_prior_to_aggregate"]
    assert both["symmetric_kl"] == pytest.approx(one_way + other_way)
    assert both["mutual_information"] < np.log(300)


def test_without_a_flow_both_spaces_and_both_leakages_are_one():
    found = values(metrics_of(subject_of(prior="standard_normal", scale=2.0), LATENT))
    for name, value in found.items():
        other = name.replace("_with_log_det", "").replace("generation", "representation")
        assert found[other] == pytest.approx(value, abs=1e-5)


@pytest.mark.long
def test_no_metric_depends_on_how_much_is_computed_at_once(monkeypatch):
    one = subject_of(prior="decoupled")
    before = metrics_of(one, list(METRICS))
    monkeypatch.setattr(subject, "num_at_once", lambda *given: 7)
    after = metrics_of(subject_of(prior="decoupled"), list(METRICS))
    assert list(before) == list(after)
    for name, each in before.items():
        assert after[name]["protocol"] == each["protocol"]
        assert after[name]["value"] == pytest.approx(each["value"], rel=1e-4, abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("sets", [("random", "floor"), ("reconstructions", "low_posterior")])
def test_sets_that_are_left_out_change_no_number_of_the_others(sets):
    one = subject_of(prior="decoupled")
    every = metrics_of(one, ("frechet", "precision_recall"))
    few = dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, sets=sets))
    expected = {name: row for name, row in every.items() if any(f", {s}]" in name for s in sets)}
    assert metrics_of(few, ("frechet", "precision_recall")) == expected
    assert 0 < len(expected) < len(every)


def test_the_control_is_of_the_data_and_the_seed_alone():
    one, other = subject_of(prior="decoupled"), subject_of(prior="standard_normal", scale=3.0)
    (key,) = (name for name in metrics_of(one, ["frechet"]) if "pca_mixture" in name)
    found = [metrics_of(each, ["frechet"])[key] for each in (one, other)]
    assert found[0] == found[1]
    assert "PCA (2) + mixture of 10" in found[0]["protocol"]
    control = Control(one.comparison, one.seed)
    assert frechet(control)[key.replace("pca_mixture", "random")]["value"] == found[0]["value"]
    reseeded = dataclasses.replace(one, seed=one.seed + 1, shared=one.comparison)
    assert metrics_of(reseeded, ["frechet"])[key]["value"] != found[0]["value"]


def test_data_are_nearest_to_data_and_low_posterior_samples_are_where_few_codes_are():
    one = subject_of(prior="standard_normal", scale=3.0)
    rows = metrics_of(one, ("frechet", "kernel_distance", "precision_recall"))
    assert all(row["standard_error"] > 0 for row in rows.values())
    found = values(rows)
    for name in ("random", "low_posterior", "reconstructions", "interpolations"):
        for metric in ("frechet", "kernel_distance"):
            assert found[f"{metric}[fourier, floor]"] < found[f"{metric}[fourier, {name}]"]
        assert found["precision[fourier, floor]"] > found[f"precision[fourier, {name}]"]
    low, random = (one.aggregate.log_prob(z) for z in (one._low_posterior(), one.draws[0].z))
    assert np.max(low) < np.median(random)


def test_evaluate_writes_what_is_asked_for_with_its_protocol(tmp_path):
    vaejax.fit(config_of(), tmp_path, quiet=True)
    plain = evaluate(tmp_path, importance_samples=0)
    result = evaluate(tmp_path, importance_samples=0, metrics=["leakage", "frechet"], counts=SMALL)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert {name: result["metrics"][name] for name in plain["metrics"]} == plain["metrics"]
    assert "300 of the train split" in result["metrics"]["frechet[fourier, floor]"]["protocol"]
    before = (tmp_path / "evaluation.json").read_bytes()
    for named, counts, said in [
        (["freche"], SMALL, "unknown metric 'freche'.*'frechet'"),
        (["precision"], SMALL, "unknown metric 'precision'.*'precision_recall'"),
    ]:
        with one_line(said):
            evaluate(tmp_path, importance_samples=0, metrics=named, counts=counts)
    with one_line("images is 0; it must be positive"):
        Counts(images=0)
    assert (tmp_path / "evaluation.json").read_bytes() == before


def test_the_help_of_the_command_line_names_every_metric():
    assert set(METRIC_NAMES) == set(METRICS)
    assert set(SET_NAMES) == set(SETS)


def test_prd_says_of_every_set_of_samples_how_it_was_made():
    one = subject_of(prior="standard_normal", scale=3.0)
    found = metrics_of(one, ["prd"])
    assert len(found) == 2 * len(one.samples)
    for what in ("recall", "precision"):
        floor = found[f"prd_{what}[fourier, floor]"]
        assert "10 clusterings into 20" in floor["protocol"]
        assert floor["value"] > max(0.8, found[f"prd_{what}[fourier, random]"]["value"])
        assert 0 < floor["sd_of_clusterings"] < 0.2
        assert floor["standard_error"] is None  # the clusterings' spread is not that of samples


def test_prd_takes_as_many_data_as_samples_whatever_their_order():
    both = np.arange(400)[:, None] // 200 * 100 + np.random.default_rng(0).normal(size=(400, 2))
    compared = SimpleNamespace(real=both, features=FeatureMap("identity", "", {}, np.asarray))
    found = METRICS["prd"](SimpleNamespace(comparison=compared, samples={"x": both[::2]}, seed=0))
    for each in found.values():
        assert "x: 200, against 200" in each["protocol"]
        assert each["value"] > 0.9  # of the first 200 alone it would be a half


def test_images_are_compared_in_the_features_of_inception_if_told(monkeypatch):
    digits, moons = (dataset_from(load_config(f"configs/{x}.py")) for x in ("digits", "two_moons"))
    made = {"weights.pth": FeatureMap("inception", "", {}, lambda x: x.reshape(len(x), -1))}
    monkeypatch.setattr(comparison, "inception_features", made.__getitem__)
    parser = argparse.ArgumentParser()
    evaluation_flags(parser)
    options = evaluation_options(parser.parse_args(["--inception", "weights.pth"]))
    compared = Comparison(digits, None, Protocol(**options))
    assert compared.features.name == "inception"
    with one_line(r"data of shape \(2,\); Inception takes images"):
        Comparison(moons, None, Protocol(**options)).features  # noqa: B018


def test_weights_are_refused_before_anything_is_computed(tmp_path):
    vaejax.fit(config_of(num_steps=1), tmp_path, quiet=True)
    with one_line(r"data of shape \(2,\); Inception takes images"):
        evaluate(tmp_path, metrics=["leakage"], inception=tmp_path / "weights.pth")
    assert not (tmp_path / "evaluation.json").exists()


def test_few_samples_have_no_frechet_distance_unless_asked_for():
    few = {"num_test": 150, "prior": "standard_normal"}
    with one_line("of 150 samples is biased, it takes 1600; --samples 150 takes it"):
        metrics_of(subject_of(Counts(reference=300), **few), ["frechet"])
    found = metrics_of(subject_of(Counts(reference=300, images=150), **few), ["frechet"])
    assert found["frechet[fourier, floor]"]["value"] >= 0
    for name in OF_SAMPLES:
        with one_line("19 samples are too few to compare; at least 20"):
            metrics_of(subject_of(Counts(reference=300, images=19), **few), [name])
    fits = fitting(subject_of(Counts(reference=300, images=19), **few), ["all"])
    assert not {*fits} & {*OF_SAMPLES, "nearest_neighbors"}
    assert {"symmetric_kl", "leakage"} <= {*fits}


def test_a_posterior_without_a_density_has_no_latent_metric():
    for name in LATENT:
        with one_line("needs q.z.x. to have a density"):
            metrics_of(subject_of(posterior="deterministic", prior="standard_normal"), [name])


@pytest.mark.long
def test_a_classifier_is_trained_once_kept_and_the_same_when_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path))
    dataset = dataset_from(load_config("configs/digits.py"))
    found = classifier_features(dataset)
    assert found.facts["test_accuracy"] > 0.9
    (path,) = (tmp_path / "classifiers").iterdir()
    written = path.stat().st_mtime_ns
    x = np.asarray(dataset.splits["test"][:30], np.float32) / dataset.scale
    with monkeypatch.context() as patch:
        patch.setattr(features, "_AT_ONCE", 7)
        again = classifier_features(dataset)
        np.testing.assert_allclose(again.features_of(x), found.features_of(x), atol=1e-4)
    assert (again.sha256, path.stat().st_mtime_ns) == (found.sha256, written)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert classifier_features(dataset).sha256 == found.sha256
    assert path.read_bytes() == data
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_classifier_needs_images_and_labels():
    digits = dataset_from(load_config("configs/digits.py"))
    with one_line("no labels of its train and test split"):
        classifier_features(dataclasses.replace(digits, labels={}))
    with one_line(r"shape \(2,\).*images \(H, W, C\)"):
        classifier_features(dataset_from(load_config("configs/two_moons.py")))
