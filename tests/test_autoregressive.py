"""Masked autoregressive flows are bijections whose steps look at earlier dimensions only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.models.autoregressive import (
    AutoregressiveAffine,
    MaskedAutoregressiveFlow,
    MaskedNet,
    masks,
    ranks,
)

# (latent_dim, num_blocks, width)
FLOWS = [(1, 2, 4), (2, 3, 8), (5, 1, 12), (5, 4, 3)]
every_flow = pytest.mark.parametrize("row", FLOWS, ids=lambda row: "-".join(map(str, row)))
either_order = pytest.mark.parametrize("is_reversed", [False, True])


def forward(flow, z0):
    return flow.bijector().forward_and_log_det(z0)


def inverse(flow, z):
    return flow.bijector().inverse_and_log_det(z)


def drawn(module, method, *inputs):
    """Variables with no zero anywhere."""
    shapes = jax.eval_shape(
        lambda key, *inputs: module.init(key, *inputs, method=method), jax.random.key(0), *inputs
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f4"), shapes)


@functools.cache
def made(row):
    """(flow, variables, jitted forward, jitted inverse)."""
    flow = MaskedAutoregressiveFlow(*row)
    variables = drawn(flow, inverse, jnp.zeros(row[0]))
    maps = [jax.jit(functools.partial(flow.apply, method=way)) for way in (forward, inverse)]
    return flow, variables, *maps


def points(dim: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1.5, (count, dim)).astype(np.float32)


@every_flow
def test_inverse_undoes_forward_and_forward_undoes_inverse(row):
    _, variables, to_representation, to_generation = made(row)
    z = points(row[0])
    for one, other in [(to_representation, to_generation), (to_generation, to_representation)]:
        there, log_det = one(variables, z)
        back, log_det_back = other(variables, there)
        np.testing.assert_allclose(back, z, atol=2e-3)
        np.testing.assert_allclose(log_det_back, -log_det, atol=2e-3)
        assert np.abs(there - z).max() > 0.1


@every_flow
def test_log_det_is_that_of_the_autodiff_jacobian_both_ways(row):
    _, variables, *ways = made(row)
    z = points(row[0])
    for way in ways:
        jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda z, way=way: way(variables, z)[0])))(z)
        sign, log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))
        np.testing.assert_array_equal(sign, 1)
        np.testing.assert_allclose(way(variables, z)[1], log_det, atol=1e-3)


@pytest.mark.parametrize(("dim", "width"), [(1, 4), (2, 6), (5, 12)])
@either_order
def test_the_jacobian_of_a_step_is_triangular_in_its_order_and_full_below(dim, width, is_reversed):
    """Zero is meant exactly: an output does not see itself or what comes after it."""
    net = MaskedNet(dim, is_reversed, width, 0.3, False)
    variables = drawn(net, lambda net, y: net.conditioner()(y), jnp.zeros(dim))
    parameters = lambda y: net.apply(variables, y, method=lambda n, y: n.conditioner()(y))  # noqa: E731
    y = points(dim, 1)[0]
    order = np.argsort(ranks(dim, is_reversed))
    for jacobian in jax.jacfwd(parameters)(y):
        inside = np.asarray(jacobian)[np.ix_(order, order)]
        np.testing.assert_array_equal(np.triu(inside), 0)
        assert (inside[np.tril_indices(dim, -1)] != 0).all()

    def step(net, x):
        return AutoregressiveAffine(net.conditioner(), ranks(dim, is_reversed)).forward(x)

    whole = jax.jacfwd(lambda x: net.apply(variables, x, method=step))(y)
    whole = np.asarray(whole)[np.ix_(order, order)]
    np.testing.assert_array_equal(np.triu(whole, 1), 0)
    assert (np.diagonal(whole) > 0).all()


@pytest.mark.parametrize("is_reversed", [False, True])
def test_forward_is_the_formula_dimension_by_dimension(is_reversed):
    net = MaskedNet(4, is_reversed, 9, 0.01, False)
    conditioned = lambda net, y: net.conditioner()(y)  # noqa: E731
    variables = drawn(net, conditioned, jnp.zeros(4))
    x, y = points(4), np.zeros((6, 4), np.float32)
    for d in np.argsort(ranks(4, is_reversed)):
        shift, log_scale = net.apply(variables, y, method=conditioned)
        y[:, d] = x[:, d] * np.exp(log_scale[:, d]) + shift[:, d]

    def step(net, x):
        return AutoregressiveAffine(net.conditioner(), ranks(4, is_reversed)).forward(x)

    np.testing.assert_allclose(net.apply(variables, x, method=step), y, rtol=1e-5, atol=1e-5)


def test_the_chain_applies_its_first_step_first_and_the_order_alternates():
    flow, variables, to_representation, _ = made((2, 3, 8))
    z = points(2)

    def step_by_step(flow, z):
        assert [net.is_reversed for net in flow.nets] == [False, True, False]
        for net in flow.nets:
            z = AutoregressiveAffine(net.conditioner(), ranks(2, net.is_reversed)).forward(z)
        return z

    expected = flow.apply(variables, z, method=step_by_step)
    np.testing.assert_allclose(to_representation(variables, z)[0], expected, rtol=1e-5, atol=1e-5)


@either_order
def test_paths_through_the_masks_lead_from_all_that_comes_before(is_reversed):
    rank = ranks(6, is_reversed)
    paths = np.linalg.multi_dot(masks(rank, 10, 2))
    np.testing.assert_array_equal(paths > 0, rank[:, None] < rank)


def test_zero_init_is_the_identity_and_one_dimension_is_affine():
    flow = MaskedAutoregressiveFlow(3, 2, 8, zero_init=True)
    z = points(3)
    variables = flow.init(jax.random.key(0), z, method=inverse)
    np.testing.assert_array_equal(flow.apply(variables, z, method=forward)[0], z)
    _, variables, to_representation, _ = made((1, 2, 4))
    _, log_det = to_representation(variables, points(1))
    np.testing.assert_allclose(log_det, log_det[0], rtol=1e-6)


@every_flow
def test_batches_single_points_and_stacks_agree(row):
    _, variables, to_representation, _ = made(row)
    z0 = points(row[0], 4)
    z, log_det = to_representation(variables, z0)
    mapped = jax.vmap(to_representation, in_axes=(None, 0))(variables, z0)
    stacked = to_representation(variables, z0.reshape(2, 2, -1))
    for other in (mapped, (stacked[0].reshape(4, -1), stacked[1].reshape(4))):
        np.testing.assert_allclose(other[0], z, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other[1], log_det, rtol=1e-5, atol=1e-5)
