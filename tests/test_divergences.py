"""Estimators of the aggregate posterior and of distances between sets of codes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from vaejax.objectives.divergences import (
    BANDWIDTHS,
    ESTIMATORS,
    KERNELS,
    gaussian_kernel,
    inverse_multiquadratic,
    log_aggregate_posterior,
    permuted_dims,
    squared_distances,
    squared_mmd,
)

SIZES = [(3, 3), (3, 10), (5, 5), (5, 1_000), (100, 60_000)]  # batch size B, examples N


def weights(name: str, batch_size: int, num_examples: int, rows=None) -> np.ndarray:
    rows = jnp.arange(batch_size) if rows is None else rows
    return np.exp(np.asarray(ESTIMATORS[name](rows, batch_size, num_examples), np.float64))


def densities(z: np.ndarray, mean: np.ndarray, scale) -> np.ndarray:
    """log N(z_id; mean_jd, scale_jd^2) as (i, j, d), in float64."""
    noise = (z[:, None] - mean[None]) / scale
    return -0.5 * noise**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def random_batch(size: int, dim: int) -> np.ndarray:
    """Densities of one draw of each of `size` overlapping posteriors, (size, size, dim)."""
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=(size, dim)), rng.uniform(0.3, 1.2, (size, dim))
    return densities(mean + scale * rng.normal(size=(size, dim)), mean, scale)


def cloud(count: int, dim: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, dim)).astype(np.float32)


@pytest.mark.parametrize(("batch_size", "num_examples"), SIZES)
def test_stratified_rows_sum_to_one_with_one_over_n_on_the_diagonal(batch_size, num_examples):
    matrix = weights("mss", batch_size, num_examples)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.diag(matrix), 1 / num_examples, rtol=1e-5)
    others = batch_size - 1
    stratum = (num_examples - others) / (num_examples * others)
    neighbors = matrix[np.arange(batch_size), (np.arange(batch_size) + 1) % batch_size]
    np.testing.assert_allclose(neighbors, stratum, rtol=1e-5)
    rest = np.isclose(matrix, 1 / others, rtol=1e-5).sum(axis=1)
    assert (rest >= batch_size - 2).all()


@pytest.mark.parametrize(("batch_size", "num_examples"), SIZES)
def test_weighted_rows_sum_to_one_over_n(batch_size, num_examples):
    matrix = weights("mws", batch_size, num_examples)
    np.testing.assert_allclose(matrix, 1 / (batch_size * num_examples), rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "num_examples"), SIZES)
def test_published_weights_are_the_strided_matrix_of_the_public_code(batch_size, num_examples):
    others = batch_size - 1
    stratum = (num_examples - others) / (num_examples * others)
    matrix = np.full((batch_size, batch_size), 1 / others)
    matrix.reshape(-1)[:: others + 1] = 1 / num_examples
    matrix.reshape(-1)[1 :: others + 1] = stratum
    matrix[others - 1, 0] = stratum
    published = weights("mss_published", batch_size, num_examples)
    np.testing.assert_allclose(published, matrix, rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_of_a_shard_are_rows_of_the_whole_matrix(name):
    whole = weights(name, 6, 40)
    for rows in ([0, 1], [2, 3], [4, 5], [3]):
        np.testing.assert_array_equal(weights(name, 6, 40, jnp.array(rows)), whole[rows])


def test_stratified_estimate_averaged_over_every_stratum_is_the_exact_mixture():
    """B = N: over all orders of the batch every other example is the neighbor equally often."""
    size = 5
    log_q = random_batch(size, 2)
    joints, marginals = [], []
    log_weights = ESTIMATORS["mss"](jnp.arange(size), size, size)
    estimate = jax.jit(lambda log_q: log_aggregate_posterior(log_q, log_weights))
    for order in itertools.permutations(range(size)):
        back = np.argsort(order)
        joint, marginal = estimate(log_q[np.ix_(order, order)])
        joints.append(np.exp(joint)[back])
        marginals.append(np.exp(marginal)[back])
    exact = np.exp(log_q.sum(axis=-1)).mean(axis=1)
    np.testing.assert_allclose(np.mean(joints, axis=0), exact, rtol=1e-4)
    np.testing.assert_allclose(np.mean(marginals, axis=0), np.exp(log_q).mean(axis=1), rtol=1e-4)


def test_weighted_estimate_of_the_whole_data_is_the_exact_mixture_minus_log_n():
    size = 7
    log_q = random_batch(size, 3)
    log_weights = ESTIMATORS["mws"](jnp.arange(size), size, size)
    joint, marginals = log_aggregate_posterior(log_q, log_weights)
    exact = logsumexp(log_q.sum(axis=-1), axis=1) - np.log(size)
    np.testing.assert_allclose(joint, exact - np.log(size), rtol=1e-5, atol=1e-5)
    exact = logsumexp(log_q, axis=1) - np.log(size)
    np.testing.assert_allclose(marginals, exact - np.log(size), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_total_correlation_tells_correlated_codes_from_independent_ones(name):
    """Means on a full grid make q(z) factorize exactly; the same means on a line do not."""
    side, scale = np.linspace(-2, 2, 12), 0.4
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    line = np.repeat(np.linspace(-2, 2, len(grid))[:, None], 2, axis=1)
    rng = np.random.default_rng(1)
    size = len(grid)
    log_weights = ESTIMATORS[name](jnp.arange(size), size, size)
    constant = np.log(size) if name == "mws" else 0.0  # (D - 1) log N with B = N

    def total_correlation(mean):
        mean = mean[rng.permutation(size)]
        z = mean + scale * rng.normal(size=mean.shape)
        joint, marginals = log_aggregate_posterior(densities(z, mean, scale), log_weights)
        return np.mean(joint - marginals.sum(axis=-1)) - constant

    assert abs(total_correlation(grid)) < 0.05
    assert total_correlation(line) > 0.5


@pytest.mark.parametrize("name", ["mss", "mss_published"])
def test_total_correlation_of_equal_posteriors_is_zero(name):
    """Every q(z|x) the same: q(z) is that product, whatever weights that sum to 1."""
    z = cloud(20, 3)
    log_q = densities(z, np.zeros((20, 3)), 1.0)
    matrix = np.array(ESTIMATORS[name](jnp.arange(20), 20, 500))
    matrix -= logsumexp(matrix, axis=1, keepdims=True)
    joint, marginals = log_aggregate_posterior(log_q, matrix)
    np.testing.assert_allclose(joint, marginals.sum(axis=-1), atol=1e-5)


def test_far_codes_keep_finite_log_densities():
    log_q = densities(np.array([[0.0], [1e3]]), np.array([[0.0], [-1e3]]), 1e-2)
    log_weights = ESTIMATORS["mws"](jnp.arange(2), 2, 2)
    assert all(np.isfinite(part).all() for part in log_aggregate_posterior(log_q, log_weights))


def test_permuting_dimensions_keeps_every_marginal_exactly(key):
    z = cloud(50, 4)
    shuffled = permuted_dims(key, z)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(z, axis=0))


def test_permutations_differ_between_dimensions_and_destroy_correlation(key):
    count = 2_000
    z = np.repeat(np.arange(count, dtype=np.float32)[:, None], 5, axis=1)
    shuffled = np.asarray(permuted_dims(key, z))
    correlation = np.corrcoef(shuffled.T)[~np.eye(5, dtype=bool)]
    assert np.abs(correlation).max() < 4 / np.sqrt(count)
    assert np.abs(np.corrcoef(shuffled[:, 0], z[:, 0])[0, 1]) < 4 / np.sqrt(count)


def mmd_by_loops(u, z, bandwidth: float, unbiased: bool) -> float:
    def mean_kernel(a, b, skip: bool) -> float:
        pairs = [
            np.exp(-sum((p - q) ** 2 for p, q in zip(a[i], b[j], strict=True)) / bandwidth)
            for i in range(len(a))
            for j in range(len(b))
            if not (skip and i == j)
        ]
        return float(np.mean(pairs))

    within = mean_kernel(u, u, unbiased) + mean_kernel(z, z, unbiased)
    return within - 2 * mean_kernel(u, z, False)


@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd_is_the_double_loop(unbiased):
    u, z = cloud(7, 3), cloud(5, 3, 0.5, seed=1)
    expected = mmd_by_loops(u.astype(float), z.astype(float), 2.5, unbiased)
    np.testing.assert_allclose(
        squared_mmd(u, z, gaussian_kernel(2.5), unbiased), expected, atol=1e-6
    )


def test_mmd_is_zero_for_identical_sets_and_grows_with_a_shift():
    z = cloud(40, 2)
    values = [
        float(squared_mmd(z, z[::-1] + shift, gaussian_kernel(4.0)))
        for shift in (0.0, 0.3, 1.0, 3.0)
    ]
    assert abs(values[0]) < 1e-6
    assert 1e-4 < values[1] < values[2] < values[3]


def test_mmd_is_never_negative_with_its_diagonal_and_at_most_two():
    for seed in range(20):
        value = squared_mmd(
            cloud(10, 2, seed=seed), cloud(12, 2, seed=100 + seed), gaussian_kernel(1.0)
        )
        assert 0 <= value <= 2


def test_unbiased_mmd_is_the_other_one_without_its_diagonals():
    """n V = (n - 1) U + 1 for each of the two sums within a set."""
    u, z = cloud(9, 2), cloud(9, 2, 1.0, seed=1)
    cross = 2 * np.exp(-squared_distances(u, z) / 3.0).mean()
    biased, unbiased = (
        squared_mmd(u, z, gaussian_kernel(3.0)) + cross,
        squared_mmd(u, z, gaussian_kernel(3.0), True) + cross,
    )
    np.testing.assert_allclose(9 * biased, 8 * unbiased + 2, rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_mean_of_what_devices_find_for_their_rows_is_the_discrepancy(key, unbiased):
    u, z = jax.random.normal(key, (2, 24, 3))

    def of_parts(u, z, count):
        given, parts = (u, z, gaussian_kernel(3.0), unbiased), np.split(np.arange(24), count)
        return sum(squared_mmd(*given, own=lambda rows, at=at: rows[at]) for at in parts) / count

    whole = jax.value_and_grad(of_parts, argnums=(0, 1))(u, z, 1)
    for count in (2, 8):
        found = jax.value_and_grad(of_parts, argnums=(0, 1))(u, z, count)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, whole)


def test_unbiased_mmd_of_one_distribution_has_mean_zero():
    sets = cloud(2 * 2_000 * 8, 2).reshape(2, 2_000, 8, 2)
    values = jax.jit(jax.vmap(lambda u, z: squared_mmd(u, z, gaussian_kernel(4.0), True)))(*sets)
    values = np.asarray(values, np.float64)
    assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(len(values))
    biased = jax.jit(jax.vmap(lambda u, z: squared_mmd(u, z, gaussian_kernel(4.0))))(*sets)
    assert np.mean(biased) > 10 * values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_published_bandwidth_is_the_dimension_squared(dim):
    """The public kernel: mean over dimensions of the squared difference, over the dimension."""
    u, z = cloud(6, dim), cloud(6, dim, 1.0, seed=1)
    differences = (u[:, None] - z[None]) ** 2
    kernel = np.exp(-differences.mean(axis=-1) / dim)
    bandwidth = BANDWIDTHS["published"](u, z)
    assert bandwidth == dim**2
    np.testing.assert_allclose(np.exp(-squared_distances(u, z) / bandwidth), kernel, rtol=1e-5)


def test_scaled_bandwidth_is_the_mean_squared_distance_of_standard_normals():
    u, z = cloud(4_000, 3), cloud(4_000, 3, seed=1)
    distances = np.sum((u - z) ** 2, axis=-1, dtype=np.float64)
    error = distances.std(ddof=1) / np.sqrt(len(distances))
    assert abs(distances.mean() - BANDWIDTHS["scaled"](u, z)) < 4 * error


def test_median_bandwidth_is_the_median_and_carries_no_gradient():
    u, z = cloud(6, 3), cloud(7, 3, 1.0, seed=1)
    distances = [np.sum((a - b) ** 2) for a in u for b in z]
    np.testing.assert_allclose(BANDWIDTHS["median"](u, z), np.median(distances), rtol=1e-5)
    gradient = jax.grad(lambda z: BANDWIDTHS["median"](u, z))(z)
    np.testing.assert_array_equal(gradient, 0)


def test_distances_are_exact_far_from_the_origin():
    """A sum of squares loses nothing that |a|^2 + |b|^2 - 2ab would cancel."""
    a, b = np.float32([[0, 1], [2, 5]]), np.float32([[1, 1], [0, 3]])
    near, far = squared_distances(a, b), squared_distances(a + 4096, b + 4096)
    np.testing.assert_array_equal(near, [[1, 4], [17, 8]])
    np.testing.assert_array_equal(near, far)


@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd_of_a_sum_of_kernels_is_the_sum_of_theirs(unbiased):
    """The inverse multiquadratic is 1 at distance 0 for each of its scales."""
    u, z = cloud(7, 3), cloud(5, 3, 0.5, seed=1)
    parts = [squared_mmd(u, z, lambda d, c=c: c / (c + d), unbiased) for c in _widths(6.0)]
    value = squared_mmd(u, z, inverse_multiquadratic(6.0), unbiased)
    np.testing.assert_allclose(value, sum(parts), atol=1e-5)


def _widths(scale):
    return [scale * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10)]


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_tell_equal_from_shifted_draws(name):
    p, q = cloud(300, 4), cloud(300, 4, seed=1)
    same = float(squared_mmd(p, q, KERNELS[name](p, q), True))
    shifted = float(squared_mmd(p, q + 1, KERNELS[name](p, q + 1), True))
    assert abs(same) < 0.1 * shifted
