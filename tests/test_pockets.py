"""Pockets, leaks and nearest-neighbor divergences: identities, and what is known in closed form."""

import jax
import numpy as np
import pytest
from conftest import one_line
from scipy.stats import multivariate_normal, ortho_group

from vaejax.evaluation.pockets import (
    Aggregate,
    base_quantiles,
    leakage,
    lowest,
    nearest_neighbor_kl,
)

TWO_CLUSTERS = Aggregate(
    np.array([[-4.0, 0.0], [4.0, 0.0]], np.float32), np.full((2, 2), 0.5, np.float32)
)
THRESHOLDS = [-20.0, -8.0, -4.0, -2.0, 0.0]


def normal(z):
    return multivariate_normal(np.zeros(z.shape[1])).logpdf(z)


@pytest.fixture
def leaking():
    """log q(z) and log p0(z) at draws of two clusters away from the prior's mass."""
    z = np.asarray(TWO_CLUSTERS.sample(jax.random.key(0), 2_000))
    return np.asarray(TWO_CLUSTERS.log_prob(z)), normal(z)


def test_draws_of_the_aggregate_have_its_density():
    z = np.asarray(TWO_CLUSTERS.sample(jax.random.key(1), 20_000))
    near = np.abs(z[:, 0] - 4) < np.abs(z[:, 0] + 4)
    assert abs(near.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(z))
    np.testing.assert_allclose(z[near].mean(axis=0), [4, 0], atol=0.02)
    np.testing.assert_allclose(z[near].std(axis=0), 0.5, atol=0.02)
    # E_q[1 / q] over a box is its area.
    inside = (np.abs(z[:, 0]) < 5) & (np.abs(z[:, 1]) < 1) & (np.abs(z[:, 0]) > 3)
    area = np.mean(inside / np.exp(np.asarray(TWO_CLUSTERS.log_prob(z), np.float64)))
    assert area == pytest.approx(2 * 2 * 2, rel=0.1)


def test_low_posterior_samples_are_between_the_clusters_and_high_posterior_ones_beyond():
    prior = np.asarray(jax.random.normal(jax.random.key(0), (2_000, 2)))
    low = prior[lowest(np.asarray(TWO_CLUSTERS.log_prob(prior)), 0.1)]
    assert len(low) == 200
    assert np.abs(low[:, 0]).mean() < 0.5 * np.abs(prior[:, 0]).mean()
    aggregate = np.asarray(TWO_CLUSTERS.sample(jax.random.key(1), 2_000))
    high = aggregate[lowest(normal(aggregate), 0.1)]
    assert np.abs(high[:, 0]).min() > 4


def test_the_lowest_are_in_order_and_at_least_one():
    scores = np.array([3.0, -np.inf, 2.0, 5.0])
    assert list(lowest(scores, 0.75)) == [1, 2, 0]
    assert list(lowest(scores, 1e-6)) == [1]
    assert list(lowest(np.zeros(4), 0.5)) == [0, 1]
    for fraction in (0.0, 1.1):
        with one_line(rf"{fraction}; in \(0, 1\]"):
            lowest(scores, fraction)
    with one_line("1 scores are not numbers"):
        lowest(np.array([0.0, np.nan]), 0.5)


def test_leakage_is_that_of_its_definition_and_the_more_leaks_the_higher_the_threshold(leaking):
    fractions = []
    for threshold in THRESHOLDS:
        found = leakage(*leaking, threshold)
        score = np.array([q - p if p < threshold else 0.0 for q, p in zip(*leaking, strict=True)])
        np.testing.assert_allclose(found.unconditional, score)
        fractions.append(found.leaks.mean())
        if found.leaks.any():
            product = found.conditional.mean() * found.leaks.mean()
            np.testing.assert_allclose(found.unconditional.mean(), product)
    assert (np.diff(fractions) >= 0).all()
    assert fractions[-1] == 1
    none = leakage(*leaking, -1e9)
    assert not none.unconditional.any()
    assert not none.leaks.any()
    assert not len(none.conditional)


def test_where_q_is_the_prior_what_leaks_is_what_the_quantile_says_and_scores_nothing():
    z = np.random.default_rng(0).normal(size=(20_000, 3))
    levels = [0.01, 0.1, 0.5]
    for level, threshold in zip(levels, base_quantiles(levels, 3), strict=True):
        found = leakage(normal(z), normal(z), threshold)
        assert found.leaks.mean() == pytest.approx(level, abs=3 * 0.5 / np.sqrt(len(z)))
        assert not np.any(found.unconditional)


def test_leakage_with_the_log_determinant_does_not_depend_on_the_space(leaking):
    # z0 = 3 z: q in representation space is 9 times as dense as its image.
    log_q, log_base = leaking
    volume = np.full(2_000, 2 * np.log(3))
    for threshold in THRESHOLDS:
        stretched = leakage(log_q + volume, log_base, threshold, volume)
        for one, other in zip(leakage(log_q, log_base, threshold), stretched, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)


def test_quantiles_of_two_dimensions_have_a_closed_form():
    levels = np.array([1e-6, 0.05, 0.5, 1.0])
    np.testing.assert_allclose(base_quantiles(levels, 2), np.log(levels) - np.log(2 * np.pi))


def test_the_nearest_neighbor_divergence_of_gaussians():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20_000, 2)), 2 * rng.normal(size=(15_000, 2)) + [1, 0]
    expected = 0.5 * (2 / 4 + 1 / 4 - 2 + 2 * np.log(4))
    terms = nearest_neighbor_kl(x, y)
    assert terms.mean() == pytest.approx(expected, abs=0.05)
    assert abs(nearest_neighbor_kl(x[::2], x[1::2]).mean()) < 0.05


def test_the_nearest_neighbor_divergence_is_the_formula_and_has_no_units():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(30, 3)) + 1
    apart = np.linalg.norm(x[:, None] - x, axis=-1) + np.diag(np.full(20, np.inf))
    across = np.linalg.norm(x[:, None] - y, axis=-1)
    expected = np.mean(3 * np.log(across.min(axis=1) / apart.min(axis=1))) + np.log(30 / 19)
    assert nearest_neighbor_kl(x, y).mean() == pytest.approx(expected)
    basis = ortho_group.rvs(3, random_state=0)
    moved = [5 * points[::-1] @ basis - 3 for points in (x, y)]
    assert nearest_neighbor_kl(*moved).mean() == pytest.approx(expected)


def test_repeated_draws_count_once_and_shared_ones_are_refused():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(30, 2))
    once = nearest_neighbor_kl(x, y)
    again = nearest_neighbor_kl(np.concatenate([x, x[:5]]), np.concatenate([y[3:9], y]))
    np.testing.assert_array_equal(once, again)
    with one_line("2 draws are in both sets"):
        nearest_neighbor_kl(x, np.concatenate([y, x[:2]]))
    with one_line(r"shapes \(1, 2\) and \(30, 2\)"):
        nearest_neighbor_kl(x[:1], y)


def test_scores_that_do_not_fit_are_refused():
    with one_line(r"shapes \(\(3,\), \(2,\), \(3,\)\)"):
        leakage(np.zeros(3), np.zeros(2), 0.0)
