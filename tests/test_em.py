"""Expectation maximization climbs as scikit-learn's does, step by step and to the same place."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from vaejax.expost import em
from vaejax.expost.em import Mixture, expectation_maximization, is_over, log_densities
from vaejax.expost.gaussians import k_means_start


def codes(num_codes: int, dim: int, seed: int = 0) -> np.ndarray:
    """Standardized draws of three overlapping clusters, one of them nearly flat."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 2, (3, dim))
    factors = rng.normal(0, 0.6, (3, dim, dim)) + 0.3 * np.eye(dim)
    factors[2, :, -1] *= 1e-2
    cluster = rng.integers(0, 3, num_codes)
    z = centers[cluster] + np.einsum(
        "nij,nj->ni", factors[cluster], rng.normal(size=(num_codes, dim))
    )
    return (z - z.mean(axis=0)) / z.std(axis=0)


def start_of(z: np.ndarray, count: int) -> Mixture:
    """Unlike components, at some of the codes."""
    dim = z.shape[1]
    weights = np.arange(1, count + 1) / np.arange(1, count + 1).sum()
    covariances = np.stack([(0.5 + 0.3 * k) * np.eye(dim) + 0.1 for k in range(count)])
    return Mixture(np.log(weights), z[:count], covariances)


def theirs(z, start: Mixture, iterations: int, floor: float, tolerance: float = 0.0):
    mixture = GaussianMixture(
        len(start.means),
        tol=tolerance,
        max_iter=iterations,
        reg_covar=floor,
        weights_init=np.exp(start.log_weights),
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
    )
    return mixture.fit(z)


# (codes, dimensions, components, floor)
CASES = [(200, 1, 2, 1e-6), (301, 2, 3, 1e-6), (400, 5, 4, 1e-3)]


@pytest.mark.parametrize(("num_codes", "dim", "count", "floor"), CASES)
@pytest.mark.parametrize("iterations", [1, 7])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_iteration_is_that_of_scikit_learn(num_codes, dim, count, floor, iterations):
    z = codes(num_codes, dim)
    start = start_of(z, count)
    limits = {"floor": floor, "tolerance": 0.0, "max_iterations": iterations}
    ours, other = expectation_maximization(z, start, **limits), theirs(z, start, iterations, floor)
    assert ours.iteration == iterations
    assert ours.bound == pytest.approx(other.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(np.exp(ours.mixture.log_weights), other.weights_, atol=1e-9)
    np.testing.assert_allclose(ours.mixture.means, other.means_, atol=1e-8)
    np.testing.assert_allclose(ours.mixture.covariances, other.covariances_, atol=1e-8)


def test_the_climb_ends_where_that_of_scikit_learn_ends():
    z = codes(500, 3)
    start = start_of(z, 3)
    ours = expectation_maximization(z, start, tolerance=1e-5)
    other = theirs(z, start, 2_000, 1e-6, 1e-5)
    assert is_over(ours, 1e-5)
    assert ours.iteration == other.n_iter_ > 10
    assert log_densities(z, ours.mixture).mean() == pytest.approx(other.score(z), abs=1e-6)


def test_the_likelihood_never_falls_and_the_bound_is_that_of_the_step_before():
    z = codes(300, 3)
    start = start_of(z, 4)
    limits = {"floor": 1e-9, "tolerance": 0.0}
    climbs = [expectation_maximization(z, start, max_iterations=k, **limits) for k in range(1, 16)]
    bounds = np.array([climb.bound for climb in climbs])
    assert (np.diff(bounds) > -1e-10).all()
    assert bounds[-1] > bounds[0] + 0.1
    for climb, after in zip(climbs, climbs[1:], strict=False):
        assert log_densities(z, climb.mixture).mean() == pytest.approx(float(after.bound), abs=1e-9)
        assert after.before == climb.bound


@pytest.mark.parametrize("kept_bytes", [0, 2**28])
@pytest.mark.parametrize("block", [7, 100])
def test_blocks_change_nothing(monkeypatch, block, kept_bytes):
    z = codes(100, 2)
    limits = {"tolerance": 0.0, "max_iterations": 3}
    whole = expectation_maximization(z, start_of(z, 3), **limits)
    monkeypatch.setattr(em, "_BLOCK_BYTES", block * 8 * 6)
    monkeypatch.setattr(em, "_KEPT_BYTES", kept_bytes)
    parts = expectation_maximization(z, start_of(z, 3), **limits)
    for one, other in zip(whole.mixture, parts.mixture, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)
    np.testing.assert_allclose(log_densities(z, parts.mixture), log_densities(z, whole.mixture))


def test_looks_of_the_host_change_nothing(monkeypatch):
    z = codes(120, 2)
    whole = expectation_maximization(z, start_of(z, 3), tolerance=1e-6)
    monkeypatch.setattr(em, "_AT_ONCE", 3)
    parts = expectation_maximization(z, start_of(z, 3), tolerance=1e-6)
    assert whole.iteration == parts.iteration
    np.testing.assert_array_equal(whole.mixture.means, parts.mixture.means)


def test_log_densities_are_those_of_scipy():
    z, mixture = codes(50, 4), start_of(codes(50, 4, seed=1), 3)
    pairs = zip(mixture.means, mixture.covariances, strict=True)
    each = np.stack([multivariate_normal(m, c).logpdf(z) for m, c in pairs], axis=1)
    expected = logsumexp(each + mixture.log_weights, axis=1)
    np.testing.assert_allclose(log_densities(z, mixture), expected, atol=1e-10)


def test_a_start_is_made_of_the_moments_of_its_clusters():
    """With far clusters these are what generated the codes, whatever the seed of k-means."""
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(c, 0.1, (40 * (k + 1), 2)) for k, c in enumerate((-3, 0, 4))])
    start = k_means_start(z, 3, seed=5, floor=1e-3)
    order = np.argsort(start.means[:, 0])
    np.testing.assert_allclose(np.exp(start.log_weights)[order], np.array([1, 2, 3]) / 6, atol=1e-9)
    for k, cluster in zip(order, np.split(z, [40, 120]), strict=True):
        np.testing.assert_allclose(start.means[k], cluster.mean(axis=0), atol=1e-9)
        expected = np.cov(cluster.T, bias=True) + 1e-3 * np.eye(2)
        np.testing.assert_allclose(start.covariances[k], expected, atol=1e-9)
