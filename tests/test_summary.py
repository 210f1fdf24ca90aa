"""The summary says what was trained, its numbers, and what to mistrust."""

import pytest

from vaejax.config import default_config
from vaejax.reporting.summary import summary


def evaluation_with(**values):
    return {
        "step": 10_000,
        "split": "test",
        "num_examples": 297,
        "metrics": {
            name: {"value": value, "standard_error": 0.25, "unit": "nats", "protocol": ""}
            for name, value in values.items()
        },
    }


def test_summary_says_what_was_trained_and_its_numbers(tmp_path):
    text = summary(evaluation_with(elbo=-12.5, kl=3.25), default_config(), tmp_path)
    for part in ("digits", "beta_tc (alpha 1.0", "decoupled prior", "297", "-12.500", "latent.png"):
        assert part in text
    assert "warning" not in text
    assert max(map(len, text.replace(str(tmp_path), "W").splitlines())) <= 120


@pytest.mark.parametrize(("kl", "warns"), [(0.19, True), (0.21, False), (-0.01, True)])
def test_summary_warns_of_a_collapsed_posterior(tmp_path, kl, warns):
    text = summary(evaluation_with(kl=kl), default_config(), tmp_path)
    assert ("collapsed" in text) is warns


def test_summary_knows_no_collapse_of_a_deterministic_code(tmp_path):
    config = default_config().copy_and_resolve_references().unlock()
    config.posterior = "deterministic"
    assert "collapsed" not in summary(evaluation_with(kl=0.0), config, tmp_path)


def test_summary_names_what_is_not_finite_or_not_finished(tmp_path):
    evaluation = {**evaluation_with(kl=3.0, elbo=float("nan")), "step": 500}
    text = summary(evaluation, default_config(), tmp_path)
    assert "warning: not finite: elbo" in text
    assert "warning: not finished, step 500 of 10,000" in text


def test_summary_of_an_empty_evaluation_still_says_what_was_trained(tmp_path):
    text = summary({}, default_config(), tmp_path)
    assert "digits" in text
    assert "no metrics" in text
