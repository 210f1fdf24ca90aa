"""Data sets are what they say they are, and the order of batches is a pure function."""

import dataclasses
import inspect
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vaejax.config import default_config
from vaejax.data import sources
from vaejax.data.arrays import Dataset, checked, normalized
from vaejax.data.batches import batch_indices, batch_rows, blocks

REPOSITORY = Path(__file__).parents[1]
PREPARED = Path(os.environ.get("TFDS_DATA_DIR") or REPOSITORY.parent / "shared" / "data" / "tfds")


def config_of(name: str, **row) -> ConfigDict:
    config = default_config()
    with config.unlocked():
        config.dataset = name
        config.datasets[name].update(row)
    return config


def one_line(match: str):  # a ValueError of exactly one line
    return pytest.raises(ValueError, match=rf"\A(?=.*{match})[^\n]+\Z")


def test_table_and_config_agree():
    rows = default_config().datasets
    assert set(sources.SOURCES) == set(rows)
    for name, source in sources.SOURCES.items():
        assert set(inspect.signature(source).parameters) == set(rows[name]), name


def test_digits_are_those_of_scikit_learn_and_no_image_is_in_both_splits():
    from sklearn.datasets import load_digits

    oracle = load_digits()
    data = sources.dataset_from(config_of("digits"))
    train, test = data.splits["train"], data.splits["test"]
    np.testing.assert_array_equal(np.concatenate([train, test]), oracle.images[..., None])
    np.testing.assert_array_equal(np.concatenate([*data.labels.values()]), oracle.target)
    assert (train.dtype, len(train), len(test)) == (np.uint8, 1500, 297)
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    assert train.max() == data.scale


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_moons_without_noise_are_half_circles_and_those_of_scikit_learn(size):
    from sklearn.datasets import make_moons

    moons = sources.two_moons(num_train=size, num_test=1, noise=0.0, seed=3)
    points, labels = moons.splits["train"], moons.labels["train"]
    from_center = points - np.array([[0.0, 0.0], [1.0, 0.5]])[labels]
    np.testing.assert_allclose(np.linalg.norm(from_center, axis=1), 1.0, atol=1e-6)
    assert (from_center[:, 1] * np.where(labels, -1, 1) > -1e-6).all()
    pairs = (points, labels), make_moons(size, shuffle=False, noise=None)
    ours, wanted = (x[np.lexsort([x[:, 0], y])] for x, y in pairs)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_moons_noise_has_the_asked_deviation_and_its_own_stream_by_split_and_seed():
    def noise(seed: int, split: str) -> np.ndarray:
        noisy, clean = (sources.two_moons(9_999, 9_999, scale, seed) for scale in (0.05, 0.0))
        return (noisy.splits[split] - clean.splits[split]).ravel() / 0.05

    draws = [noise(0, "train"), noise(0, "test"), noise(1, "train")]
    standard_errors = np.sqrt((1 + np.eye(3)) / draws[0].size)  # of covariances of unit normals
    assert (np.abs(np.cov(draws) - np.eye(3)) < 4 * standard_errors).all()
    np.testing.assert_array_equal(draws[0], noise(0, "train"))


@pytest.mark.parametrize("x_shape", [(8, 8, 1), (28, 28, 1), (64, 48, 3), (2,)])
def test_stand_in_is_smooth_and_differs_between_examples(x_shape):
    data = sources.dataset_from(config_of("stand_in", x_shape=x_shape, num_train=64, num_test=16))
    assert data.x_shape == x_shape
    rows = np.concatenate([data.splits["train"], data.splits["test"]]).astype(float)
    assert len({row.tobytes() for row in rows}) == len(rows)
    for axis in range(1, len(x_shape)):
        assert np.diff(rows, axis=axis).std() < 0.8 * rows.std()


def test_mnist_has_its_known_label_counts_and_pixel_sums(monkeypatch):
    if not (PREPARED / "mnist").is_dir():
        pytest.skip(f"no prepared mnist in {PREPARED}: set TFDS_DATA_DIR")
    monkeypatch.setenv("TFDS_DATA_DIR", str(PREPARED))
    mnist = sources.dataset_from(config_of("mnist"))
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.labels["train"]).tolist() == counts
    assert mnist.splits["train"].sum(dtype=np.int64) == 1_567_298_545
    assert mnist.splits["test"].sum(dtype=np.int64) == 264_923_200


