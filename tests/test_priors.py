"""Every prior is a density that its samples follow, and its KL is the one of that density."""

import functools
import inspect

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.config import build, default_config
from vaejax.models.priors import PRIORS, standard_normal_log_prob
from vaejax.types import Code, Prior

# (prior, latent_dim, changes to its config row).  A new prior is one more row here.
CASES = [
    ("standard_normal", 1, {}),
    ("standard_normal", 3, {}),
    ("decoupled", 1, {"num_blocks": 2}),
    ("decoupled", 2, {}),
    ("decoupled", 2, {"mask": "half", "t_activation": "none", "num_blocks": 3}),
    ("decoupled", 5, {"mask": "half", "mask_percent": 30.0, "num_blocks": 2}),
]
ids = ["-".join(map(str, (name, dim, *changes.values()))) for name, dim, changes in CASES]
every_prior = pytest.mark.parametrize("case", range(len(CASES)), ids=ids)
some_decoupled = pytest.mark.parametrize("case", [2, 4], ids=[ids[2], ids[4]])
low_dimensional = pytest.mark.parametrize(
    "case", [k for k, case in enumerate(CASES) if case[1] <= 2]
)


class Made:
    """A prior with drawn parameters; its methods are functions of arrays, jitted."""

    def __init__(self, name, latent_dim, changes, edit=None):
        config = default_config().unlock()
        config.prior = name
        if name == "decoupled":
            config.priors.decoupled.width = 12
        config.priors[name].update(changes)
        self.dim, self.prior = latent_dim, build(PRIORS, "prior", config, latent_dim)
        shapes = jax.eval_shape(
            lambda key, z: self.prior.init(key, z, method="log_prob"),
            jax.random.key(0),
            jnp.zeros((1, latent_dim)),
        )
        rng = np.random.default_rng(4)

        def drawn(path, leaf):
            values = rng.normal(0, 0.35, leaf.shape).astype(np.float32)
            return edit(path, values) if edit else values

        self.variables = jax.tree_util.tree_map_with_path(drawn, shapes)

    def __getattr__(self, method):
        function = functools.partial(self.prior.apply, self.variables, method=method)
        static = {"static_argnums": 1} if method == "sample" else {}
        function = jax.jit(function, **static)
        setattr(self, method, function)
        return function


@functools.cache
def made(case: int) -> Made:
    return Made(*CASES[case])


def posterior(dim: int, count: int, spread: float = 0.0, seed: int = 5):
    """`count` draws of one q(z|x), or of many when `spread` > 0, as a Code, and log q in numpy."""
    rng = np.random.default_rng(seed)
    mean = np.linspace(-0.8, 1.1, dim) + spread * rng.normal(size=(count, dim))
    scale = np.broadcast_to(np.linspace(0.4, 1.3, dim), (count, dim))
    noise = rng.normal(size=(count, dim))
    mean, scale, z = (a.astype(np.float32) for a in (mean, scale, mean + scale * noise))
    log_q = np.sum(-0.5 * noise**2 - np.log(scale) - 0.5 * np.log(2 * np.pi), axis=-1)
    q = distrax.Independent(distrax.Normal(mean, scale), reinterpreted_batch_ndims=1)
    return Code(z, log_q.astype(np.float32), mean, q), log_q


def kl_of(prior, code):
    """KL of a prior, which takes the log-density at the code."""
    return prior.kl(code, prior.log_prob(code.z))


def assert_mean(values, expected: float, floor: float = 1e-6):
    """The mean of `values` is `expected` within 4 standard errors."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error + floor, (values.mean(), expected, error)


def test_cases_cover_every_prior():
    assert {name for name, _, _ in CASES} == PRIORS.keys()


@every_prior
def test_prior_has_the_members_of_the_protocol(case):
    prior = made(case).prior
    assert isinstance(prior.factorizes, bool)
    for name, member in inspect.getmembers(Prior, inspect.isfunction):
        if not name.startswith("_"):
            wanted = list(inspect.signature(member).parameters)[1:]
            assert list(inspect.signature(getattr(prior, name)).parameters) == wanted, name


@low_dimensional
def test_density_integrates_to_one(case, key):
    prior = made(case)
    drawn = np.asarray(prior.sample(key, 20_000))
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
    size = 20_000 if prior.dim == 1 else 500
    axes = [np.linspace(*ends, size, dtype=np.float32) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, prior.dim)
    cell = np.prod([axis[1] - axis[0] for axis in axes], dtype=np.float64)
    density = np.exp(np.asarray(prior.log_prob(grid), np.float64))
    np.testing.assert_allclose(density.sum() * cell, 1.0, atol=2e-3)


@every_prior
def test_samples_follow_the_density(case, key):
    """E_p[f r / p] = E_r[f] for a normal r inside the prior's mass, for several f."""
    prior = made(case)
    z = np.asarray(prior.sample(key, 20_000))
    center, scale = np.median(z, axis=0), 0.5 * z.std(axis=0)
    noise = (z - center) / scale
    log_r = -0.5 * np.sum(noise**2 + np.log(2 * np.pi) + 2 * np.log(scale), axis=-1)
    weight = np.exp(log_r - prior.log_prob(z))
    assert_mean(weight, 1.0)
    for d in range(prior.dim):
        assert_mean(weight * noise[:, d], 0.0)
        assert_mean(weight * noise[:, d] ** 2, 1.0)
        assert_mean(weight * noise[:, d] * noise[:, d - 1], float(prior.dim == 1))


@every_prior
def test_samples_are_standard_normal_in_generation_space(case, key):
    prior = made(case)
    z0 = np.asarray(prior.to_base(prior.sample(key, 20_000)), np.float64)
    for d in range(prior.dim):
        assert_mean(z0[:, d], 0.0)
        assert_mean(z0[:, d] ** 2, 1.0)
        assert_mean(z0[:, d] ** 4, 3.0)


