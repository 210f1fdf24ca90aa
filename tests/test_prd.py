"""Curves of precision and recall: the definition, closed forms, and what moves which end."""

import numpy as np
import pytest
from conftest import one_line
from scipy.optimize import linprog

from vaejax.evaluation.prd import largest_f, prd_curve, prd_curves

GENERATED = np.array([0.1, 0.4, 0.5, 0.0])
REAL = np.array([0.3, 0.3, 0.1, 0.3])


def scores(precision, recall):
    return largest_f(precision, recall, 8), largest_f(precision, recall, 1 / 8)


def modes(weights, seed, count=2_000):
    """Draws of narrow clusters that are far from each other."""
    rng = np.random.default_rng(seed)
    which = rng.choice(len(weights), count, p=weights)
    return np.eye(len(weights))[which] * 100 + 0.1 * rng.normal(size=(count, len(weights)))


def test_the_curve_is_that_of_the_definition():
    # Recall b at precision a = t b: some m with b m <= P and a m <= Q.  As a linear program, the
    # largest mass of m' = b m with m' <= P and t m' <= Q.
    precision, recall = prd_curve(GENERATED, REAL, num_angles=9)
    for k, angle in enumerate(np.linspace(0, np.pi / 2, 9)[1:-1], start=1):
        slope = np.tan(angle)
        bounds = [(0, min(p, q / slope)) for p, q in zip(REAL, GENERATED, strict=True)]
        largest = -linprog(-np.ones(4), bounds=bounds).fun
        assert recall[k] == pytest.approx(largest, abs=1e-9)
        assert precision[k] == pytest.approx(slope * largest, abs=1e-9)


def test_at_its_ends_the_curve_is_the_mass_in_the_support_of_the_other():
    precision, recall = prd_curve(GENERATED, REAL)
    assert precision[-1] == pytest.approx(1.0)  # no sample is where no data are
    assert recall[0] == pytest.approx(0.7)  # the fourth state is never generated
    assert np.all(np.diff(precision) >= 0)
    assert np.all(np.diff(recall) <= 1e-12)
    middle = len(precision) // 2  # where both are 1 - total variation
    assert precision[middle] == pytest.approx(1 - np.abs(GENERATED - REAL).sum() / 2)


def test_precision_and_recall_change_places_with_the_distributions():
    precision, recall = prd_curve(GENERATED, REAL)
    swapped = prd_curve(REAL, GENERATED)
    np.testing.assert_allclose(swapped, [recall[::-1], precision[::-1]], atol=1e-12)
    assert scores(*swapped) == pytest.approx(scores(precision, recall)[::-1])
    assert scores(precision, recall)[0] < scores(precision, recall)[1]


def test_a_dropped_mode_lowers_recall_and_an_invented_one_precision():
    # Three of four equal modes: the corner of the curve is at precision 1 and recall 3/4.
    found = scores(*prd_curve(np.array([1, 1, 1, 0]) / 3, np.ones(4) / 4, 100_001))
    expected = [(1 + b**2) * 0.75 / (b**2 + 0.75) for b in (8, 1 / 8)]
    assert found == pytest.approx(expected, abs=1e-4)
    three, four = modes([1 / 3, 1 / 3, 1 / 3, 0], 0), modes([1 / 4] * 4, 1)
    for generated, real, order in ((three, four, 1), (four, three, -1)):
        curves = prd_curves(generated, real, num_clusters=4, num_runs=3)
        assert np.transpose(scores(*curves))[:, ::order] == pytest.approx(
            np.tile(expected, (3, 1)), abs=0.04
        )


def test_the_same_samples_agree_and_those_far_away_do_not():
    features = np.random.default_rng(0).normal(size=(500, 3))
    assert scores(*prd_curves(features, features[::-1], num_runs=2)) == (
        pytest.approx([1, 1]),
        pytest.approx([1, 1]),
    )
    curves = prd_curves(features, features + 1e3, num_runs=2)
    np.testing.assert_array_equal(scores(*curves), 0)
    others = np.random.default_rng(1).normal(size=(500, 3))
    for found in scores(*prd_curves(features, others)):
        assert 0.8 < found.mean() < 1


def test_clusterings_differ_between_runs_and_are_those_of_the_seed():
    rng = np.random.default_rng(0)
    given = rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + 0.5
    one, again, other = (prd_curves(*given, num_runs=3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    runs = np.concatenate([one.recall, other.recall])
    assert len(np.unique(runs, axis=0)) == 6
    longer = prd_curves(*given, num_runs=4, seed=0)
    np.testing.assert_array_equal(longer.recall[:3], one.recall)


def test_sets_of_different_sizes_are_refused():
    features = np.zeros((30, 2))
    with one_line(r"shapes \(29, 2\) and \(30, 2\); both \(N, F\) with N >= 20"):
        prd_curves(features[1:], features)
    with one_line("N >= 31"):
        prd_curves(features, features, num_clusters=31)
