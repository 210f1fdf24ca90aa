"""What an evaluation is told decides its numbers, and nothing else does."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import one_line

import vaejax
from vaejax.cli import main
from vaejax.config import load_config, saved_config
from vaejax.evaluation.comparison import some
from vaejax.evaluation.evaluate import evaluate
from vaejax.evaluation.metrics import METRICS, USES, metrics_of
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.evaluation.rows import share_row
from vaejax.evaluation.samples import frechet_distance, frechet_error, moments
from vaejax.reporting.metric_table import cell_of, comparable
from vaejax.reporting.opened import opened
from vaejax.training.checkpoint import saved_steps

COUNTS = Counts(reference=200, latent=300, images=150, pairs=100)
ONE_DEVICE = """
import json, sys
from vaejax.evaluation.evaluate import evaluate
from vaejax.evaluation.metrics import METRICS
from vaejax.evaluation.protocol import Counts
import jax
assert len(jax.devices()) == 1
counts = Counts(reference=200, latent=300, images=150, pairs=100)
evaluate(sys.argv[1], importance_samples=3, metrics=METRICS, counts=counts)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = load_config("configs/tiny.py").unlock()
    config.datasets.two_moons.update(num_train=400, num_test=200)
    folder = tmp_path_factory.mktemp("run")
    vaejax.fit(config, folder, quiet=True)
    return folder


@pytest.fixture
def fresh(workdir, tmp_path):
    """A copy of the run that nobody has evaluated."""
    ignored = shutil.ignore_patterns("evaluation*")
    return shutil.copytree(workdir, tmp_path / "run", ignore=ignored)


@pytest.fixture(scope="module")
def result(workdir):
    options = {"importance_samples": 3, "metrics": METRICS, "counts": COUNTS}
    return evaluate(workdir, **options)


@pytest.mark.long
def test_results_do_not_depend_on_the_number_of_devices(workdir, result, tmp_path):
    flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", ONE_DEVICE, str(workdir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = json.loads((workdir / "evaluation.json").read_text())
    assert list(one["metrics"]) == list(result["metrics"])
    for name, row in result["metrics"].items():
        assert one["metrics"][name]["protocol"] == row["protocol"]
        assert one["metrics"][name]["value"] == pytest.approx(row["value"], rel=1e-4, abs=1e-4)


@pytest.mark.long
def test_the_parts_of_the_information_add_up_to_the_kl_of_the_codes(workdir, result):
    subject = opened(workdir).subject(Protocol(counts=COUNTS))
    codes = subject.reference
    standard = (codes.z - codes.mean) / codes.scale
    log_own = -(0.5 * standard**2 + 0.5 * math.log(2 * math.pi) + np.log(codes.scale)).sum(axis=1)
    kl = np.mean(log_own - subject.log_prior(codes.z))
    names = ("mutual_information", "total_correlation", "dimension_kl")
    parts = [result["metrics"][name]["value"] for name in names]
    assert sum(parts) == pytest.approx(kl, abs=1e-5)


def test_the_published_nll_is_a_scaled_negative_elbo(result):
    config = load_config("configs/tiny.py")
    weight, rows = config.likelihoods.gaussian.mse_weight, result["metrics"]
    constant = math.log(math.pi / weight)  # of two numbers
    bound = -rows["elbo"]["value"] - constant
    expected = config.batch_size * bound / (1_000 * weight)
    assert rows["nll_published"]["value"] == pytest.approx(expected)


def test_a_bound_of_some_examples_is_that_of_the_same_ones_among_all(workdir, tmp_path):
    few, more = (
        evaluate(workdir, importance_samples=4, importance_examples=count)["metrics"]
        for count in (1, 500)
    )
    alone = few["importance_weighted_nll"]
    assert "1 of 200 examples" in alone["protocol"]
    assert "200 of 200 examples (all)" in more["importance_weighted_nll"]["protocol"]
    from vaejax.evaluation.likelihood import importance_weighted_bound
    from vaejax.training.state import EVALUATE, stream_key

    run = opened(workdir)
    key = stream_key(run.seed, EVALUATE)
    given = {"num_samples": 4, "transform": run.transform, "key": key}
    rows = run.dataset.splits["test"]
    every = importance_weighted_bound(run.model, run.variables, rows, **given)
    assert alone["value"] == pytest.approx(-every[some(200, 1)[0]], rel=1e-4)
    assert more["importance_weighted_nll"]["value"] == pytest.approx(-every.mean(), rel=1e-4)


