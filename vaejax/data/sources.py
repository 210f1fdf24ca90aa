"""Name -> data set.  Each row of SOURCES takes the keyword arguments of its row in the config.

Images behind TensorFlow Datasets are read from a prepared array_record directory, without
TensorFlow and without the network: nothing here ever downloads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaejax.config import build
from vaejax.data.arrays import SPLITS, Dataset, checked

_DIGITS = Path(__file__).with_name("digits.npz")
_CHUNK = 1_000  # examples decoded at a time
# The command line of TFDS imports these three; reading a prepared directory needs none of them.
_TFDS_NEEDS = "(where tensorflow, apache-beam and mlcroissant are installed)"


def dataset_from(config: ConfigDict) -> Dataset:
    """The data set that `config.dataset` names, checked.

    Raises ValueError, in one line, for an unknown name, a bad hyper-parameter, a prepared directory
    that is absent or unreadable, or arrays that `checked` refuses.
    """
    return checked(build(SOURCES, "dataset", config))


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


def two_moons(num_train: int, num_test: int, noise: float, seed: int) -> Dataset:
    """Two interleaving half circles of radius 1 around (0, 0) and (1, 0.5), labels 0 and 1.

    Angles are evenly spaced as in scikit-learn's make_moons; noise is the standard deviation of the
    normal noise on both coordinates.  -> (num_train, 2) and (num_test, 2) float32, shuffled, from
    independent streams.  Raises ValueError for a size below 1 or a negative noise.
    """
    sizes = _sizes("two_moons", num_train, num_test)
    if noise < 0:
        raise ValueError(f"two_moons: noise is {noise}; it must be 0 or positive")
    moons = {
        split: _moons(size, noise, _generator(seed, f"two_moons {split}"))
        for split, size in sizes.items()
    }
    return Dataset(
        name="two_moons",
        splits={split: points for split, (points, _) in moons.items()},
        scale=1.0,
        labels={split: labels for split, (_, labels) in moons.items()},
    )


def _moons(size: int, noise: float, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """-> points (size, 2) float32, labels (size,) int64."""
    upper = np.linspace(0, np.pi, size // 2)
    lower = np.linspace(0, np.pi, size - size // 2)
    x = np.concatenate([np.cos(upper), 1 - np.cos(lower)])
    y = np.concatenate([np.sin(upper), 0.5 - np.sin(lower)])
    labels = np.repeat([0, 1], [len(upper), len(lower)])
    points = np.stack([x, y], axis=1) + noise * generator.standard_normal((size, 2))
    order = generator.permutation(size)
    return points[order].astype(np.float32), labels[order]


def mnist() -> Dataset:
    """MNIST through TFDS: (60000, 28, 28, 1) train, (10000, 28, 28, 1) test, uint8, with labels.

    Raises ValueError when there is no prepared array_record directory that can be read.
    """
    return _prepared("mnist", (28, 28, 1))


def svhn_cropped() -> Dataset:
    """SVHN through TFDS: (73257, 32, 32, 3) train, (26032, 32, 32, 3) test, uint8, with labels.

    Raises ValueError when there is no prepared array_record directory that can be read.
    """
    return _prepared("svhn_cropped", (32, 32, 3))


def celeb_a() -> Dataset:
    """CelebA through TFDS: (162770, 64, 64, 3) train, (19962, 64, 64, 3) test, uint8, no labels.

    Not the crop of arXiv 1911.10506: nothing is cropped or resized here, so the directory must hold
    64x64 images; the 218x178 images of the stock TFDS builder are refused.

    Raises ValueError when there is no prepared array_record directory that can be read.
    """
    return _prepared("celeb_a", (64, 64, 3))


def _prepared(name: str, x_shape: tuple[int, ...]) -> Dataset:
    folder = _array_record_folder(name)
    try:
        arrays = _columns_by_split(folder, x_shape)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name}: cannot read {folder}: {reason}") from error
    return Dataset(
        name=name,
        splits={split: columns["image"] for split, columns in arrays.items()},
        scale=255.0,
        labels={split: columns["label"] for split, columns in arrays.items() if "label" in columns},
    )


def _columns_by_split(folder: Path, x_shape: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(folder)
    features = builder.info.features
    if features["image"].shape != x_shape:
        raise ValueError(f"images have shape {features['image'].shape}; they must be {x_shape}")
    keys = ("image", "label") if "label" in features else ("image",)
    return {split: _columns(builder.as_data_source(split), x_shape, keys) for split in SPLITS}


def _columns(source: Any, x_shape: tuple[int, ...], keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every example of a TFDS data source.  -> image (N, *X) uint8 and, if asked, label (N,)."""
    num = len(source)
    empty = {"image": np.empty((num, *x_shape), np.uint8), "label": np.empty(num, np.int64)}
    columns = {key: empty[key] for key in keys}
    for first in range(0, num, _CHUNK):
        last = min(first + _CHUNK, num)
        examples = source.__getitems__(list(range(first, last)))
        for key, column in columns.items():
            column[first:last] = [example[key] for example in examples]
    return columns


