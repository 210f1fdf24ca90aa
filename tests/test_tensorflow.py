"""`vaejax data prepare` where TensorFlow is installed: always in a process of its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from directories import random_images, write_images

from vaejax.config import default_config
from vaejax.data.prepare import prepare
from vaejax.data.sources import dataset_from

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow is not installed", allow_module_level=True)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """Folder of prepared directories; the cache lies beside it and is empty."""
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def mnist():
    config = default_config()
    with config.unlocked():
        config.dataset = "mnist"
    return dataset_from(config)


def test_download_without_network_is_one_line_soon(tmp_path):
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "vaejax", "data", "prepare", "mnist", "--download"],
        cwd=REPOSITORY,
        capture_output=True,
        env={**os.environ, "https_proxy": "", "http_proxy": ""},
    )
    assert time.perf_counter() - began < 20
    assert b"could not download mnist: ConnectionError: no answer from" in done.stderr


TO_TFRECORD = """
import sys, tensorflow
from array_record.python.array_record_module import ArrayRecordReader
for name in sys.argv[1:]:
    reader = ArrayRecordReader(name)
    with tensorflow.io.TFRecordWriter(name.replace("array_record", "tfrecord")) as writer:
        for record in reader.read_all():
            writer.write(record)
"""


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_tfrecord_directory_is_converted_in_a_process_of_its_own(root, tmp_path, format):
    folder = root / "mnist" / "3.0.1"
    write_images(folder, *random_images({"train": 1_203, "test": 7}, (28, 28, 1)), format)
    expected = mnist()
    shutil.rmtree(tmp_path / "cache")
    records = [*map(str, folder.glob("*array_record*"))]
    subprocess.run([sys.executable, "-c", TO_TFRECORD, *records], check=True)
    for record in records:
        Path(record).unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert f"the TFRecord directory {folder}" in prepare("mnist")
    assert "tensorflow" not in sys.modules
    assert mnist().sha256 == expected.sha256
    np.testing.assert_array_equal(mnist().labels["train"], expected.labels["train"])
    assert ("its images are JPEG" in mnist().note) == (format == "jpeg")
