"""Numbers about chains whose answer is known."""

import numpy as np
import pytest
from conftest import one_line

from vaejax.evaluation.mixing import (
    autocorrelation,
    mode_changes,
    modes_visited,
    nearest_modes,
    projection,
)


def autoregression(rho, chains=400, steps=200):
    draw = np.random.default_rng(0)
    values = [draw.normal(size=chains)]
    for _ in range(steps - 1):
        values.append(rho * values[-1] + np.sqrt(1 - rho**2) * draw.normal(size=chains))
    return np.stack(values, axis=1)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.7])
def test_autocorrelation_of_an_autoregression_is_a_power(rho):
    values = 3.0 + 2.0 * autoregression(rho)
    found = autocorrelation(values, 4)
    each = np.array([autocorrelation(values[k : k + 1], 4) for k in range(len(values))])
    error = each.std(axis=0) / np.sqrt(len(values))
    assert (np.abs(found - rho ** np.arange(5)) <= 5 * error + 1e-12).all()


def test_chains_that_stay_where_they_are_have_autocorrelation_one():
    stuck = np.tile(np.array([[0.0], [1.0], [5.0]]), (1, 50))
    np.testing.assert_allclose(autocorrelation(stuck, 10), 1.0)
    np.testing.assert_allclose(autocorrelation(stuck[:1], 10), 1.0)
    noise = np.random.default_rng(0).normal(size=(3, 5_000))
    between = stuck[:, 0].var()  # what does not move is not forgotten, whatever else moves
    found = autocorrelation(stuck[:, :1] + noise, 3)[1:]
    np.testing.assert_allclose(found, between / (between + 1.0), atol=0.03)


def test_more_lags_than_states_are_refused():
    with one_line("5 lags of 5 states; from 0 to 4 can be had"):
        autocorrelation(np.zeros((2, 5)), 5)


def test_a_projection_is_along_the_direction_of_most_difference():
    draw = np.random.default_rng(0)
    along = draw.normal(size=(3, 40))
    direction = np.array([[0.6], [0.8]])
    paths = 5.0 + along[..., None, None] * direction
    found = projection(paths)
    sign = np.sign(found[0, 0] - found.mean()) * np.sign(along[0, 0] - along.mean())
    np.testing.assert_allclose(sign * found, along - along.mean(), atol=1e-9)


def test_modes_are_counted_as_they_are_entered():
    centers = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    order = np.array([[0, 0, 1, 1, 0], [2, 2, 2, 2, 2], [0, 1, 2, 0, 1]])
    noise = np.random.default_rng(0).uniform(-3, 3, size=(3, 5, 2))
    modes = nearest_modes(centers[order] + noise, centers)
    np.testing.assert_array_equal(modes, order)
    np.testing.assert_array_equal(mode_changes(modes), [2, 0, 4])
    np.testing.assert_array_equal(modes_visited(modes), [2, 1, 3])
