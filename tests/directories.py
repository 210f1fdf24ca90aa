"""What tests write to disk: directories as TensorFlow Datasets prepares them, and idx files."""

import gzip
import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vaejax.data.catalog import CATALOG


def write_prepared(folder: Path, features: Mapping[str, Any], examples: Mapping[str, Sequence]):
    """Examples (dictionaries) by split as array_record, in the order given: root/name/version."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    described = tfds.features.FeaturesDict(features)
    described.save_config(folder)
    name, version = folder.parts[-2:]
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": []}
    for split, rows in examples.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "")
        for row in rows:
            writer.write(described.serialize_example(described.encode_example(row)))
        writer.close()
        info["splits"].append({"name": split, "numBytes": "1", "shardLengths": [str(len(rows))]})
    (folder / "dataset_info.json").write_text(json.dumps(info))


def write_images(
    folder: Path,
    images: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray] | None = None,
    format: str = "png",
):
    """Images (n, *X) uint8 by split as a prepared directory, with labels 0 to 9."""
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=images["train"].shape[1:])}
    features |= {"label": tfds.features.ClassLabel(num_classes=10)} if labels else {}
    examples = {
        split: [
            {"image": encoded(row, format)} | ({"label": int(labels[split][i])} if labels else {})
            for i, row in enumerate(rows)
        ]
        for split, rows in images.items()
    }
    write_prepared(folder, features, examples)


def encoded(image: np.ndarray, format: str = "png") -> bytes:
    """image: (height, width, 1 or 3) uint8."""
    gray = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if gray else image).save(file := io.BytesIO(), format=format)
    return file.getvalue()


def random_images(sizes: Mapping[str, int], x_shape: tuple[int, ...]):
    """Images (n, *X) uint8 by split, no two alike, and labels (n,) 0 to 9."""
    draws = np.random.default_rng(0)
    images = {s: draws.integers(0, 256, (n, *x_shape), np.uint8) for s, n in sizes.items()}
    return images, {split: draws.integers(0, 10, n) for split, n in sizes.items()}


def write_idx(folder: Path, images: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]):
    """The four files of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [part for split in ("train", "test") for part in (images[split], labels[split])]
    for name, array in zip(CATALOG["mnist"].files, arrays, strict=True):
        array = np.squeeze(array, -1) if array.ndim == 4 else array
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
