"""The density of the aggregate posterior, against brute force in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line
from scipy.special import logsumexp
from scipy.stats import norm

from vaejax.evaluation.aggregate import aggregate_log_density


def mixture(num_points, num_components, dim, scale, seed=0):
    """Points drawn from it, and its components."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 2, (num_components, dim))
    scale = scale * np.exp(rng.normal(0, 0.3, mean.shape))
    own = rng.integers(0, num_components, num_points)
    points = mean[own] + scale[own] * rng.normal(size=(num_points, dim))
    return tuple(array.astype(np.float32) for array in (points, mean, scale))


def joint(points, mean, scale):
    """log 1/N N(z; mean_i, scale_i^2) of every pair, in double precision.  -> (P, N)."""
    points, mean, scale = (array.astype(np.float64) for array in (points, mean, scale))
    return norm.logpdf(points[:, None], mean, scale).sum(axis=-1) - np.log(len(mean))


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("dim", [1, 2, 10, 64])
def test_it_is_the_mixture_density(dim, scale):
    """To the rounding of the squares: codes of scale 1e-3 are as exact as wide ones."""
    given = mixture(90, 300, dim, scale)
    exact = logsumexp(joint(*given), axis=1)
    np.testing.assert_allclose(aggregate_log_density(*given), exact, rtol=3e-6, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
@pytest.mark.parametrize("component_chunk", [1, 13, 97, 1000])
def test_the_chunks_change_nothing(chunk, component_chunk):
    given = mixture(50, 97, 3, 0.2)
    sizes = {"chunk": chunk, "component_chunk": component_chunk}
    values = aggregate_log_density(*given, **sizes)
    np.testing.assert_allclose(values, aggregate_log_density(*given), rtol=1e-5, atol=1e-5)


def test_one_component_is_a_gaussian():
    points, mean, scale = mixture(40, 1, 5, 0.7)
    expected = norm.logpdf(points, mean, scale).sum(axis=-1)
    np.testing.assert_allclose(aggregate_log_density(points, mean, scale), expected, rtol=1e-5)


def test_components_count_as_often_as_they_are_given():
    points, mean, scale = mixture(40, 30, 2, 0.3)
    once = aggregate_log_density(points, mean, scale)
    twice = aggregate_log_density(points, np.tile(mean, (7, 1)), np.tile(scale, (7, 1)))
    np.testing.assert_allclose(once, twice, rtol=1e-5, atol=1e-5)


def test_it_integrates_to_one():
    _, mean, scale = mixture(1, 200, 2, 0.4)
    axis = np.linspace(-12, 12, 400, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(np.asarray(aggregate_log_density(grid, mean, scale), float)).sum()
    assert mass * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-4)


def test_it_is_finite_far_from_all_components():
    points, mean, scale = mixture(20, 200, 2, 0.01)
    points = points + 300
    exact = logsumexp(joint(points, mean, scale), axis=1)
    assert (exact < -1e7).all()
    np.testing.assert_allclose(aggregate_log_density(points, mean, scale), exact, rtol=1e-5)


def test_its_gradient_is_the_mean_pull_of_the_components():
    """Under the responsibilities; 23 points and 97 components leave a rest in their chunks."""
    given = mixture(23, 97, 4, 0.3)

    def total(*given):
        return aggregate_log_density(*given, chunk=5, component_chunk=10).sum()

    found = jax.grad(total, argnums=(0, 1, 2))(*given)
    points, mean, scale = (array.astype(np.float64) for array in given)
    share = np.exp(joint(*given) - logsumexp(joint(*given), axis=1, keepdims=True))[:, :, None]
    standard = (points[:, None] - mean) / scale
    expected = (
        -(share * standard / scale).sum(axis=1),
        (share * standard / scale).sum(axis=0),
        (share * (standard**2 - 1) / scale).sum(axis=0),
    )
    for gradient, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("differentiated", [False, True])
def test_its_memory_is_that_of_a_tile(differentiated):
    """Of all 5,000 x 6,000 pairs it would be 120 MB, and 8 times that with the differences."""

    def total(*given):
        return aggregate_log_density(*given, chunk=100, component_chunk=200).sum()

    shapes = [jax.ShapeDtypeStruct((count, 8), jnp.float32) for count in (5_000, 6_000, 6_000)]
    program = jax.jit(jax.grad(total) if differentiated else total).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 5e6


@pytest.mark.parametrize(
    "shapes",
    [
        ((5, 2), (7, 3), (7, 3)),
        ((5, 2), (7, 2), (7, 1)),
        ((5,), (7,), (7,)),
        ((5, 2), (0, 2), (0, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(shapes):
    with one_line(r"must be \(P, D\), \(N, D\) and \(N, D\)"):
        aggregate_log_density(*map(np.ones, shapes))


@pytest.mark.parametrize("name", ["chunk", "component_chunk"])
def test_empty_chunks_are_an_error(name):
    with one_line(f"{name} is -1; at least 1"):
        aggregate_log_density(*mixture(3, 3, 2, 1.0), **{name: -1})