def test_thresholds_are_numbers_if_told_else_quantiles_of_the_prior(workdir, capsys):
    quantile = -math.log(2 * math.pi) + math.log(0.01)  # of two dimensions
    command = ["evaluate", "--workdir", str(workdir), "--importance-samples", "0"]
    command += ["--metrics", "leakage"]
    assert main(command) == 0
    plain = json.loads((workdir / "evaluation.json").read_text())["metrics"]
    assert main([*command, "--thresholds", f"{quantile}", "-1000"]) == 0
    told = json.loads((workdir / "evaluation.json").read_text())["metrics"]
    assert told[f"leakage[log p0 < {quantile:.10g}]"]["value"] == plain["leakage[0.01]"]["value"]
    assert told["leak_fraction[log p0 < -1000]"]["value"] == 0
    assert told[f"leakage[log p0 < {quantile:.10g}]"]["prior_mass"] == pytest.approx(0.01)
    assert main([*command, "--quantiles", "0.25"]) == 0
    found = json.loads((workdir / "evaluation.json").read_text())["metrics"]
    assert found["leakage[0.25]"]["prior_mass"] == 0.25
    assert found["leakage[0.01]"] == plain["leakage[0.01]"]
    assert main([*command, "--quantiles", "0.25", "--thresholds", "-3"]) == 2
    capsys.readouterr()
    assert main([*command[:-2], "--sets", "floor"]) == 2
    assert "--sets says what metrics compare" in capsys.readouterr().err


def test_the_error_of_a_share_is_not_zero_where_nothing_was_seen():
    none, some = (share_row(np.arange(5_000) < count, "", "") for count in (0, 500))
    assert none["value"] == 0
    assert none["standard_error"] == pytest.approx(math.sqrt(2) / 5_000, rel=1e-3)
    assert some["standard_error"] == pytest.approx(math.sqrt(0.1 * 0.9 / 5_000), rel=2e-3)


def test_low_posterior_data_and_samples_are_the_lowest_fifth_in_no_order(workdir):
    subject = opened(workdir).subject(Protocol(counts=COUNTS))
    low = subject._low_posterior()
    log_q = np.asarray(subject.aggregate.log_prob(low))
    candidates = np.asarray(subject.aggregate.log_prob(subject._prior(750, 2)))
    np.testing.assert_allclose(np.sort(log_q), np.sort(candidates)[:150], rtol=1e-4, atol=1e-4)
    halves = np.sort(log_q[:75]), np.sort(log_q[75:])
    assert halves[0][-1] > halves[1][0]
    assert halves[1][-1] > halves[0][0]
    assert "low_posterior_data" not in subject.samples  # 80 of 400 are fewer than 150
    whole = {"low_fraction": 1.0, **{k: v for k, v in vars(COUNTS).items() if k != "low_fraction"}}
    whole["images"] = 400
    all_of_it = opened(workdir).subject(Protocol(counts=Counts(**whole)))
    data = np.sort(all_of_it.comparison.real, axis=0)
    np.testing.assert_allclose(np.sort(all_of_it.samples["low_posterior_data"], axis=0), data)


def test_the_error_of_a_frechet_distance_is_its_spread_over_draws():
    generator = np.random.default_rng(0)
    real = moments(generator.normal(size=(5_000, 3)))
    draws = [generator.normal(0.2, 1.1, size=(500, 3)) for _ in range(60)]
    spread = np.std([frechet_distance(real, moments(each), 0) for each in draws], ddof=1)
    errors = [frechet_error(real, each) for each in draws]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.3)


def test_a_protocol_out_of_range_is_refused():
    with one_line("importance samples are -1; at least 0"):
        Protocol(importance_samples=-1)
    with one_line("examples of importance sampling are 0; at least 1"):
        Protocol(importance_examples=0)
    with one_line(r"quantiles are \(0.5, 1.0\); they must be between 0 and 1"):
        Protocol(quantiles=(0.5, 1.0))


def test_an_evaluation_leaves_what_it_does_not_make_again_with_its_own_protocol(fresh):
    given = {"importance_samples": 2, "counts": COUNTS}
    first = evaluate(fresh, metrics=["leakage"], **given)
    both = evaluate(fresh, metrics=["information"], **given)
    assert both["protocol"]["metrics"] == ["information", "leakage"]
    assert both["metrics"]["leakage[0.01]"] == first["metrics"]["leakage[0.01]"]
    assert json.loads((fresh / "evaluation.json").read_text()) == both
    other = evaluate(fresh, metrics=["information"], importance_samples=0)
    for name in ("leakage[0.01]", "importance_weighted_nll"):
        assert other["metrics"][name] == first["metrics"][name]
    old, new = (each["metrics"]["active_units"]["protocol"] for each in (both, other))
    assert "200 training examples" in old
    assert "400 training examples" in new
    # What has the protocol of the last one: a table makes the others again.
    assert other["protocol"]["metrics"] == ["information"]


