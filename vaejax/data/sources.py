"""Name -> data set.  Each row of SOURCES takes the keyword arguments of its row in the config.

Nothing here asks the network: what is not embedded comes from the cache, from a directory that
TensorFlow Datasets prepared, or from the user's own files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaejax.config import build
from vaejax.data import own
from vaejax.data.arrays import Dataset, checked, extremes
from vaejax.data.augmentations import AUGMENTATIONS
from vaejax.data.public import public
from vaejax.data.shapes import shapes64
from vaejax.data.splits import divided, with_hash
from vaejax.data.synthetic import stand_in, swiss_roll, two_moons
from vaejax.data.transforms import (
    CORRUPTIONS,
    OBSERVATIONS,
    Observation,
    Transform,
    transform_of,
)

_DIGITS = Path(__file__).with_name("digits.npz")


def dataset_from(config: ConfigDict, dataset: Dataset | None = None) -> Dataset:
    """The data set that `config.dataset` names, or the one given: checked, hashed and divided.

    Raises ValueError, in one line, for an unknown name, a bad hyper-parameter, files that are
    absent or unreadable, arrays that `checked` refuses, or another content than
    `config.data_sha256` promises.

    >>> dataset = vaejax.dataset_from(config)
    >>> dataset.x_shape, {split: len(rows) for split, rows in dataset.splits.items()}
    ((8, 8, 1), {'train': 1500, 'test': 297})
    """
    given = build(SOURCES, "dataset", config) if dataset is None else dataset
    hashed = with_hash(checked(given))
    if config.data_sha256 not in ("", hashed.sha256):
        raise ValueError(
            f"{hashed.name}: the data have the SHA-256 {hashed.sha256}, not that of "
            f"config.data_sha256, {config.data_sha256}"
        )
    fractions: Any = config.splits
    return divided(hashed, **fractions.to_dict())


def make_transform(config: ConfigDict, dataset: Dataset, unit_interval: bool = False) -> Transform:
    """What becomes of the raw rows of `dataset` inside the jitted step.

    `unit_interval`: whether x must lie in [0, 1].  Raises ValueError for a bad hyper-parameter, and
    where a stage does not fit the data.

    >>> transform = vaejax.make_transform(config, vaejax.dataset_from(config))
    >>> transform.is_random
    False
    """
    observation: Observation = build(OBSERVATIONS, "observation", config, dataset.scale)
    augment = build(AUGMENTATIONS, "augmentation", config)
    corrupt = build(CORRUPTIONS, "corruption", config)
    name, train = dataset.name, dataset.splits["train"]
    if augment is not None and (len(dataset.x_shape) != 3 or dataset.x_shape[-1] not in (1, 3)):
        kind = f"augmentation {config.augmentation!r} is for gray and RGB images"
        raise ValueError(f"{kind}; {name!r} has shape {dataset.x_shape}")
    if observation.integers_only and train.dtype != np.uint8:
        kind = f"observation {config.observation!r} is for whole numbers, as uint8"
        raise ValueError(f"{kind}; {name!r} is {train.dtype}")
    bounded = observation.unit_interval_only or augment is not None
    if unit_interval or bounded:
        whose = f"observation {config.observation!r}" if bounded else "this likelihood"
        _check_unit_interval(dataset, whose)
    return transform_of(observation, augment, corrupt)


def _check_unit_interval(dataset: Dataset, whose: str) -> None:
    for split, rows in dataset.splits.items():
        if rows.dtype == np.uint8 and dataset.scale == 255:
            continue
        low, high = (end / dataset.scale for end in extremes(rows))
        if low < 0 or high > 1:
            raise ValueError(
                f"{whose} is for data in [0, 1]; the {split} split of {dataset.name!r} lies in "
                f"[{low:.3g}, {high:.3g}]"
            )


def digits() -> Dataset:
    """Handwritten digits: (1500, 8, 8, 1) train, (297, 8, 8, 1) test, uint8 0..16, with labels.

    Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, UCI Machine Learning Repository,
    CC BY 4.0), the 1,797 images that scikit-learn bundles in their order; the last 297 are test.
    """
    with np.load(_DIGITS, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    parts = {"train": slice(None, 1_500), "test": slice(1_500, None)}
    return Dataset(
        name="digits",
        splits={split: images[part] for split, part in parts.items()},
        scale=16.0,
        labels={split: labels[part] for split, part in parts.items()},
    )


def celeb_a(crop: int) -> Dataset:
    """CelebA, the center `crop` x `crop` pixels of its 218x178 resized to 64x64 by bicubic.

    arXiv 1911.10506 does not say its crop; the default, 140, is that of arXiv 1903.12436.
    """
    return public("celeb_a", crop)


def _public(name: str) -> Callable[[], Dataset]:
    return lambda: public(name)


SOURCES = {
    "digits": digits,
    "two_moons": two_moons,
    "swiss_roll": swiss_roll,
    "shapes64": shapes64,
    "mnist": _public("mnist"),
    "fashion_mnist": _public("fashion_mnist"),
    "binarized_mnist": _public("binarized_mnist"),
    "svhn_cropped": _public("svhn_cropped"),
    "cifar10": _public("cifar10"),
    "celeb_a": celeb_a,
    "dsprites": _public("dsprites"),
    "shapes3d": _public("shapes3d"),
    "arrays": own.arrays,
    "image_folder": own.image_folder,
    "tfds": own.tfds,
    "stand_in": stand_in,
}
