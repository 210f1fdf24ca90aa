"""Few labels: an encoder that knows the classes helps, and nothing else does."""

import dataclasses

import numpy as np
import pytest
from conftest import one_line
from flax import linen as nn
from test_evidence import Identity

from vaejax.data.arrays import Dataset
from vaejax.data.transforms import scaled
from vaejax.evaluation import fine_tuning
from vaejax.evaluation.fine_tuning import few_labels, labeled_examples
from vaejax.evaluation.metrics import METRICS, fitting, metrics_of
from vaejax.evaluation.subject import Subject
from vaejax.models.likelihoods import gaussian
from vaejax.models.posteriors import Deterministic
from vaejax.models.priors import StandardNormal
from vaejax.models.vae import VAE

DIM = 20
NAMES = ("fine-tuned", "random start", "pixels")


class Products(nn.Module):
    """Products of pairs of directions, after a batch norm."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dense(6, use_bias=False)(x)
        return x[:, ::2] * x[:, 1::2]


def dataset(seed=0, num_train=600):
    """The class is the sign of the product of the first two coordinates."""
    rng = np.random.default_rng(seed)
    splits, labels = {}, {}
    for split, count in (("train", num_train), ("test", 400)):
        x = rng.normal(size=(count, DIM))
        splits[split] = (5 + 2 * x).astype("f4")
        labels[split] = 3 + 4 * (x[:, 0] * x[:, 1] > 0).astype(int)
    return Dataset("products", splits, 1.0, labels=labels)


@pytest.fixture(scope="module")
def subject():
    """Its encoder knows which directions count."""
    model = VAE(
        Products(), Deterministic(3), StandardNormal(3), Identity(), gaussian(1.0, "identity")
    )
    params = {
        "encoder": {
            "Dense_0": {"kernel": 20 * np.eye(DIM, 6, dtype="f4")},
            "BatchNorm_0": {"scale": np.ones(DIM, "f4"), "bias": np.zeros(DIM, "f4")},
        },
        "posterior": {"Dense_0": {"kernel": np.eye(3, dtype="f4"), "bias": np.zeros(3, "f4")}},
    }
    norm = {"mean": np.full(DIM, 5, "f4"), "var": np.full(DIM, 4, "f4")}
    stats = {"encoder": {"BatchNorm_0": norm}}
    variables = {"params": params, "batch_stats": stats}
    return Subject(model, variables, dataset(), scaled(1.0), 0)


def accuracies(subject):
    found = few_labels(subject)
    assert [*found] == [f"accuracy[{name}, 100 labels]" for name in NAMES]
    return [row["value"] for row in found.values()]


@pytest.fixture(autouse=True)
def num_at_once(monkeypatch):
    """The decoder here is none."""
    monkeypatch.setattr(fine_tuning, "num_at_once", lambda *given: 150)


def test_an_encoder_that_knows_the_classes_helps(subject):
    tuned, random, pixels = accuracies(subject)
    assert tuned > 0.85
    assert random < 0.65
    assert 0.4 < pixels < 0.6


def test_nothing_is_better_than_chance_where_labels_mean_nothing(subject):
    rng, labels = np.random.default_rng(1), subject.dataset.labels
    labels = {split: rng.permutation(column) for split, column in labels.items()}
    data = dataclasses.replace(subject.dataset, labels=labels)
    for accuracy in accuracies(dataclasses.replace(subject, dataset=data)):
        assert accuracy == pytest.approx(0.5, abs=0.07)


def test_a_model_that_was_not_trained_is_its_own_random_start(subject):
    start = fine_tuning._random_start(subject, 0)
    rows = few_labels(dataclasses.replace(subject, variables=start))
    tuned, random, _ = (row["draws"] for row in rows.values())
    assert tuned[0] == random[0]
    assert tuned[1:] != random[1:]
    values = [row["value"] for row in rows.values()]
    np.testing.assert_allclose(values, [np.mean(row["draws"]) for row in rows.values()])


def test_a_random_start_has_the_statistics_of_unlabeled_data(subject):
    stats = fine_tuning._random_start(subject, 1)["batch_stats"]["encoder"]["BatchNorm_0"]
    rows = subject.dataset.splits["train"]
    np.testing.assert_allclose(stats["mean"], rows.mean(axis=0), atol=0.2)
    np.testing.assert_allclose(stats["var"], rows.var(axis=0), rtol=0.15)


@pytest.mark.parametrize(("classes", "most"), [(2, 50), (3, 34), (7, 15)])
def test_labeled_examples_are_of_all_classes_alike_and_of_the_data_alone(classes, most):
    labels = np.random.default_rng(2).integers(0, classes, 2_000) ** 2
    draws = [labeled_examples(labels, 100, draw) for draw in (0, 1, 0)]
    for chosen in draws:
        assert len(set(chosen)) == 100
        counts = np.unique(labels[chosen], return_counts=True)[1]
        assert len(counts) == classes
        assert counts.max() == most
        assert counts.min() >= most - 1
    np.testing.assert_array_equal(draws[0], draws[2])
    assert set(draws[0]) != set(draws[1])


def test_data_without_enough_labels_are_one_line_and_left_out_of_all(subject):
    data = subject.dataset
    few = data.labels["train"].copy()
    few[np.flatnonzero(few == 7)[9:]] = 3
    for labels, said in [
        ({}, "no labels of its train and test split"),
        ({"train": data.labels["train"]}, "no labels of its test split"),
        ({**data.labels, "train": few}, "9 training examples of class 7; few_labels needs 50"),
        ({**data.labels, "train": np.full(600, 3)}, "1 classes; few_labels takes 2 to 100"),
        ({**data.labels, "train": np.arange(600)}, "600 classes; few_labels takes 2 to 100"),
    ]:
        one = dataclasses.replace(subject, dataset=dataclasses.replace(data, labels=labels))
        with one_line(said):
            metrics_of(one, ["few_labels"])
        assert "few_labels" not in fitting(one, ["all"])
    assert set(METRICS) - set(fitting(subject, ["all"])) == {
        "symmetric_kl",
        "information",
        "leakage",
        "frechet",  # of few held-out examples
    }