def test_numbers_of_one_metric_never_have_two_protocols(fresh):
    evaluate(fresh, metrics=["frechet"], importance_samples=0, counts=COUNTS)
    alike = {"metrics": ["frechet"], "sets": ["random"], "importance_samples": 0}
    same = evaluate(fresh, **alike, counts=COUNTS)
    assert "frechet[fourier, reconstructions]" in same["metrics"]
    fewer = Counts(**{**vars(COUNTS), "images": 120})
    # What is of another protocol now was made in the way that the last evaluation had.
    evaluate(fresh, metrics=["leakage"], importance_samples=2, counts=fewer)
    with pytest.warns(UserWarning, match=r"no longer has frechet\[fourier, \w+\].* another way"):
        other = evaluate(fresh, **alike, counts=fewer)
    # And what frechet does not use does not matter.
    evaluate(fresh, **{**alike, "sets": ["floor"], "importance_samples": 2}, counts=fewer)
    both = json.loads((fresh / "evaluation.json").read_text())["metrics"]
    assert {"frechet[fourier, floor]", "frechet[fourier, random]"} <= {*both}
    named = [name for name, row in other["metrics"].items() if row.get("metric") == "frechet"]
    assert named == ["frechet[fourier, random]"]
    # Of some sets: that is not the whole of the metric, which a table may ask for.
    every = evaluate(fresh, metrics=["information"], importance_samples=0, counts=fewer)
    assert every["protocol"]["metrics"] == ["information"]


def test_numbers_of_other_weights_do_not_stay(fresh):
    path = fresh / "evaluation.json"
    found = evaluate(fresh, metrics=["leakage"], importance_samples=0, counts=COUNTS)
    path.write_text(json.dumps({**found, "step": found["step"] - 1}))
    with pytest.warns(
        UserWarning, match=r"no longer has .* of another step, density or code, or made"
    ):
        other = evaluate(fresh, importance_samples=0, counts=COUNTS)
    assert not [name for name in other["metrics"] if "leak" in name]


def test_a_damaged_file_is_kept_and_an_earlier_checkpoint_has_one_of_its_own(fresh):
    given = {"importance_samples": 0, "counts": COUNTS}
    found = evaluate(fresh, metrics=["leakage"], **given)
    path, first = fresh / "evaluation.json", saved_steps(fresh)[0]
    text = path.read_text()
    assert evaluate(fresh, checkpoint=first, **given)["step"] == first < found["step"]
    assert path.read_text() == text
    assert (fresh / f"evaluation_step{first}.json").is_file()
    path.write_text(text[:200])
    with pytest.warns(UserWarning, match=r"cannot be read: .* now evaluation.json.damaged"):
        evaluate(fresh, **given)
    assert (fresh / "evaluation.json.damaged").read_text() == text[:200]


def test_metrics_of_runs_that_differ_in_the_seed_alone_compare(workdir, result, tmp_path):
    config = saved_config(workdir).unlock()
    config.seed = 1
    vaejax.fit(config, tmp_path, quiet=True)
    other = evaluate(tmp_path, importance_samples=3, metrics=METRICS, counts=COUNTS)["metrics"]
    assert {*other} == {*result["metrics"]}
    for name, row in result["metrics"].items():
        assert comparable([cell_of(row), cell_of(other[name])]), row["protocol"]


@pytest.mark.long
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_function_of_the_fields_that_it_uses(workdir, name, result):
    given = {key: value for key, value in vars(COUNTS).items() if key not in USES[name]}
    changed = Counts(
        **{**vars(COUNTS), **{key: value * 2 // 3 or 0.3 for key, value in given.items()}}
    )
    examples = 500 if "importance_examples" in USES[name] else 90
    protocol = Protocol(metrics=(name,), counts=changed, importance_examples=examples)
    found = metrics_of(opened(workdir).subject(protocol), [name])
    for label, row in found.items():
        assert row["value"] == pytest.approx(result["metrics"][label]["value"], rel=1e-6), label


def test_all_are_the_metrics_that_fit_and_the_file_says_why_others_do_not(fresh, capsys):
    few = evaluate(fresh, metrics=["all"], importance_samples=0)
    assert "200 samples" in few["left_out"]["frechet"]
    assert "--samples 200" in few["left_out"]["frechet"]
    assert {*few["left_out"], *few["protocol"]["metrics"]} == {*METRICS}
    command = ["evaluate", "--workdir", str(fresh), "--importance-samples", "0"]
    assert main([*command, "--split", "train", "--samples", "200", "--metrics", "all"]) == 0
    assert "left out: nearest_neighbors (" in capsys.readouterr().out
    found = json.loads((fresh / "evaluation_train.json").read_text())
    assert "frechet[fourier, random]" in found["metrics"]
    assert found["features"]["name"] == "fourier"
    assert (
        found["features"]["sha256"][:12] in found["metrics"]["frechet[fourier, random]"]["protocol"]
    )