@every_prior
def test_to_base_and_from_base_undo_each_other(case):
    prior, z = made(case), posterior(CASES[case][1], 20, spread=1.0)[0].z
    np.testing.assert_allclose(prior.from_base(prior.to_base(z)), z, atol=1e-4)
    np.testing.assert_allclose(prior.to_base(prior.from_base(z)), z, atol=1e-4)


@every_prior
def test_density_is_the_base_density_times_the_jacobian(case):
    prior, z = made(case), posterior(CASES[case][1], 20, spread=1.0)[0].z
    jacobian = np.asarray(jax.jit(jax.vmap(jax.jacfwd(prior.to_base)))(z), np.float64)
    log_det = np.linalg.slogdet(jacobian)[1]
    expected = prior.base_log_prob(prior.to_base(z)) + log_det
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [1, 4], ids=[ids[1], ids[4]])
def test_leading_axes_are_batch_axes(case):
    prior, z = made(case), posterior(CASES[case][1], 12, spread=1.0)[0].z
    nested = z.reshape(3, 4, -1)
    for function in (prior.log_prob, prior.base_log_prob, prior.from_base):
        flat = np.asarray(function(z))
        np.testing.assert_allclose(function(nested), flat.reshape(3, 4, *flat.shape[1:]), rtol=1e-5)


@pytest.mark.parametrize("case", [k for k, case in enumerate(CASES) if case[1] >= 2])
def test_factorizes_says_whether_mixed_second_derivatives_vanish(case):
    prior, z = made(case), posterior(CASES[case][1], 20, spread=1.0)[0].z
    hessian = jax.jit(jax.vmap(jax.jacfwd(jax.jacrev(lambda z: prior.log_prob(z)))))(z)
    mixed = np.asarray(hessian)[:, ~np.eye(prior.dim, dtype=bool)]
    assert (np.abs(mixed).max() < 1e-6) == prior.prior.factorizes


@every_prior
def test_kl_is_the_monte_carlo_mean_of_log_q_minus_log_p(case):
    prior, count = made(case), 20_000
    code, _ = posterior(prior.dim, count)
    other, log_q = posterior(prior.dim, count, seed=6)
    oracle = log_q - np.asarray(prior.log_prob(other.z), np.float64)
    kl = np.asarray(kl_of(prior, code), np.float64)
    error = np.sqrt((kl.var(ddof=1) + oracle.var(ddof=1)) / count)
    assert abs(kl.mean() - oracle.mean()) < 4 * error
    # The same draws: what is left is the noise of the entropy alone.
    if not prior.prior.factorizes:
        assert_mean(kl - (code.log_q - np.asarray(prior.log_prob(code.z))), 0.0, floor=1e-4)


@every_prior
def test_kl_of_a_deterministic_code_is_minus_log_p(case):
    prior = made(case)
    z = posterior(prior.dim, 20, spread=1.0)[0].z
    np.testing.assert_array_equal(kl_of(prior, Code(z, jnp.zeros(20), z)), -prior.log_prob(z))


@every_prior
def test_kl_without_a_closed_form_is_log_q_minus_log_p_at_the_draw(case):
    prior, (code, log_q) = made(case), posterior(CASES[case][1], 20, spread=1.0)
    kl = kl_of(prior, code._replace(q=None))
    np.testing.assert_allclose(kl, log_q - prior.log_prob(code.z), rtol=1e-4, atol=1e-4)


@some_decoupled
def test_dropping_the_constant_adds_half_the_dimension_to_the_kl(case):
    name, dim, changes = CASES[case]
    dropped = Made(name, dim, {**changes, "kl_constant": False})
    code = posterior(dim, 20, spread=1.0)[0]
    np.testing.assert_allclose(kl_of(dropped, code) - kl_of(made(case), code), dim / 2, rtol=1e-4)
    np.testing.assert_array_equal(dropped.log_prob(code.z), made(case).log_prob(code.z))


@some_decoupled
def test_decoupled_with_zeroed_last_layers_is_the_standard_normal(case):
    name, dim, changes = CASES[case]
    prior = Made(name, dim, changes, lambda path, a: a * (path[-2].key != "Dense_2"))
    code = posterior(dim, 20_000)[0]
    expected = standard_normal_log_prob(code.z)
    np.testing.assert_allclose(prior.log_prob(code.z), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prior.from_base(code.z), code.z)
    mean, variance = np.asarray(code.mean[0], float), np.linspace(0.4, 1.3, dim) ** 2
    closed_form = 0.5 * np.sum(mean**2 + variance - np.log(variance) - 1)
    assert_mean(kl_of(prior, code), closed_form)


@pytest.mark.parametrize("dim", [1, 4])
def test_standard_normal_kl_is_the_closed_form_example_by_example(dim):
    prior, code = Made("standard_normal", dim, {}), posterior(dim, 20, spread=1.0)[0]
    variance = np.linspace(0.4, 1.3, dim) ** 2
    expected = 0.5 * np.sum(code.mean**2 + variance - np.log(variance) - 1, axis=-1)
    np.testing.assert_allclose(kl_of(prior, code), expected, rtol=1e-5)


@pytest.mark.parametrize(("field", "nearest"), [("mask", "half"), ("t_activation", "tanh")])
def test_unknown_name_in_the_flow_names_the_nearest(field, nearest):
    with pytest.raises(ValueError, match=rf"{field}.*did you mean '{nearest}'") as error:
        Made("decoupled", 2, {field: nearest[:-1]})
    assert "\n" not in str(error.value)
