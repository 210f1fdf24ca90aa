"""Walks through the latent space: straight where they should be, through the given codes."""

import jax
import numpy as np
import pytest
from conftest import PRIORS, one_line

from vaejax.data.sources import dataset_from
from vaejax.evaluation.traversals import (
    decoded,
    dimension_kls,
    factor_traversals,
    from_base,
    interpolation_grid,
    path_between,
    spread_examples,
    to_base,
    traversals,
)
from vaejax.models.vae import initial_variables, make_model


@pytest.fixture(params=PRIORS)
def trained(request, tiny):
    """Model and variables of 3 latent dimensions; the flow is far from the identity."""
    config = tiny(prior=request.param)
    config.latent_dim = 3
    data = dataset_from(config)
    model = make_model(config, data.x_shape)
    params, stats = initial_variables(model, jax.random.key(1), data.x_shape)
    params = {**params, "prior": jax.tree.map(lambda leaf: 1.5 * leaf, params["prior"])}
    return model, {"params": params, "batch_stats": stats}


@pytest.fixture
def codes():
    return np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)


def test_a_traversal_begins_and_ends_in_its_codes(trained, codes):
    walk = traversals(*trained, codes, frames=7)
    assert walk.z.shape == (6, 7, 3)
    np.testing.assert_allclose(walk.z[:, [0, -1]], codes, atol=2e-5)
    np.testing.assert_allclose(walk.x[:, [0, -1]], decoded(*trained, codes), atol=2e-5)


def test_a_traversal_is_straight_in_even_steps_in_generation_space(trained, codes):
    walk = traversals(*trained, codes, frames=7)
    z0 = to_base(*trained, walk.z)
    steps = np.diff(z0, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=5e-5)
    np.testing.assert_allclose(z0, walk.z0, atol=5e-5)
    np.testing.assert_allclose(walk.x, decoded(*trained, walk.z), atol=1e-6)


def test_the_paths_of_both_spaces_coincide_exactly_where_the_spaces_do(trained, codes):
    walk = traversals(*trained, codes)
    bend = np.abs(np.diff(walk.z, 2, axis=1)).max()
    if trained[0].prior.factorizes:
        np.testing.assert_array_equal(walk.z, walk.z0)
    else:
        assert bend > 1e-2


def test_finer_steps_pass_through_the_frames(trained, codes):
    walk = traversals(*trained, codes, frames=5)
    z, z0 = path_between(*trained, codes, 13)
    np.testing.assert_allclose(z[:, ::3], walk.z, atol=1e-5)
    np.testing.assert_allclose(z0[:, ::3], walk.z0, atol=1e-5)


def test_the_edges_of_an_interpolation_grid_are_traversals(trained, codes):
    corners = codes[:2].reshape(4, 3)
    grid = interpolation_grid(*trained, corners, size=5)
    edges = {
        (0, 1): grid.z0[0],
        (2, 3): grid.z0[-1],
        (0, 2): grid.z0[:, 0],
        (1, 3): grid.z0[:, -1],
    }
    for ends, edge in edges.items():
        walk = traversals(*trained, corners[None, list(ends)], frames=5)
        np.testing.assert_allclose(edge, walk.z0[0], atol=1e-5)
    np.testing.assert_allclose(grid.z0[2, 2], to_base(*trained, corners).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(grid.x, decoded(*trained, from_base(*trained, grid.z0)), atol=1e-5)


@pytest.mark.parametrize("space", ["generation", "representation"])
def test_a_factor_traversal_changes_one_coordinate_of_its_space(trained, codes, space):
    code = codes[0, 0]
    walk = factor_traversals(*trained, code, [2, 0], space=space, reach=1.5, count=5)
    start = to_base(*trained, code) if space == "generation" else code
    moved = (walk.z0 if space == "generation" else walk.z) - start
    for row, dimension in enumerate([2, 0]):
        np.testing.assert_allclose(moved[row, :, dimension], [-1.5, -0.75, 0, 0.75, 1.5], atol=1e-6)
        np.testing.assert_array_equal(np.delete(moved[row], dimension, axis=1), 0)
    np.testing.assert_allclose(to_base(*trained, walk.z), walk.z0, atol=5e-5)
    np.testing.assert_allclose(walk.z[:, 2], [code, code], atol=2e-5)


def test_dimension_kls_under_a_standard_normal_are_the_closed_form():
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=(50, 3)), rng.uniform(0.1, 2, size=(50, 3))
    prior = np.repeat([[-1.0], [1.0]], 3, axis=1)  # of mean 0 and variance 1
    expected = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).mean(axis=0)
    np.testing.assert_allclose(dimension_kls(mean, scale, prior), expected)
    # The units of the space do not matter.
    stretched = dimension_kls(4 * mean + 1, 4 * scale, 4 * prior + 1)
    np.testing.assert_allclose(stretched, expected)


def test_spread_examples_are_farthest_from_those_before():
    x = np.array([0.0, 1.0, 10.0, 9.0, 4.0, 0.0])[:, None, None]
    assert list(spread_examples(x, 4)) == [0, 2, 4, 1]
    assert sorted(spread_examples(np.zeros((3, 2)), 3)) == [0, 1, 2]
    with one_line("4 examples asked for; from 1 to 3"):
        spread_examples(np.zeros((3, 2)), 4)


def test_walks_that_make_no_sense_are_refused(trained, codes):
    for said, call in {
        "1 frames between 2 codes": lambda: traversals(*trained, codes, frames=1),
        r"codes have shape \(6, 3\)": lambda: traversals(*trained, codes[:, 0]),
        "a grid of side 1": lambda: interpolation_grid(*trained, codes[:2].reshape(4, 3), size=1),
        "did you mean 'generation'": lambda: factor_traversals(
            *trained, codes[0, 0], [0], space="generations"
        ),
        r"dimensions are \[3\]; some of 0 to 2": lambda: factor_traversals(
            *trained, codes[0, 0], [3]
        ),
        "positive reach": lambda: factor_traversals(*trained, codes[0, 0], [0], reach=0),
    }.items():
        with one_line(said):
            call()
