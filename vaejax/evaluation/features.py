"""Feature maps, in which samples are compared with data.

"classifier" is trained on the labels of the training split once, kept beside the cached data, and
the same for every model that is compared.  A distance in its features is not an FID.  "fourier",
for points, is waves in fixed directions: mean and covariance of the points themselves would not
tell two moons from one Gaussian.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vaejax.data.arrays import Dataset, Rows, normalized
from vaejax.data.batches import batch_indices
from vaejax.data.cache import cache_folder
from vaejax.evaluation.classification import classification_step
from vaejax.models.convolutions import best_lowering
from vaejax.models.layers import Layers
from vaejax.progress import ProgressReport
from vaejax.training.validation import over_split
from vaejax.types import Array

_BATCH, _EPOCHS, _FEWEST_STEPS, _RATE = 100, 4, 1_500, 2e-3
_STEPS_AT_ONCE, _AT_ONCE = 20, 250
_WAVELENGTHS = (4.0, 2.0, 1.0, 0.5)  # in standard deviations of the data
_FORMAT = 1  # of the file, and of everything that decides what is in it


class FeatureMap(NamedTuple):
    """A map from images to features, and what it is."""

    name: str
    sha256: str  # of its weights
    facts: Mapping[str, Any]  # JSON-able
    features_of: Callable[[np.ndarray], np.ndarray]  # (N, *X) in [0, 1] -> (N, F)


class Classifier(nn.Module):
    """Two halving convolutions with one between, and the features that classes are read from.

    x: (B, H, W, C) with sides that are multiples of 4 -> logits (B, num_classes).
    """

    num_classes: int
    width: int = 128
    layers: Layers = Layers()

    def setup(self) -> None:
        make = self.layers
        self.convolutions = make.halving(32), make.conv3(64), make.halving(64)
        self.hidden, self.last = make.dense(self.width), make.dense(self.num_classes)

    def __call__(self, x: Array) -> Array:
        return self.last(self.features(x))

    def features(self, x: Array) -> Array:
        """(B, H, W, C) -> (B, width)."""
        x = self.layers.enter(x - 0.5)
        for convolution in self.convolutions:
            x = nn.relu(convolution(x))
        return nn.relu(self.hidden(self.layers.flat(x)))


def fourier_features(dataset: Dataset) -> FeatureMap:
    """Cosines and sines along random orthogonal directions, D for every wavelength (8 D features).

    Raises ValueError for data that are no points (D,).
    """
    if len(dataset.x_shape) != 1:
        raise ValueError(f"{dataset.name} has data of shape {dataset.x_shape}; points are (D,)")
    generator, dim = np.random.Generator(np.random.Philox(0)), dataset.x_shape[0]
    spread = (np.asarray(dataset.splits["train"], np.float64) / dataset.scale).std()
    rotations = [np.linalg.qr(generator.normal(size=(dim, dim)))[0] for _ in _WAVELENGTHS]
    pairs = zip(rotations, _WAVELENGTHS, strict=True)
    waves = np.concatenate([2 * np.pi * each / (length * spread) for each, length in pairs], axis=1)

    def features_of(x: np.ndarray) -> np.ndarray:
        phase = np.asarray(x, np.float64) @ waves
        return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)

    facts = {"wavelengths": list(_WAVELENGTHS), "in_units_of": float(spread)}
    return FeatureMap("fourier", _hash({"waves": waves}), facts, features_of)


def classifier_features(dataset: Dataset, *, quiet: bool = True) -> FeatureMap:
    """The features of a classifier of this data set, which is trained if it is not there.

    Raises ValueError for data that are no images or have no labels.
    """
    if lack := no_classifier(dataset):
        raise ValueError(lack)
    classes = np.unique(dataset.labels["train"])
    # The covariance of few examples has few dimensions.
    width = 128 if len(dataset.splits["train"]) >= 10_000 else 16
    model = Classifier(len(classes), width)
    path = cache_folder().with_name("classifiers") / f"{_trained_on(dataset)}-{width}-{_FORMAT}.npz"
    params = _read(path)
    if params is None:
        # Not what is fastest without gradients: on a CPU that takes 2.8 times as long.
        params = _trained(model.clone(layers=Layers(best_lowering())), dataset, classes, quiet)
        _write(path, params)
    facts = {
        "classes": len(classes),
        "trained_on": f"train split of {dataset.name}, {len(dataset.splits['train'])} examples",
        "data_sha256": dataset.sha256,
        "test_accuracy": _accuracy(model, params, dataset, classes),
    }
    features_of = functools.partial(_features, jax.jit(nn.apply(Classifier.features, model)))
    return FeatureMap(
        "classifier", _hash(params), facts, functools.partial(features_of, {"params": params})
    )


def _trained_on(dataset: Dataset) -> str:
    """The hash of the train split: one data set is divided in several ways."""
    digest = hashlib.sha256()
    for array in (dataset.splits["train"], dataset.labels["train"]):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def no_classifier(dataset: Dataset) -> str:
    """What the data lack for a classifier's features; "" where nothing."""
    shape = dataset.x_shape
    if len(shape) != 3 or shape[0] % 4 or shape[1] % 4:
        return (
            f"{dataset.name} has data of shape {shape}; a classifier's features are of images "
            "(H, W, C) whose sides are multiples of 4"
        )
    if missing := [split for split in ("train", "test") if split not in dataset.labels]:
        which = " and ".join(missing)
        return f"{dataset.name} has no labels of its {which} split; a classifier needs them"
    return ""


