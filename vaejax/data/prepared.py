"""Directories that TensorFlow Datasets prepared, read without TensorFlow and the network."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vaejax.data.arrays import SPLITS, Blocks, Columns

_CHUNK = 1_000  # examples decoded at a time
_JPEG = b"\xff\xd8"


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
    return [info.parent for info in sorted(infos, key=_version, reverse=True)]


def _version(info: Path) -> list[int]:
    return [int(part) if part.isdecimal() else -1 for part in info.parent.name.split(".")]


def is_array_record(folder: Path) -> bool:
    """Whether a prepared directory can be read without TensorFlow."""
    return "array_record" in file_formats(folder)


def file_formats(folder: Path) -> list[str]:
    """The formats that a prepared directory is stored in.  Raises ValueError."""
    info = folder / "dataset_info.json"
    try:
        described = json.loads(info.read_text())
        return [
            described.get("fileFormat", "tfrecord"),
            *described.get("alternativeFileFormats", []),
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read {info}: {error}") from error


def fingerprint(folder: Path) -> str:
    """Twelve digits that change with the files of a prepared directory."""
    info = (folder / "dataset_info.json").read_bytes()
    sizes = sorted((file.name, file.stat().st_size) for file in folder.iterdir())
    return hashlib.sha256(info + json.dumps(sizes).encode()).hexdigest()[:12]


def prepared_splits(folder: Path, features: Features, *, strict: bool = True) -> dict[str, Blocks]:
    """The splits of a prepared array_record directory, in its order.

    `strict`: a label or factor that the directory lacks is an error; else it is left out.  Raises
    ValueError when the directory is unreadable, or lacks a train split or a feature.
    """
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(folder)
        there, splits = builder.info.features, builder.info.splits
        # Images are decoded here: TFDS takes OpenCV where it finds it, which reads JPEG otherwise.
        raw = features.x in there and isinstance(there[features.x], tfds.features.Image)
        decoders = {features.x: tfds.decode.SkipDecoding()} if raw else None
        sources = {
            split: builder.as_data_source(split, decoders=decoders)
            for split in SPLITS
            if split in splits
        }
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(folder, error) from error
    if "train" not in sources:
        raise ValueError(f"{folder} has the splits {sorted(splits)}; 'train' is missing")
    if not strict:
        label = features.label if features.label in there else ""
        factors = features.factors if set(features.factors) <= set(there) else ()
        features = Features(features.x, label, factors)
    for name in (features.x, *filter(None, [features.label]), *features.factors):
        if name not in there:
            raise ValueError(f"{folder} has the features {', '.join(there)}; {name!r} is missing")
    return {split: _blocks(folder, source, features) for split, source in sources.items()}


def _blocks(folder: Path, source: Any, features: Features) -> Blocks:
    for first in range(0, len(source), _CHUNK):
        chosen = range(first, min(first + _CHUNK, len(source)))
        try:
            examples = source.__getitems__(list(chosen))
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(folder, error) from error
        yield columns_of(folder, examples, features)


def columns_of(folder: Path, examples: Sequence[Mapping[str, Any]], features: Features) -> Columns:
    """Decoded examples of TFDS as columns.  Raises ValueError for images of different shapes."""
    rows = [_array(example[features.x]) for example in examples]
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"{folder} has examples of different shapes, among them "
            f"{' and '.join(map(str, sorted(shapes)[:2]))}; all must be of one shape"
        )
    columns = {"x": np.stack(rows)}
    if features.label:
        columns["labels"] = np.array([example[features.label] for example in examples], np.int64)
    if features.factors:
        factors = [[example[name] for name in features.factors] for example in examples]
        columns["factors"] = np.array(factors, np.int64)
    return columns


def _array(value: Any) -> np.ndarray:
    """A feature as an array; the bytes of an image are decoded, gray ones with a channel axis."""
    if not isinstance(value, bytes):
        array = np.asarray(value)
        return array.astype(np.uint8) if array.dtype == np.bool_ else array
    with Image.open(io.BytesIO(value)) as image:
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _unreadable(folder: Path, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0]
    return ValueError(f"cannot read {folder}: {reason}")


def is_jpeg(folder: Path, x: str = "image") -> bool:
    """Whether the first train image is stored as JPEG, which loses what PNG keeps."""
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(folder)
    source = builder.as_data_source("train", decoders={x: tfds.decode.SkipDecoding()})
    return source[0][x].startswith(_JPEG)