def _array_record_folder(name: str) -> Path:
    """The newest version of a data set that is prepared as array_record."""
    root = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    infos = sorted((root / name).glob("*/dataset_info.json"), key=_version, reverse=True)
    for info in infos:
        if "array_record" in _file_formats(info):
            return info.parent
    if infos:
        raise ValueError(
            f"{name}: {infos[0].parent} is prepared as {', '.join(_file_formats(infos[0]))}, which "
            "cannot be read without TensorFlow; convert it with `tfds convert_format "
            f"--root_data_dir={root} --out_file_format=array_record` {_TFDS_NEEDS}"
        )
    raise ValueError(
        f"{name}: no prepared copy, looked for {root / name}/<version>/dataset_info.json; set "
        "TFDS_DATA_DIR to a directory with a prepared array_record copy, or make one with "
        f"`tfds build {name} --file_format=array_record --data_dir={root}` {_TFDS_NEEDS}"
    )


def _version(info: Path) -> list[int]:
    return [int(part) if part.isdecimal() else -1 for part in info.parent.name.split(".")]


def _file_formats(info: Path) -> list[str]:
    try:
        described = json.loads(info.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {info}: {error}") from error
    return [described.get("fileFormat", "tfrecord"), *described.get("alternativeFileFormats", [])]


def stand_in(x_shape: tuple[int, ...], num_train: int, num_test: int) -> Dataset:
    """No data set: smooth random images, so that every architecture takes a step offline.

    Pixels vary smoothly along every axis but the last (channels).  An x_shape of one axis gives
    normal points instead.  -> (num_train, *X) and (num_test, *X), uint8 with scale 255, or float32
    with scale 1; always the same ones.  Raises ValueError for a size below 1.
    """
    sizes = _sizes("stand_in", num_train, num_test)
    if not x_shape or min(x_shape) < 1:
        raise ValueError(f"stand_in: x_shape is {x_shape}; it must be one or more positive sizes")
    draw = _smooth_images if len(x_shape) > 1 else _normal_points
    splits = {
        split: draw((size, *x_shape), _generator(0, f"stand_in {split}"))
        for split, size in sizes.items()
    }
    return Dataset("stand_in", splits, scale=255.0 if len(x_shape) > 1 else 1.0)


def _normal_points(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def _smooth_images(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    pixels = generator.standard_normal(shape, np.float32)
    for axis in range(1, len(shape) - 1):
        position = np.arange(shape[axis], dtype=np.float32)
        blur = np.exp(-0.5 * ((position[:, None] - position) * 6 / shape[axis]) ** 2)
        blur /= np.linalg.norm(blur, axis=1, keepdims=True)  # keeps every pixel's variance at 1
        pixels = np.moveaxis(np.tensordot(pixels, blur, axes=(axis, 1)), -1, axis)
    return np.clip(128 + 60 * pixels, 0, 255).astype(np.uint8)


def _sizes(name: str, num_train: int, num_test: int) -> dict[str, int]:
    if min(num_train, num_test) < 1:
        given = f"num_train is {num_train} and num_test is {num_test}"
        raise ValueError(f"{name}: {given}; both must be at least 1")
    return {"train": num_train, "test": num_test}


def _generator(seed: int, stream: str) -> np.random.Generator:
    """One independent stream per name and seed."""
    return np.random.Generator(np.random.Philox([seed, *stream.encode()]))


SOURCES = {
    "digits": digits,
    "two_moons": two_moons,
    "mnist": mnist,
    "svhn_cropped": svhn_cropped,
    "celeb_a": celeb_a,
    "stand_in": stand_in,
}
