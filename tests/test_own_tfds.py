"""Whatever TFDS prepared arrives as written, without TensorFlow, or one line says why not."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import one_line
from directories import encoded, random_images, write_images, write_prepared
from PIL import Image

from vaejax.config import default_config
from vaejax.data import cache
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from

REPOSITORY = Path(__file__).parents[1]


def data_of(**row) -> Dataset:
    config = default_config()
    with config.unlocked():
        config.dataset = "tfds"
        config.splits.test = 0.0
        config.datasets.tfds.update(row)
    return dataset_from(config)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """Folder of prepared directories; the cache lies beside it and is empty."""
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def test_images_and_labels_arrive_in_the_order_of_the_directory(root, monkeypatch):
    images, labels = random_images({"train": 1_101, "validation": 3, "test": 2}, (4, 5, 1))
    write_images(root / "bits" / "1.0.0", images, labels)
    data = data_of(name="bits")
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.delenv("TFDS_DATA_DIR")
    again = data_of(name="bits", data_dir="~/tfds")
    bare = data_of(name="bits", data_dir="~/tfds", label="")
    for split, rows in images.items():
        for found in (data, again, bare):
            np.testing.assert_array_equal(found.splits[split], rows)
        np.testing.assert_array_equal(data.labels[split], labels[split])
    assert bare.labels == {}
    assert data.sha256 == again.sha256 == bare.sha256


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_are_the_same_data_as_an_array_of_them(root, tmp_path, dtype):
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(dtype)
    tensors = {"v": tfds.features.Tensor(shape=(4,), dtype=dtype)}
    write_prepared(root / "own/small/1.0.0", tensors, {"train": [{"v": row} for row in x]})
    data = data_of(name="own/small", x="v", label="")
    np.save(tmp_path / "x.npy", x)
    config = default_config()
    with config.unlocked():
        config.dataset, config.datasets.arrays.path = "arrays", str(tmp_path / "x.npy")
        config.splits.test = 0.0
    arrays = dataset_from(config)
    np.testing.assert_array_equal(data.splits["train"], x.astype(np.float32))
    assert (data.sha256, data.scale) == (arrays.sha256, arrays.scale)
    [entry] = cache.cache_folder().glob("tfds-own-small-*")
    assert cache.manifest(entry.name)["sha256"] == data.sha256


def test_the_same_directory_with_other_content_is_read_anew(root):
    tensors = {"v": tfds.features.Tensor(shape=(2,), dtype=np.float32)}
    for value in (1.0, 2.0):  # records of equal size
        row = {"v": np.full(2, value, np.float32)}
        write_prepared(root / "own" / "1.0.0", tensors, {"train": [row] * 5})
        data = data_of(name="own", x="v", label="")
        assert (np.asarray(data.splits["train"]) == value).all()
        time.sleep(0.02)  # file systems count time in steps


def test_gray_planes_get_a_channel_axis_and_bits_become_numbers(root):
    planes = np.random.default_rng(0).integers(0, 2, (6, 5, 4)).astype(bool)
    tensors = {"v": tfds.features.Tensor(shape=(5, 4), dtype=np.bool_)}
    write_prepared(root / "own" / "1.0.0", tensors, {"train": [{"v": row} for row in planes]})
    data = data_of(name="own", x="v", label="", scale=1.0)
    np.testing.assert_array_equal(data.splits["train"], planes[..., None].astype(np.uint8))
    [entry] = cache.cache_folder().glob("tfds-own-*")  # holds what is used, so that its hash holds
    assert cache.manifest(entry.name)["sha256"] == data.sha256


def test_float_images_that_tfds_packs_into_colors_come_back(root):
    images = np.random.default_rng(0).random((6, 5, 4, 1), np.float32)
    packed = {"image": tfds.features.Image(shape=(5, 4, 4))}
    rows = [{"image": encoded(image.view(np.uint8).reshape(5, 4, 4))} for image in images]
    write_prepared(root / "own" / "1.0.0", packed, {"train": rows})
    floats = {"image": tfds.features.Image(shape=(5, 4, 1), dtype=np.float32)}
    tfds.features.FeaturesDict(floats).save_config(root / "own" / "1.0.0")
    np.testing.assert_array_equal(data_of(name="own", label="").splits["train"], images)


FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "alpha": tfds.features.Image(shape=(4, 4, 4)),
    "text": tfds.features.Text(),
    "number": tfds.features.Scalar(dtype=np.float32),
    "whole": tfds.features.Tensor(shape=(2,), dtype=np.int64),
    "label": tfds.features.ClassLabel(num_classes=3),
}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": "picture"}, "has the features .*alpha.*; 'picture' is missing"),
        ({"label": "class"}, "; 'class' is missing"),
        ({"x": "text"}, "feature 'text': ."),
        ({"x": "alpha"}, "feature 'alpha': its images have mode RGBA"),
        ({"x": "whole"}, "train has dtype int64"),
        (
            {"x": "whole", "label": "number"},
            "feature 'number' is float.. of shape ..; .* one whole number",
        ),
        (
            {"x": "whole", "label": "whole"},
            "feature 'whole' is int64 of shape .2,.; .* one whole number",
        ),
        ({"x": "whole", "label": "text"}, "feature 'text' is .* of shape ..; .* one whole number"),
        ({}, "different shapes, among them .4, 4, 3. and .4, 5, 3."),
    ],
)
def test_what_is_no_array_or_no_label_is_named(root, row, message):
    Image.new("RGBA", (4, 4)).save(rgba := io.BytesIO(), format="png")
    rows = [
        {
            "image": encoded(np.zeros((4, width, 3), np.uint8)),
            "alpha": rgba.getvalue(),
            "text": "abc",
            "number": 0.5,
            "whole": [1, 2],
            "label": 0,
        }
        for width in (4, 5)
    ]
    write_prepared(root / "own" / "1.0.0", FEATURES, {"train": rows})
    with one_line(message):
        data_of(name="own", **row)


def test_what_is_not_there_or_empty_is_named(root):
    with one_line("config.datasets.tfds.name is empty"):
        data_of()
    with one_line(
        f"no array_record copy of 'own' in {re.escape(str(root / 'own'))}; TFDS_DATA_DIR"
    ):
        data_of(name="own")
    with one_line(f"no array_record copy of 'own' in {re.escape(str(root.parent / 'b' / 'own'))}"):
        data_of(name="own", data_dir=str(root.parent / "b"))
    tensors = {"image": tfds.features.Tensor(shape=(2,), dtype=np.float32)}
    row = {"image": np.zeros(2, np.float32)}
    write_prepared(root / "own" / "1.0.0", tensors, {"test": [row]})
    with one_line("has the splits .'test'.; 'train' is missing"):
        data_of(name="own", label="")
    write_prepared(root / "own" / "1.0.1", tensors, {"train": [row], "test": []})
    with one_line("own/1.0.1: its split test is empty|cannot read .*own/1.0.1"):
        data_of(name="own", label="")


BUILDER = '''
import io
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Squares(tfds.core.GeneratorBasedBuilder):
    """Squares of one shade, as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(20))}

    def _generate_examples(self, shades):
        for shade in shades:
            image = Image.fromarray(np.full((8, 8, 3), shade, np.uint8))
            image.save(file := io.BytesIO(), format="png")
            yield shade, {"image": file.getvalue(), "label": shade % 3}
'''


def test_builder_of_the_user_prepares_without_tensorflow_and_is_read_back(root):
    package = root.parent / "squares"  # TFDS wants a package, not a module
    package.mkdir()
    (package / "__init__.py").write_text(BUILDER)
    program = """
import sys
from squares import Squares
Squares(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
print("tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)],
        env={**os.environ, "PYTHONPATH": str(root.parent)},
        cwd=REPOSITORY,
        capture_output=True,
    )
    assert done.stdout.splitlines()[-1:] == [b"False"], done.stderr
    data = data_of(name="squares")
    rows, labels = np.asarray(data.splits["train"]), data.labels["train"]
    assert sorted(rows[:, 0, 0, 0]) == [*range(20)]
    assert (rows == rows[:, :1, :1, :1]).all()
    np.testing.assert_array_equal(labels, rows[:, 0, 0, 0] % 3)
