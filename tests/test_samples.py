"""Distances of samples: closed forms, invariances, and what each of them cannot see."""

import numpy as np
import pytest
from conftest import one_line
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from sklearn.neighbors import NearestNeighbors

from vaejax.evaluation.samples import (
    Moments,
    frechet_distance,
    kernel_distances,
    moments,
    moments_without_blocks,
    precision_and_recall,
)


def draws(seed, count=400, dim=5, center=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + center


def distance(one, other):
    return frechet_distance(moments(one), moments(other), fewest=2)


def matched(features, seed):
    """Gaussian draws with exactly the mean and the covariance of `features`."""
    noise = np.random.default_rng(seed).normal(size=features.shape)
    noise -= noise.mean(axis=0)
    whitened = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T
    return whitened @ np.linalg.cholesky(np.cov(features.T)).T + features.mean(axis=0)


def test_moments_are_those_of_numpy():
    features = draws(0)
    count, mean, covariance = moments(features.astype(np.float32))
    assert count == len(features)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(features.T), rtol=1e-5, atol=1e-6)


def test_the_frechet_distance_is_that_of_the_definition():
    one, other = draws(0), draws(1, center=2.0)
    (_, m, s), (_, n, t) = moments(one), moments(other)
    expected = ((m - n) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert distance(one, other) == pytest.approx(expected, rel=1e-8)


def test_the_frechet_distance_of_gaussians_with_known_moments():
    # Where covariances commute it is |m - m'|^2 + sum (s - s')^2 over standard deviations.
    s, t, shift = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 4.0]), np.array([1.0, -2.0, 0.5])
    basis = ortho_group.rvs(3, random_state=0)
    one = Moments(9, np.zeros(3), basis * s**2 @ basis.T)
    other = Moments(9, shift, basis * t**2 @ basis.T)
    expected = (shift**2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(one, other, fewest=9) == pytest.approx(expected, rel=1e-7)


def test_the_frechet_distance_is_one_between_distributions():
    one, other = draws(0), draws(1, center=1.0)
    basis = ortho_group.rvs(5, random_state=0)
    there = distance(one, other)
    assert distance(one, one[::-1]) == pytest.approx(0, abs=1e-6)
    assert distance(other, one) == pytest.approx(there)
    assert distance(one @ basis + 7, other @ basis + 7) == pytest.approx(there)
    assert distance(3 * one, 3 * other) == pytest.approx(9 * there)


def test_covariances_without_full_rank_have_a_distance():
    one, other = draws(0, count=4, dim=9), draws(1, count=5, dim=9)
    assert np.isfinite(distance(one, other))
    assert distance(one, one) == pytest.approx(0, abs=1e-6 * np.trace(np.cov(one.T)))


def test_moments_without_a_block_are_those_of_the_rest():
    features = np.random.default_rng(0).normal(1e3, 1.0, (103, 4))
    blocks = np.array_split(np.arange(103), 7)
    for block, found in zip(blocks, moments_without_blocks(features, 7), strict=True):
        rest = moments(np.delete(features, block, axis=0))
        assert found.count == rest.count
        np.testing.assert_allclose(found.mean, rest.mean, rtol=1e-12)
        np.testing.assert_allclose(found.covariance, rest.covariance, rtol=1e-9, atol=1e-9)


def test_a_frechet_distance_is_blind_to_what_moments_do_not_show_and_a_kernel_is_not():
    rng = np.random.default_rng(0)
    # Of unequal weight: a cubic kernel sees three moments, of which symmetry would hide one.
    clusters = rng.normal(size=(5_000, 2)) + 8.0 * (rng.random((5_000, 1)) < 0.1)
    gaussian = matched(clusters, 1)
    assert distance(clusters, gaussian) == pytest.approx(0, abs=1e-6)
    estimates = kernel_distances(clusters, gaussian, size=500)
    assert estimates.mean() > 5 * estimates.std(ddof=1) / np.sqrt(len(estimates))


def test_a_kernel_distance_is_the_double_sum_over_different_points():
    one, other = draws(0, count=7), draws(1, count=7)

    def k(x, y):
        return (x @ y / 5 + 1) ** 3

    def mean(xs, ys, skip):
        pairs = [(i, j) for i in range(7) for j in range(7) if i != j or not skip]
        return np.mean([k(xs[i], ys[j]) for i, j in pairs])

    expected = mean(one, one, True) + mean(other, other, True) - 2 * mean(one, other, False)
    np.testing.assert_allclose(kernel_distances(one, other, size=7), [expected])
    np.testing.assert_allclose(kernel_distances(other, one[::-1]), [expected])


def test_kernel_distances_of_one_distribution_are_zero_on_average():
    features = draws(0, count=20_000, dim=3)
    found = kernel_distances(features[:10_000], features[10_000:], size=50)
    assert len(found) == 200
    assert abs(found.mean()) < 3 * found.std(ddof=1) / np.sqrt(len(found))
    assert (found < 0).any()


@pytest.mark.parametrize("neighbors", [1, 3])
def test_precision_and_recall_are_those_of_exact_neighbors(neighbors, monkeypatch):
    monkeypatch.setattr("vaejax.evaluation.samples._AT_ONCE", 7)
    real, generated = draws(0, count=61), draws(1, count=50, center=0.5)

    def covered(points, centers):
        within = NearestNeighbors(n_neighbors=neighbors + 1).fit(centers)
        radii = within.kneighbors(centers)[0][:, -1]
        apart = np.linalg.norm(points[:, None] - centers, axis=-1)
        return (apart <= radii).any(axis=1)

    precision, recall = precision_and_recall(real, generated, neighbors)
    np.testing.assert_array_equal(precision, covered(generated, real))
    np.testing.assert_array_equal(recall, covered(real, generated))
    assert 0 < precision.mean() < 1
    swapped = precision_and_recall(generated, real, neighbors)
    for found, other in zip(swapped, (recall, precision), strict=True):
        np.testing.assert_array_equal(found, other)


def test_precision_and_recall_at_their_ends():
    real = draws(0, count=300)
    assert [found.mean() for found in precision_and_recall(real, real)] == [1, 1]
    assert [found.mean() for found in precision_and_recall(real, real + 1e3)] == [0, 0]
    # Samples of one of two clusters are precise, and recall half of the data.
    both = np.concatenate([real, real + 1e3])
    assert [found.mean() for found in precision_and_recall(both, real)] == [1, 0.5]


def test_what_cannot_be_compared_is_refused_in_one_line():
    few, wide = moments(draws(0)), moments(draws(0, dim=6))
    with one_line("of 400 samples is biased, it takes 2048; --samples 400"):
        frechet_distance(few, few)
    with one_line("features of 5 and of 6 dimensions"):
        frechet_distance(few, wide, fewest=2)
    with one_line(r"shape \(400,\); \(N, F\) with N >= 2"):
        moments(draws(0)[:, 0])
    with one_line("1 features are not finite"):
        kernel_distances(np.where(np.arange(400)[:, None] == 3, np.nan, draws(0, dim=1)), draws(0))
    with one_line(r"N >= 4"):
        precision_and_recall(draws(0, count=3), draws(0))
