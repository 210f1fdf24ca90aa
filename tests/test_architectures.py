"""Every pair of trunks learns in all of its parts."""

import jax
import numpy as np
import pytest
from test_step import Run, differs

from vaejax.config import default_config

SIDES = {"conv": 8, "svhn": 32, "mnist": 28, "mnist_factor": 28, "celeba": 64}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mnist", "mnist_factor", "celeba")]


@pytest.mark.parametrize("name", ["conv", "svhn", *SLOW])
def test_one_step_moves_every_parameter_of_every_architecture(name):
    channels = 1 if name.startswith("mnist") else 3
    config = default_config().unlock()
    config.update(dataset="stand_in", encoder=name, decoder=name, regularizer="none", batch_size=4)
    x_shape = (SIDES[name], SIDES[name], channels)
    config.datasets.stand_in.update(x_shape=x_shape, num_train=8, num_test=8)
    config.priors.decoupled.num_blocks = 2
    run = Run(config)
    state = run.state()
    after, metrics = jax.jit(run.step)(state, *run.rows(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, metrics)))
    moved = differs((state.params, state.stats), (after.params, after.stats))
    still = [jax.tree_util.keystr(path) for path, m in jax.tree.leaves_with_path(moved) if not m]
    assert not still