def prepare(folder: Path, num_train: int, num_test: int, x_shape: tuple, is_labeled=True) -> dict:
    """Images (N, *X) by split, written to root/name/version with label = index % 10."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image

    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (num_train + num_test, *x_shape), np.uint8)
    images = {"train": rows[:num_train], "test": rows[num_train:]}
    kinds = {"image": tfds.features.Image(shape=x_shape)}
    kinds |= {"label": tfds.features.ClassLabel(num_classes=10)} if is_labeled else {}
    features = tfds.features.FeaturesDict(kinds)
    features.save_config(folder)
    name, version = folder.parts[-2:]
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": []}
    for split, rows in images.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "")
        for index, row in enumerate(rows):
            Image.fromarray(row).save(png := io.BytesIO(), format="png")
            example = {"image": png.getvalue()} | ({"label": index % 10} if is_labeled else {})
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        info["splits"].append({"name": split, "numBytes": "1", "shardLengths": [str(len(rows))]})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return images


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_prepared_images_and_labels_come_back_in_order_from_the_newest_version(root):
    folder = root / "svhn_cropped" / "3.10.0"
    images = prepare(folder, 1_203, 5, (32, 32, 3))
    prepare(folder.with_name("3.9.0"), 2, 2, (32, 32, 3))
    text = (folder / "dataset_info.json").read_text()
    converted = '"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]'
    for info in (text, text.replace('"fileFormat": "array_record"', converted)):
        (folder / "dataset_info.json").write_text(info)
        data = sources.dataset_from(config_of("svhn_cropped"))
        for split, rows in images.items():
            np.testing.assert_array_equal(data.splits[split], rows)
            np.testing.assert_array_equal(data.labels[split], np.arange(len(rows)) % 10)


def test_celeb_a_has_no_labels_and_must_be_64_by_64(root):
    images = prepare(root / "celeb_a" / "2.1.0", 3, 2, (64, 64, 3), is_labeled=False)
    data = sources.dataset_from(config_of("celeb_a"))
    np.testing.assert_array_equal(data.splits["train"], images["train"])
    assert data.labels == {}
    prepare(root / "celeb_a" / "2.1.1", 1, 1, (218, 178, 3))
    with one_line(r"images have shape \(218, 178, 3\); they must be \(64, 64, 3\)"):
        sources.dataset_from(config_of("celeb_a"))


@pytest.mark.parametrize("damage", ["train", "test", "features.json", "dataset_info.json"])
def test_damaged_directory_is_named(root, damage):
    folder = root / "svhn_cropped" / "3.1.0"
    prepare(folder, 50, 50, (32, 32, 3))
    for file in folder.glob(f"*{damage}*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with one_line(f"cannot read {re.escape(str(folder))}.*: ."):
        sources.dataset_from(config_of("svhn_cropped"))


@pytest.mark.parametrize("name", ["mnist", "svhn_cropped", "celeb_a"])
def test_absent_directory_answers_at_once_with_what_to_do(root, monkeypatch, name):
    began = time.perf_counter()
    with one_line(f"{re.escape(str(root / name))}.*set TFDS_DATA_DIR.*tfds build {name} --file"):
        sources.dataset_from(config_of(name))
    assert time.perf_counter() - began < 0.5
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(root))
    with one_line(re.escape(str(root / "tensorflow_datasets" / name))):
        sources.dataset_from(config_of(name))


def test_tfrecord_directory_is_told_apart(root):
    info = root / "mnist" / "3.0.1" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"fileFormat": "tfrecord"}')
    with one_line(f"{re.escape(str(info.parent))} is prepared as tfrecord.*convert_format"):
        sources.mnist()


def test_neither_tensorflow_nor_scikit_learn_is_imported(root):
    prepare(root / "svhn_cropped" / "3.1.0", 3, 2, (32, 32, 3))
    program = """
