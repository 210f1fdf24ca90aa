"""Every density that is fitted to codes is one, is what its samples follow, and fits them."""

import functools
import inspect
import json

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from vaejax.cli_density import DENSITY_NAMES
from vaejax.expost.families import (
    DENSITIES,
    built,
    default_density_config,
    fit_codes,
)
from vaejax.types import Code, Prior

_BRIEF = {"num_steps": 60, "batch_size": 64, "eval_every": 30, "learning_rate": 3e-3}
SMALL = {
    "gaussian": {},
    "gmm": {"num_components": 3},
    "kde": {"max_codes": 150},
    "flow": {"num_blocks": 2, "width": 8, **_BRIEF},
    "maf": {"num_blocks": 2, "width": 8, **_BRIEF},
    "vae": {"widths": (16,), "num_draws": 1_000, **_BRIEF},
}
every_density = pytest.mark.parametrize("name", list(DENSITIES))
ESTIMATED = ("vae",)  # whose log-density is an estimate from below


def config_of(name, **row):
    config = default_density_config().unlock()
    config.density = name
    config.densities[name].update({**SMALL[name], **row})
    return config


def codes(num_codes: int = 300, seed: int = 0) -> np.ndarray:
    """Two unlike clusters, far from standardized.  -> (N, 2)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_codes, 2)) * [0.5, 1.0]
    left = rng.random(num_codes) < 0.4
    z[left] = z[left] @ [[0.8, 0.5], [0.0, 0.7]] + [2.5, 1.0]
    return (z * [2.0, 0.5] + [5.0, -1.0]).astype(np.float32)


class Made:
    """A fitted density; its methods are functions of arrays, jitted."""

    def __init__(self, fitted):
        self.fitted, self.density = fitted, fitted.density

    def __getattr__(self, method):
        apply = functools.partial(self.density.apply, {"params": self.fitted.params}, method=method)
        function = jax.jit(apply, **({"static_argnums": 1} if method == "sample" else {}))
        setattr(self, method, function)
        return function


@functools.cache
def made(name: str) -> Made:
    return Made(fit_codes(codes(), config_of(name)))


def mass_and_log_density(density: Made, drawn: np.ndarray, size: int = 130):
    """Probability of the cells of a grid around `drawn`, and their log-densities."""
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    low, high = low - 0.4 * (high - low), high + 0.4 * (high - low)
    axes = [np.linspace(*ends, size, dtype=np.float32) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes], dtype=np.float64)
    log_density = np.asarray(density.log_prob(grid), np.float64)
    return np.exp(log_density) * cell, log_density, grid


def test_every_density_is_in_all_lists():
    rows = default_density_config().densities.keys()
    assert {*SMALL} == {*DENSITIES} == {*DENSITY_NAMES} == {*rows}


@every_density
def test_density_has_the_members_of_the_protocol_of_priors(name):
    density = made(name).density
    assert isinstance(density.factorizes, bool)
    assert isinstance(density.has_normal_base, bool)
    for member, function in inspect.getmembers(Prior, inspect.isfunction):
        if not member.startswith("_"):
            wanted = list(inspect.signature(function).parameters)[1:]
            assert list(inspect.signature(getattr(density, member)).parameters) == wanted, member


@every_density
def test_density_integrates_to_one_and_its_samples_follow_it(name, key):
    """Their mean log-density, mean and covariance are those of the density, by quadrature."""
    density = made(name)
    drawn = np.asarray(density.sample(key, 10_000))
    mass, log_density, grid = mass_and_log_density(density, drawn)
    slack = 0.05 if name in ESTIMATED else 1e-3
    assert mass.sum() == pytest.approx(1.0, abs=slack)
    of_samples = np.asarray(density.log_prob(drawn), np.float64)
    error = 4 * of_samples.std() / len(drawn) ** 0.5
    assert abs(of_samples.mean() - (mass * log_density).sum()) < error + 3 * slack
    spread = drawn.std(axis=0)
    mean = (mass[:, None] * grid).sum(axis=0)
    np.testing.assert_allclose(mean / spread, drawn.mean(axis=0) / spread, atol=0.05 + 10 * slack)
    covariance = (mass[:, None] * (grid - mean)).T @ (grid - mean)
    scale = np.outer(spread, spread)
    np.testing.assert_allclose(covariance / scale, np.cov(drawn.T) / scale, atol=0.08 + 4 * slack)


@every_density
def test_the_way_to_generation_space_is_a_change_of_variables(name):
    density, z = made(name), codes(50, seed=1)
    z0 = density.to_base(z)
    np.testing.assert_allclose(density.from_base(z0), z, rtol=1e-4, atol=1e-4)
    base = np.asarray(density.base_log_prob(z0))
    if density.density.has_normal_base:
        expected = -0.5 * np.sum(np.asarray(z0) ** 2, axis=1) - np.log(2 * np.pi)
        np.testing.assert_allclose(base, expected, atol=1e-4)
        assert not np.allclose(z0, z)
    jacobian = jax.vmap(jax.jacfwd(density.to_base))(z)
    log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    np.testing.assert_allclose(density.log_prob(z), base + log_det, atol=1e-3)


@every_density
def test_kl_is_negative_entropy_minus_log_density(name):
    density, z = made(name), jnp.asarray(codes(20, seed=2))
    q = distrax.Independent(distrax.Normal(z + 1, jnp.full_like(z, 0.5)), 1)
    log_prob = np.asarray(density.log_prob(z))
    deterministic = density.kl(Code(z, jnp.zeros(20), z), log_prob)
    np.testing.assert_allclose(deterministic, -log_prob, rtol=1e-5)
    closed = density.kl(Code(z, q.log_prob(z), z, q), log_prob)
    np.testing.assert_allclose(closed, -q.entropy() - log_prob, rtol=1e-4, atol=1e-4)
    blocks = density.kl_blocks(Code(z, q.log_prob(z), z, q), log_prob)
    np.testing.assert_allclose(blocks, np.asarray(closed)[:, None], rtol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde", "maf"])  # trained ones are alike
def test_scaled_codes_are_fitted_alike_and_a_fit_is_a_function_of_codes_and_config(name):
    """log p changes by the log-determinant.  By powers of two: then every bit stays."""
    scale, z = np.array([8.0, 0.25], "f4"), codes(60, seed=3)
    one, other = made(name), Made(fit_codes(codes() * scale, config_of(name)))
    inside = [
        {key: value for key, value in each.fitted.params.items() if key not in ("mean", "scale")}
        for each in (one, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, *inside)
    moved = np.asarray(other.log_prob(z * scale)) + np.log(scale).sum()
    np.testing.assert_allclose(moved, one.log_prob(z), atol=1e-4)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(other.fitted.params))
    shape = other.fitted.shape
    rebuilt = Made(other.fitted._replace(density=built(name, 2, json.loads(json.dumps(shape)))))
    np.testing.assert_array_equal(rebuilt.log_prob(z), other.log_prob(z))


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde"])
def test_shifted_codes_are_fitted_alike(name):
    z, shift = codes(), np.array([20.0, -3.0], "f4")
    moved = Made(fit_codes(z + shift, config_of(name)))
    np.testing.assert_allclose(moved.log_prob(z + shift), made(name).log_prob(z), atol=1e-2)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde"])
def test_a_constant_dimension_is_no_obstacle(name):
    z = codes()
    constant = fit_codes(np.concatenate([z, np.ones_like(z)], axis=1), config_of(name))
    assert np.isfinite(list(constant.report["log_density"].values())).all()


@every_density
def test_batches_single_points_and_stacks_have_the_same_density(name):
    density, z = made(name), codes(6, seed=4)
    whole = density.log_prob(z)
    np.testing.assert_allclose(density.log_prob(z.reshape(2, 3, 2)).reshape(6), whole, rtol=1e-4)
    alone = [density.log_prob(point) for point in z[:2]]
    np.testing.assert_allclose(alone, whole[:2], rtol=1e-4)


@every_density
def test_what_is_told_is_the_mean_log_density_of_what_was_fitted_and_held_out(name):
    density, z = made(name), codes()
    report = density.fitted.report
    assert report["num_codes"] == {"train": 270, "held_out": 30}
    values = np.asarray(density.log_prob(z), np.float64).mean()
    parts = report["log_density"]["train"] * 0.9 + report["log_density"]["held_out"] * 0.1
    assert values == pytest.approx(parts, abs=1e-3)


def test_a_mixture_finds_the_density_of_a_known_mixture():
    """Held-out log-density within 0.05 nats per dimension of the truth."""
    rng = np.random.default_rng(0)
    dim, centers = 3, rng.normal(0, 3, (4, 3))
    factors = 0.5 * np.eye(dim) + rng.normal(0, 0.3, (4, dim, dim))

    def drawn(count):
        k = rng.integers(0, 4, count)
        return centers[k] + np.einsum("nij,nj->ni", factors[k], rng.normal(size=(count, dim)))

    def truth(z):
        white = np.einsum("kij,nkj->nki", np.linalg.inv(factors), z[:, None] - centers)
        log_det = np.linalg.slogdet(factors)[1] + np.log(4) + 0.5 * dim * np.log(2 * np.pi)
        return logsumexp(-0.5 * (white**2).sum(axis=-1) - log_det, axis=1)

    config = config_of("gmm", num_components=4, num_starts=3)
    fitted, test = Made(fit_codes(drawn(4_000), config)), drawn(2_000)
    gap = (truth(test) - np.asarray(fitted.log_prob(test.astype("f4")))).mean()
    assert 0 < gap < 0.05 * dim


@pytest.mark.parametrize("select", ["held_out", "bic"])
def test_the_number_of_components_is_that_of_the_best_score(select):
    rng, centers = np.random.default_rng(0), 7 * np.array([(0, 0), (0, 1), (1, 0), (2, 2)])
    z = rng.normal(size=(600, 2)) + centers[rng.integers(0, 4, 600)]
    row = {"select": select, "candidates": (16, 1, 4), "num_starts": 2, "num_components": 2}
    config = config_of("gmm", **row)
    config.held_out = 0.5
    fitted = fit_codes(z, config)
    scores = fitted.report["notes"]["selection"]
    assert max(scores, key=scores.get) == "4"
    assert scores["4"] > scores["1"] + 0.5
    assert fitted.shape == {"num_components": 4}
    told = fitted.report["log_density"]
    # BIC = -2 log p + (free parameters) log N, here over -2 N.
    expected = {
        "held_out": told["held_out"],
        "bic": told["train"] - 23 * np.log(300) / (2 * 300),
    }
    assert scores["4"] == pytest.approx(expected[select], abs=1e-4)


@pytest.mark.parametrize("name", ["flow", "maf"])
def test_flows_fit_two_moons_better_than_a_gaussian(name):
    rng = np.random.default_rng(0)
    angle = np.pi * rng.random(2_000)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    moons = np.where(rng.random((2_000, 1)) < 0.5, upper, [1.0, 0.5] - upper)
    moons += rng.normal(0, 0.1, moons.shape)
    row = {"num_blocks": 4, "width": 32, "num_steps": 450, "eval_every": 150, "batch_size": 200}
    found = {
        each: fit_codes(moons, config).report["log_density"]["held_out"]
        for each, config in (("gaussian", config_of("gaussian")), (name, config_of(name, **row)))
    }
    assert found[name] > found["gaussian"] + 0.3


def test_a_bandwidth_is_given_or_better_than_its_neighbors():
    chosen = made("kde").fitted.params["inner"]["bandwidth"]
    best = made("kde").fitted.report["log_density"]["held_out"]
    for times in (0.7, 1.4):
        other = fit_codes(codes(), config_of("kde", bandwidth=float(chosen) * times))
        assert other.params["inner"]["bandwidth"] == np.float32(float(chosen) * times)
        assert other.report["log_density"]["held_out"] < best


def test_a_density_in_place_of_a_prior_can_be_initialized(key):
    """With the structure of what is fitted, in one plain pass."""
    for name in DENSITIES:
        fitted = made(name).fitted
        begin = functools.partial(fitted.density.init, method="log_prob")
        variables = jax.eval_shape(begin, key, jnp.zeros((3, 2)))
        wanted = jax.tree.map(np.shape, fitted.params)
        assert jax.tree.map(lambda leaf: leaf.shape, variables["params"]) == wanted
