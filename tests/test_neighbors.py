"""Nearest training examples: an exact search, and a guard that copies trip and new data do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line
from flax import linen as nn
from test_evidence import Identity
from test_metrics import subject_of

from vaejax.data.arrays import Dataset, Part
from vaejax.data.transforms import bernoulli, scaled, transform_of
from vaejax.evaluation import neighbors
from vaejax.evaluation.metrics import fitting, metrics_of
from vaejax.evaluation.neighbors import Neighbors, nearest_training, sample_neighbors
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.models.likelihoods import gaussian
from vaejax.models.posteriors import Deterministic
from vaejax.models.vae import VAE
from vaejax.reporting.figures import ORANGE
from vaejax.reporting.neighbors import neighbors as drawn

RNG = np.random.default_rng(0)
COUNTS = Counts(images=300, pairs=300, reference=100)


class Remembered(nn.Module):
    """Draws of the rows of an array, and nothing else."""

    points: np.ndarray
    factorizes = False

    def log_prob(self, z):
        return jnp.zeros(z.shape[:-1])

    def kl(self, code, log_p):
        return -log_p

    def sample(self, key, num_samples):
        return jnp.asarray(self.points)[jax.random.choice(key, len(self.points), (num_samples,))]

    def to_base(self, z):
        return z

    def from_base(self, z0):
        return z0


def subject_with(points):
    """Points are their own codes, and generated are some of `points`."""
    one = subject_of(COUNTS, num_test=500, prior="standard_normal")
    test = one.dataset.splits["test"]
    splits = {**one.dataset.splits, "test": test[:300]}
    data = dataclasses.replace(one.dataset, splits=splits, labels={})
    points = {"train": splits["train"], "new": test[300:]}[points]
    model = VAE(
        Identity(), Deterministic(2), Remembered(points), Identity(), gaussian(1.0, "identity")
    )
    dense = {"kernel": np.eye(2, dtype="f4"), "bias": np.zeros(2, "f4")}
    variables = {"params": {"posterior": {"Dense_0": dense}}}
    return dataclasses.replace(one, model=model, variables=variables, dataset=data)


@pytest.mark.parametrize("sizes", [(1_000, 1_000), (7, 5), (1, 64)])
@pytest.mark.parametrize("part", [False, True])
def test_the_search_is_exact_however_it_is_divided(sizes, part, monkeypatch):
    monkeypatch.setattr(neighbors, "_ROWS", sizes[0])
    monkeypatch.setattr(neighbors, "_QUERIES", sizes[1])
    train = RNG.integers(0, 256, (60, 4, 3, 1), dtype=np.uint8)
    rows = Part(train, RNG.permutation(60)[:50]) if part else train
    x = RNG.random((23, 4, 3, 1), np.float32)
    found = nearest_training(x, Dataset("x", {"train": rows}, 255.0), scaled(255.0), 3)
    every = np.asarray(rows)[None].astype(float) / 255 - x[:, None]
    distance = np.sqrt((every**2).mean(axis=(2, 3, 4)))
    order = np.argsort(distance, axis=1)[:, :3]
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.distance, np.take_along_axis(distance, order, 1), rtol=1e-5)


def test_the_distance_of_a_near_copy_keeps_its_digits():
    train = (100 + RNG.random((50, 8))).astype("f4")
    train[:, 0] += 0.05 * np.arange(50)
    x = train + np.float32(2**-12)
    found = nearest_training(x, Dataset("x", {"train": train}, 1.0), scaled(1.0))
    np.testing.assert_allclose(found.distance, 2**-12, rtol=0.05)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(50))


def test_a_memory_trips_the_guard_and_new_data_do_not():
    found = metrics_of(subject_with("train"), ["nearest_neighbors"])
    assert found["near_training[rmse, random]"]["value"] == 1.0
    assert found["neighbor_distance[rmse, random]"]["value"] == 0.0
    found = metrics_of(subject_with("new"), ["nearest_neighbors"])
    assert 0 < found["near_training[rmse, random]"]["value"] < 0.05
    floor, new = (found[f"neighbor_distance[rmse, {name}]"] for name in ("floor", "random"))
    error = np.hypot(floor["standard_error"], new["standard_error"])
    assert abs(floor["value"] - new["value"]) < 4 * error
    # Held-out data are their own reconstructions here, and half-way is neither.
    assert found["near_training[rmse, reconstructions]"]["value"] == pytest.approx(0.01, abs=1e-3)
    far = found["neighbor_distance[rmse, interpolations]"]
    assert far["value"] > floor["value"] + 4 * far["standard_error"]
    assert "near_training[rmse, floor]" not in found


def test_copies_are_found_where_held_out_data_have_doubles_in_training():
    train = np.zeros((40, 2), "f4")
    found = neighbors.neighbor_rows({"random": np.zeros(9), "floor": np.zeros(9)}, "")
    assert found["near_training[rmse, random]"]["value"] == 1.0
    assert (
        nearest_training(train, Dataset("x", {"train": train}, 1.0), scaled(1.0)).index.max() < 40
    )


def test_training_data_are_searched_before_they_are_binarized():
    rows = RNG.integers(0, 256, (30, 5), dtype=np.uint8)
    data, transform = Dataset("x", {"train": rows}, 255.0), transform_of(bernoulli(255.0))
    found = nearest_training((rows / 255).astype("f4"), data, transform)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(30))
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)


def test_training_data_are_no_held_out_data():
    one = subject_with("new")
    one = dataclasses.replace(one, protocol=Protocol(split="train", counts=COUNTS))
    with one_line("compares with held-out data; the split is 'train'"):
        metrics_of(one, ["nearest_neighbors"])
    assert "nearest_neighbors" not in fitting(one, ["all"])
    assert "nearest_neighbors" in fitting(subject_with("new"), ["all"])


def test_midpoints_of_pixels_are_those_of_a_decoder_that_does_nothing():
    """Both are of the same pairs."""
    one = subject_with("new")
    features = one.samples
    np.testing.assert_allclose(features["pixel_midpoints"], features["interpolations"], atol=1e-5)
    assert np.abs(features["pixel_midpoints"] - features["reconstructions"]).max() > 0.1


def test_the_figure_shows_what_was_found_and_marks_what_is_too_near():
    found = sample_neighbors(subject_with("train"))
    np.testing.assert_allclose(found.distance[:, 0], 0)
    np.testing.assert_allclose(found.neighbors[:, 0], found.samples)
    squared = ((found.neighbors - found.samples[:, None]) ** 2).mean(axis=2)
    np.testing.assert_allclose(found.distance, np.sqrt(squared), atol=1e-6)
    images = RNG.random((3, 4, 4, 1))
    distance = np.array([[0.01, 0.4], [0.3, 0.4], [0.05, 0.06]])
    held_out = np.linspace(0.1, 0.5, 200)
    given = Neighbors(images, np.stack([images, images], axis=1), distance, held_out, np.array(9))
    figure = drawn({"one": given})
    texts = [text for axes in figure.axes for text in axes.texts]
    orange = sorted(text.get_text() for text in texts if text.get_color() == ORANGE)
    assert orange == ["0.010", "0.050", "0.060"]