import sys
from vaejax.data import batches, sources
sources.digits(), sources.two_moons(9, 9, 0.1, 0)
assert "tensorflow_datasets" not in sys.modules
sources.svhn_cropped()
print(sorted({"tensorflow", "sklearn", "torch"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True)
    assert done.stdout.strip() == b"[]", done.stderr


def test_one_epoch_covers_every_row_but_the_dropped_ones_exactly_once():
    for epoch in (0, 7):
        seen = np.concatenate([batch_indices(4, 10 * epoch + i, 103, 10) for i in range(10)])
        assert len(seen) == len(set(range(103)) & set(seen.tolist())) == 100
    for batch_size in (0, 104):
        with one_line(f"batch_size is {batch_size}.*103"):
            batch_indices(0, 0, 103, batch_size)


def test_batches_are_a_pure_function_of_seed_and_step():
    steps = [0, 31, 2, 30, 999]
    once = {step: batch_indices(1, step, 50, 8).copy() for step in steps}
    for step in sorted(steps, reverse=True):
        np.testing.assert_array_equal(batch_indices(1, step, 50, 8), once[step])
    with pytest.raises(ValueError, match="read-only"):
        batch_indices(1, 0, 50, 8)[0] = 3
    train = sources.digits().splits["train"]
    for stream, rows in enumerate(batch_rows(sources.digits(), seed=2, step=17, batch_size=100)):
        np.testing.assert_array_equal(rows, train[batch_indices(2, 17, 1_500, 100, stream)])
    # The order of every published run: a change of it belongs into Changes, with the reason.
    assert batch_indices(3, 1_000, 1_500, 6, 1).tolist() == [969, 1223, 1495, 1121, 312, 440]


def test_epochs_seeds_and_streams_are_independent_orders():
    num = 10_000
    cases = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1)]  # seed, epoch, stream
    orders = [batch_indices(seed, epoch, num, num, stream) for seed, epoch, stream in cases]
    # The correlation of two independent permutations has standard error 1 / sqrt(n - 1).
    assert np.abs(np.corrcoef(orders) - np.eye(5)).max() < 4 / np.sqrt(num - 1)


@pytest.mark.parametrize(("num_examples", "size"), [(10, 5), (11, 5), (1, 5), (297, 100), (4, 1)])
def test_blocks_cover_a_split_exactly_once(num_examples, size):
    pairs = list(blocks(num_examples, size))
    assert all(len(i) == len(mask) == size and i.max() < num_examples for i, mask in pairs)
    covered = np.concatenate([indices[mask] for indices, mask in pairs])
    np.testing.assert_array_equal(covered, np.arange(num_examples))


def test_normalized_divides_by_the_scale_in_float32():
    raw = np.arange(256, dtype=np.uint8)
    for scale in (16.0, 255.0):
        x = jax.jit(normalized, static_argnums=1)(raw, scale)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, raw / scale, rtol=np.finfo(np.float32).eps)  # one rounding


ONES = np.ones((5, 2), np.float32)
SPOILED = ONES / np.array([[1], [1], [np.nan], [1], [np.nan]], np.float32)


def toy(train: np.ndarray = ONES, test: np.ndarray = ONES, **changes) -> Dataset:
    return dataclasses.replace(Dataset("toy", {"train": train, "test": test}, 1.0), **changes)


def test_good_points_pass_unchanged_and_float64_becomes_float32():
    rows = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    for given in (rows, rows.astype(np.float64)):
        passed = checked(toy(given, given)).splits["train"]
        assert passed.dtype == np.float32
        np.testing.assert_array_equal(passed, rows)


BAD = {
    "toy: test is empty": toy(test=ONES[:0]),
    "event shape is (2,) in train and (1,) in test": toy(test=ONES[:, :1]),
    "dtype is float32 in train and uint8 in test": toy(test=ONES.astype(np.uint8)),
    "toy: train has dtype int64": toy(ONES.astype(np.int64)),
    "toy: test has shape (5,)": toy(test=ONES[:, 0]),
    "splits are ['train']": toy(splits={"train": ONES}),
    "toy: test row 2 holds a non-finite value (2 of 5 rows do)": toy(test=SPOILED),
    "toy: train row 0 holds a non-finite value (5 of 5 rows do)": toy(ONES * -np.inf),
    "row 0 holds a non-finite value": toy(ONES * np.array([1.0, 1e300])),
    "toy: test has 2 labels for 5 examples": toy(labels={"test": np.zeros(2, int)}),
    "unknown split 'valid'": toy(labels={"valid": np.zeros(5, int)}),
    "toy: scale is 0.0": toy(scale=0.0),
    "toy: scale is -1.0": toy(scale=-1.0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays_get_one_line(message):
    with one_line(re.escape(message)):
        checked(BAD[message])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("two_moons", "noise", -0.1), ("two_moons", "num_train", 0), ("stand_in", "x_shape", ())],
)
def test_bad_hyper_parameters_get_one_line(name, key, value):
    with one_line(re.escape(f"{name}: {key} is {value}")):
        sources.dataset_from(config_of(name, **{key: value}))
