"""Directories that TensorFlow Datasets prepared, read without TensorFlow and the network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vaejax.data.arrays import SPLITS, Blocks, Columns
from vaejax.records import read_json

_CHUNK = 1_000  # examples decoded at a time
_FORMATS = ("PNG", "JPEG")  # as TFDS writes them: Pillow would run an interpreter of others
_OURS = "tensorflow_datasets."
_JPEG = b"\xff\xd8"
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")
_MODES = {"L": "L", "RGB": "RGB", "1": "L", "P": "RGB", "CMYK": "RGB"}  # of Pillow -> as decoded


class Features(NamedTuple):
    """Which features of an example hold what.  "" and (): none."""

    x: str = "image"
    label: str = ""
    factors: Sequence[str] = ()


def tfds_folder(data_dir: str = "") -> Path:
    """Where prepared directories lie: `data_dir`, TFDS_DATA_DIR or ~/tensorflow_datasets."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(given).expanduser()


def prepared_versions(name: str, data_dir: str = "") -> list[Path]:
    """The folders of all prepared versions of a set, the newest first."""
    infos = (tfds_folder(data_dir) / name).glob("*/dataset_info.json")
    # TFDS writes into a folder incomplete.*, which stays behind when it is killed.
    folders = [info.parent for info in infos if _VERSION.fullmatch(info.parent.name)]
    return sorted(folders, key=lambda folder: [*map(int, folder.name.split("."))], reverse=True)


def is_array_record(folder: Path) -> bool:
    """Whether a prepared directory can be read without TensorFlow."""
    return "array_record" in file_formats(folder)


def file_formats(folder: Path) -> list[str]:
    """The formats that a prepared directory is stored in.  Raises ValueError."""
    info = folder / "dataset_info.json"
    try:
        described = read_json(info)
        return [
            described.get("fileFormat", "tfrecord"),
            *described.get("alternativeFileFormats", []),
        ]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise unreadable(info, error) from error


def fingerprint(folder: Path) -> str:
    """Twelve digits that change with the files of a prepared directory."""
    info = (folder / "dataset_info.json").read_bytes()
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    listed = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(info + json.dumps(listed).encode()).hexdigest()[:12]


def prepared_splits(folder: Path, features: Features, *, strict: bool = True) -> dict[str, Blocks]:
    """The splits of a prepared array_record directory, in its order.

    `strict`: a label or factor that the directory lacks is an error; else it is left out.  Raises
    ValueError when the directory is unreadable, or lacks a train split or a feature.
    """
    import tensorflow_datasets as tfds

    try:
        _check_features(folder)
        builder: Any = tfds.builder_from_directory(folder)
        splits, decoders = builder.info.splits, decoders_of(builder, features.x)
        sources = {
            split: builder.as_data_source(split, decoders=decoders)
            for split in SPLITS
            if split in splits
        }
    except Exception as error:  # whatever the libraries raise on damaged files
        raise unreadable(folder, error) from error
    if "train" not in sources:
        raise ValueError(f"{folder} has the splits {sorted(splits)}; 'train' is missing")
    features = features_in(builder, folder, features, strict=strict)
    return {split: _blocks(folder, split, source, features) for split, source in sources.items()}


def _check_features(folder: Path) -> None:
    """Raise ValueError where TFDS would import a module of others, whose name is in a file."""
    pending = [read_json(folder / "features.json")]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            name = value.get("pythonClassName", value.get("python_class_name", _OURS))
            if not str(name).startswith(_OURS):
                raise ValueError(f"its features are of {name!r}, which is not of TFDS")


def decoders_of(builder: Any, x: str) -> dict[str, Any] | None:
    """Leaves 8-bit images as bytes, for `columns_of` to decode.

    TFDS takes OpenCV or TensorFlow where it finds them, and each reads JPEG otherwise.
    """
    import tensorflow_datasets as tfds

    there = builder.info.features
    if x not in there or not isinstance(there[x], tfds.features.Image):
        return None
    return {x: tfds.decode.SkipDecoding()} if there[x].np_dtype == np.uint8 else None