def _trained(model: Classifier, dataset: Dataset, classes: np.ndarray, quiet: bool) -> Any:
    """Its parameters after a few epochs of Adam; a function of the data alone."""
    rows: Any = dataset.splits["train"]
    labels = np.searchsorted(classes, dataset.labels["train"])
    batch = min(_BATCH, len(rows))
    num_steps = max(_FEWEST_STEPS, _EPOCHS * len(rows) // batch)
    num_steps -= num_steps % _STEPS_AT_ONCE
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, num_steps))

    def logits_of(params: Any, x: Array) -> Array:
        variables = {"params": params}
        return nn.apply(Classifier.__call__, model)(variables, normalized(x, dataset.scale))

    step = classification_step(logits_of, optimizer)

    @functools.partial(jax.jit, donate_argnums=0)
    def several(carry: Any, x: Array, y: Array) -> tuple[Any, Array]:
        carry, losses = jax.lax.scan(step, carry, (x, y))
        return carry, losses.mean()

    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *dataset.x_shape)))["params"]
    carry = params, optimizer.init(params)
    with ProgressReport(f"classifier of {dataset.name}", 0, num_steps, quiet) as progress:
        for first in range(0, num_steps, _STEPS_AT_ONCE):
            steps = range(first, first + _STEPS_AT_ONCE)
            chosen = np.stack([batch_indices(0, step, len(rows), batch) for step in steps])
            x = rows[chosen.ravel()].reshape(*chosen.shape, *dataset.x_shape)
            carry, _ = several(carry, x, labels[chosen])
            progress.update(steps.stop)
    return jax.tree.map(np.asarray, carry[0])


def _features(program: Callable[..., Array], variables: Any, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return over_split(lambda block, _: program(variables, block), x, _AT_ONCE)


def _accuracy(model: Classifier, params: Any, dataset: Dataset, classes: np.ndarray) -> float:
    rows: Rows = dataset.splits["test"]
    program = jax.jit(nn.apply(Classifier.__call__, model))
    logits = _features(program, {"params": params}, np.asarray(rows) / dataset.scale)
    return float((classes[logits.argmax(axis=1)] == dataset.labels["test"]).mean())


def _read(path: Path) -> Any:
    """The parameters in the file; None where it is missing or not whole."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return unflatten_dict({tuple(name.split("/")): file[name] for name in file.files})
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _write(path: Path, params: Any) -> None:
    """In one piece, so that two processes at once leave one of two whole files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **_flat(params))
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _hash(params: Any) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(_flat(params).items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _flat(params: Any) -> dict[str, Any]:
    return dict(flatten_dict(params, sep="/"))
