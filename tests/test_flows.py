"""Coupling flows are the bijection of arXiv 1911.10506, whatever their size and masks."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.models.flows import MASKS, T_ACTIVATIONS, CouplingFlow, coupling_masks

# (latent_dim, num_blocks, mask, mask_percent, t_activation)
FLOWS = [
    (1, 1, "alternating", 50.0, "none"),
    (1, 6, "half", 50.0, "tanh"),
    (2, 6, "alternating", 50.0, "tanh"),
    (2, 2, "half", 50.0, "none"),
    (5, 2, "alternating", 50.0, "tanh"),
    (5, 6, "half", 30.0, "none"),
    (8, 1, "half", 75.0, "tanh"),
    (8, 6, "alternating", 50.0, "tanh"),
]
ids = ["-".join(map(str, row)) for row in FLOWS]
every_flow = pytest.mark.parametrize("row", FLOWS, ids=ids)
# Where every row adds compile time and no case: one dimension, two blocks, one block, six blocks.
some_flows = pytest.mark.parametrize("row", [FLOWS[k] for k in (0, 3, 6, 7)])
several_blocks = pytest.mark.parametrize("row", [row for row in FLOWS if row[1] > 1])


def flow_of(row, **more) -> CouplingFlow:
    latent_dim, num_blocks, mask, percent, activation = row
    return CouplingFlow(
        latent_dim, num_blocks, mask, percent, width=12, t_activation=activation, **more
    )


def forward(flow, z0):
    return flow.bijector().forward_and_log_det(z0)


def inverse(flow, z):
    return flow.bijector().inverse_and_log_det(z)


@functools.cache
def made(row):
    """(flow, variables with no zero anywhere, jitted forward, jitted inverse)."""
    flow, rng = flow_of(row), np.random.default_rng(1)
    shapes = jax.eval_shape(
        lambda key, z: flow.init(key, z, method=forward), jax.random.key(0), jnp.zeros(row[0])
    )
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype("f4"), shapes)
    maps = [jax.jit(functools.partial(flow.apply, method=way)) for way in (forward, inverse)]
    return flow, variables, *maps


def points(row, count: int = 6) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1.5, (count, row[0])).astype(np.float32)


def test_blocks_of_a_mask_share_one_trace():
    flow, variables, *_ = made(FLOWS[-1])
    apply = functools.partial(flow.apply, method=inverse)
    traced = jax.make_jaxpr(apply)(variables, points(FLOWS[-1])).jaxpr.eqns
    nets = [eqn.params["jaxpr"] for eqn in traced if eqn.params.get("name") == "_conditioned"]
    assert (len(nets), len(set(map(id, nets)))) == (12, 2)


def test_kernels_are_drawn_wherever_they_are_made(key):
    flow, z = flow_of(FLOWS[3]), points(FLOWS[3])
    _, made_later = flow.apply({}, z, method=forward, mutable=["params"], rngs={"params": key})
    for path, leaf in jax.tree_util.tree_leaves_with_path(made_later):
        assert np.any(leaf) == ("kernel" in jax.tree_util.keystr(path))


def by_hand(row, variables, u: np.ndarray, order=None) -> np.ndarray:
    """The loop y = b u + (1 - b)(u exp(s(b u)) + t(b u)), block after block, in float64."""
    latent_dim, num_blocks, mask, percent, activation = row
    first = (np.arange(latent_dim) + 1) % 2
    if mask == "half":
        first = (np.arange(latent_dim) < int(latent_dim * percent / 100)).astype(int)

    def net(name: str, u: np.ndarray) -> np.ndarray:
        for layer in ("Dense_0", "Dense_1", "Dense_2"):
            weights = variables["params"][name][layer]
            u = u @ weights["kernel"].astype(float) + weights["bias"]
            u = np.where(u > 0, u, 0.01 * u) if layer != "Dense_2" else u
        return u

    for k in order or range(num_blocks):
        b = (first if k % 2 == 0 else 1 - first) if latent_dim > 1 else 0
        s, t = np.tanh(net(f"scales_{k}", b * u)), net(f"shifts_{k}", b * u)
        t = np.tanh(t) if activation == "tanh" else t
        u = b * u + (1 - b) * (u * np.exp(s) + t)
    return u


def test_flows_cover_every_mask_and_activation():
    columns = list(zip(*FLOWS, strict=True))
    assert (set(columns[2]), set(columns[4])) == (set(MASKS), set(T_ACTIVATIONS))


@every_flow
def test_inverse_undoes_forward_and_forward_undoes_inverse(row):
    _, variables, to_representation, to_generation = made(row)
    z = points(row)
    for one, other in [(to_representation, to_generation), (to_generation, to_representation)]:
        there, log_det = one(variables, z)
        back, log_det_back = other(variables, there)
        np.testing.assert_allclose(back, z, atol=2e-3)
        np.testing.assert_allclose(log_det_back, -log_det, atol=2e-3)


@every_flow
def test_log_det_is_that_of_the_autodiff_jacobian(row):
    _, variables, _, to_generation = made(row)
    z = points(row)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda z: to_generation(variables, z)[0])))(z)
    sign, log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    np.testing.assert_array_equal(sign, 1)
    np.testing.assert_allclose(to_generation(variables, z)[1], log_det, atol=1e-3)


@every_flow
def test_forward_is_the_formula_of_the_paper(row):
    _, variables, to_representation, _ = made(row)
    z0 = points(row)
    np.testing.assert_allclose(
        to_representation(variables, z0)[0], by_hand(row, variables, z0), rtol=1e-4, atol=1e-4
    )


@several_blocks
def test_the_formula_tells_a_chain_in_the_wrong_order(row):
    flow, variables, _, _ = made(row)
    z0 = points(row)

    def swapped(flow, z0):
        chain = flow.bijector()
        if not isinstance(chain.bijectors[1], distrax.Chain):
            return distrax.Chain(chain.bijectors[::-1]).forward(z0)
        back, blocks, sorting = chain.bijectors
        return distrax.Chain([back, *blocks.bijectors[::-1], sorting]).forward(z0)

    wrong = np.asarray(flow.apply(variables, z0, method=swapped))
    assert np.abs(wrong - by_hand(row, variables, z0)).max() > 1e-2
    backwards = range(row[1])[::-1]
    np.testing.assert_allclose(wrong, by_hand(row, variables, z0, backwards), rtol=1e-4, atol=1e-4)


@every_flow
def test_what_a_mask_stops_takes_no_part(row):
    _, variables, *maps = made(row)
    poisoned = jax.tree.map(np.copy, variables)
    for k, passed in enumerate(coupling_masks(row[2], row[0], row[1], row[3])):
        for net in (poisoned["params"][f"scales_{k}"], poisoned["params"][f"shifts_{k}"]):
            net["Dense_0"]["kernel"][~passed] = np.nan
            net["Dense_2"]["kernel"][:, passed] = np.nan
            net["Dense_2"]["bias"][passed] = np.nan
    for way in maps:
        jax.tree.map(
            np.testing.assert_array_equal, way(poisoned, points(row)), way(variables, points(row))
        )


@some_flows
def test_single_points_batches_scan_and_no_jit_agree(row):
    flow, variables, to_representation, _ = made(row)
    z0 = points(row, 4)
    z, log_det = to_representation(variables, z0)
    plain = flow.apply(variables, z0, method=forward)
    mapped = jax.vmap(to_representation, in_axes=(None, 0))(variables, z0)
    scanned = jax.lax.scan(lambda none, z0: (none, to_representation(variables, z0)), None, z0)[1]
    stacked = to_representation(variables, z0.reshape(2, 2, -1))
    assert stacked[1].shape == (2, 2)
    stacked = stacked[0].reshape(4, -1), stacked[1].reshape(4)
    for other in (plain, mapped, scanned, stacked):
        np.testing.assert_allclose(other[0], z, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other[1], log_det, rtol=1e-5, atol=1e-5)


@some_flows
def test_gradient_is_the_slope_of_finite_differences(row):
    """Of the log-density, in the parameters, along a random direction."""
    flow, variables, _, _ = made(row)
    z = points(row)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), variables)

    @jax.jit
    @jax.value_and_grad
    def density(amount):
        moved = jax.tree.map(lambda leaf, step: leaf + amount * step, variables, direction)
        z0, log_det = flow.apply(moved, z, method=inverse)
        return jnp.mean(log_det - 0.5 * jnp.sum(z0**2, axis=-1))

    step = 3e-4
    (_, slope), (above, _), (below, _) = density(0.0), density(step), density(-step)
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=2e-2)


@some_flows
def test_zero_init_is_the_identity(row, key):
    flow = flow_of(row, zero_init=True)
    z = points(row)
    variables = jax.jit(functools.partial(flow.init, method=forward))(key, z)
    for way in (forward, inverse):
        same, log_det = flow.apply(variables, z, method=way)
        np.testing.assert_array_equal(same, z)
        np.testing.assert_array_equal(log_det, 0)


@several_blocks
def test_every_dimension_is_transformed(row):
    _, variables, to_representation, _ = made(row)
    z0 = points(row)
    moved = np.abs(to_representation(variables, z0)[0] - z0)
    assert (moved.max(axis=0) > 1e-3).all()


@pytest.mark.parametrize("row", [row for row in FLOWS if row[1] == 1 and row[0] > 1])
def test_one_block_leaves_the_dimensions_of_its_mask_alone(row):
    _, variables, to_representation, _ = made(row)
    z0 = points(row)
    same = (np.asarray(to_representation(variables, z0)[0]) == z0).all(axis=0)
    np.testing.assert_array_equal(same, np.arange(row[0]) < row[0] * row[3] // 100)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("percent", [0.0, 1.0, 33.0, 50.0, 99.0, 100.0])
def test_every_mask_splits_the_dimensions_and_the_next_one_is_its_complement(kind, percent):
    for latent_dim in (2, 3, 8):
        masks = coupling_masks(kind, latent_dim, 6, percent)
        for mask, following in zip(masks, masks[1:], strict=False):
            assert 0 < mask.sum() < latent_dim
            np.testing.assert_array_equal(following, ~mask)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_scale_and_shift_stay_within_the_published_bounds_and_reach_them(latent_dim):
    """s and t are in (-1, 1) and 3 of 6 blocks move a dimension: |log scale| < 3, t sums to 11.1.

    With one dimension every block moves it: 6 and 1 + e + ... + e^5.
    """
    row = (latent_dim, 6, "alternating", 50.0, "tanh")
    _, variables, to_representation, _ = made(row)
    moves = 6 if latent_dim == 1 else 3
    farthest = sum(np.exp(k) for k in range(moves))
    z0 = points(row, 50)
    wild = jax.tree.map(lambda leaf: 30 * leaf, variables)
    z, log_det = to_representation(wild, z0)
    assert (np.abs(log_det) <= moves * latent_dim + 1e-4).all()
    assert (np.abs(z) <= (np.exp(moves) * np.abs(z0) + farthest) * (1 + 1e-5)).all()

    def saturated(path, leaf):
        is_last_bias = path[-2].key == "Dense_2" and path[-1].key == "bias"
        return np.full_like(leaf, 20.0 if is_last_bias else 0.0)

    extreme = jax.tree_util.tree_map_with_path(saturated, variables)
    z, log_det = to_representation(extreme, z0)
    np.testing.assert_allclose(z, np.exp(moves) * z0 + farthest, rtol=1e-4)
    np.testing.assert_allclose(log_det, moves * latent_dim, rtol=1e-5)