def features_in(builder: Any, folder: Path, features: Features, *, strict: bool) -> Features:
    """Those of the features that the directory has.  Raises ValueError as `prepared_splits`."""
    there = builder.info.features
    if not strict:
        label = features.label if features.label in there else ""
        factors = features.factors if set(features.factors) <= set(there) else ()
        features = Features(features.x, label, factors)
    for name in (features.x, *filter(None, [features.label]), *features.factors):
        if name not in there:
            raise ValueError(f"{folder} has the features {', '.join(there)}; {name!r} is missing")
    return features


def _blocks(folder: Path, split: str, source: Any, features: Features) -> Blocks:
    if not len(source):
        raise ValueError(f"{folder}: its split {split} is empty")
    for first in range(0, len(source), _CHUNK):
        chosen = range(first, min(first + _CHUNK, len(source)))
        try:
            examples = source.__getitems__(list(chosen))
        except Exception as error:
            raise unreadable(folder, error) from error
        yield columns_of(folder, examples, features)


def columns_of(folder: Path, examples: Sequence[Mapping[str, Any]], features: Features) -> Columns:
    """Examples of TFDS as columns.

    Raises ValueError for examples that are no arrays of numbers or of different shapes, for images
    that cannot be decoded, and for labels or factors that are no whole numbers.
    """
    try:
        rows = [_array(example[features.x]) for example in examples]
    except Exception as error:  # the decoders raise nearly every type on a damaged image
        raise unreadable(folder, error, f"feature {features.x!r}: ") from error
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"{folder} has examples of different shapes, among them "
            f"{' and '.join(map(str, sorted(shapes)[:2]))}; all must be of one shape"
        )
    columns = {"x": np.stack(rows)}
    if features.label:
        columns["labels"] = _integers(folder, examples, features.label)
    if features.factors:
        factors = [_integers(folder, examples, name) for name in features.factors]
        columns["factors"] = np.stack(factors, axis=1)
    return columns


def _integers(folder: Path, examples: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A feature of whole numbers.  -> (n,) int64."""
    found = np.array([example[name] for example in examples])
    if found.ndim != 1 or found.dtype.kind not in "iub":
        given = f"{found.dtype} of shape {found.shape[1:]}"
        raise ValueError(f"{folder}: feature {name!r} is {given}; it must be one whole number each")
    return found.astype(np.int64)


def _array(value: Any) -> np.ndarray:
    """A feature as an array, of the dtype and with the channel axis that `checked` would give."""
    if not isinstance(value, bytes):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it holds {array.dtype}; it must hold numbers")
        stored = {np.dtype(np.bool_): np.uint8, np.dtype(np.float64): np.float32}
        with np.errstate(over="ignore"):  # what becomes inf is refused later
            array = array.astype(stored.get(array.dtype, array.dtype))
        return array[..., None] if array.ndim == 2 else array
    with Image.open(io.BytesIO(value), formats=_FORMATS) as image:
        if image.mode not in _MODES:  # 16 bits or an alpha channel would be lost
            raise ValueError(f"its images have mode {image.mode}; 8-bit gray and RGB can be read")
        pixels = np.asarray(image.convert(_MODES[image.mode]))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def unreadable(path: Path, error: Exception, where: str = "") -> ValueError:
    """The error for files that are damaged, in one line."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ValueError(f"cannot read {path}: {where}{reason}")


def is_jpeg(folder: Path, x: str = "image") -> bool:
    """Whether the first train image is stored as JPEG, which loses what PNG keeps.

    Raises ValueError when the directory is unreadable.
    """
    import tensorflow_datasets as tfds

    try:
        _check_features(folder)
        builder: Any = tfds.builder_from_directory(folder)
        return starts_as_jpeg(
            builder.as_data_source("train", decoders=decoders_of(builder, x))[0][x]
        )
    except Exception as error:
        raise unreadable(folder, error) from error


def starts_as_jpeg(value: Any) -> bool:
    """Whether a feature is the bytes of a JPEG image."""
    return isinstance(value, bytes) and value.startswith(_JPEG)
