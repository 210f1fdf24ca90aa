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

PREPARED = Path(
    os.environ.get("TFDS_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data" / "tfds"
)
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def config_of(name: str, **row) -> ConfigDict:
    config = default_config()
    with config.unlocked():
        config.dataset = name
        config.datasets[name].update(row)
    return config


# Sources


def test_table_and_config_agree():
    rows = default_config().datasets
    assert set(sources.SOURCES) == set(rows)
    for name, source in sources.SOURCES.items():
        assert inspect.signature(source).parameters.keys() == set(rows[name]), name


def test_digits_equal_those_of_scikit_learn():
    oracle = pytest.importorskip("sklearn.datasets").load_digits()
    data = sources.dataset_from(config_of("digits"))
    images = np.concatenate([data.splits["train"], data.splits["test"]])
    labels = np.concatenate([data.labels["train"], data.labels["test"]])
    np.testing.assert_array_equal(images, oracle.images[..., None])
    np.testing.assert_array_equal(labels, oracle.target)
    assert images.dtype == np.uint8
    assert (len(data.splits["train"]), len(data.splits["test"])) == (1500, 297)


def test_digits_train_and_test_share_no_image():
    data = sources.digits()
    train, test = ({row.tobytes() for row in data.splits[split]} for split in ("train", "test"))
    assert not train & test


@pytest.mark.parametrize("size", [7, 10])
def test_moons_without_noise_are_those_of_scikit_learn(size):
    make_moons = pytest.importorskip("sklearn.datasets").make_moons
    points, labels = make_moons(size, shuffle=False, noise=None)
    moons = sources.two_moons(num_train=size, num_test=1, noise=0.0, seed=0)
    ours = np.column_stack([moons.splits["train"], moons.labels["train"]])
    wanted = np.column_stack([points, labels])
    np.testing.assert_allclose(_sorted_rows(ours), _sorted_rows(wanted), atol=1e-6)


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.round(5).T)]


def test_moons_without_noise_lie_on_their_half_circles():
    moons = sources.two_moons(num_train=1_001, num_test=500, noise=0.0, seed=3)
    for split, points in moons.splits.items():
        labels = moons.labels[split]
        from_center = points - np.array([[0.0, 0.0], [1.0, 0.5]])[labels]
        np.testing.assert_allclose(np.linalg.norm(from_center, axis=1), 1.0, atol=1e-6)
        assert (from_center[:, 1] * np.where(labels, -1, 1) > -1e-6).all()


def test_moons_noise_has_the_asked_standard_deviation_and_independent_streams():
    num = 20_000

    def noise(seed: int, split: str) -> np.ndarray:
        noisy, clean = (sources.two_moons(num, num, scale, seed) for scale in (0.05, 0.0))
        return (noisy.splits[split] - clean.splits[split]).ravel()

    draws = [noise(0, "train"), noise(0, "test"), noise(1, "train")]
    covariance = np.cov(draws) / 0.05**2
    # The standard error of a covariance of unit normals is sqrt((1 + [i == j]) / n).
    errors = np.abs(covariance - np.eye(3)) / np.sqrt((1 + np.eye(3)) / draws[0].size)
    assert errors.max() < 4, errors


def test_moons_are_a_function_of_their_seed():
    one, same, other = (sources.two_moons(100, 100, 0.05, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.splits["train"], same.splits["train"])
    assert not np.array_equal(one.splits["train"], other.splits["train"])


@pytest.mark.parametrize("x_shape", [(8, 8, 1), (28, 28, 1), (64, 48, 3), (2,)])
def test_stand_in_is_smooth_and_differs_between_examples(x_shape):
    data = sources.dataset_from(config_of("stand_in", x_shape=x_shape, num_train=64, num_test=16))
    assert data.x_shape == x_shape
    rows = np.concatenate([data.splits["train"], data.splits["test"]]).astype(float)
    assert len({row.tobytes() for row in rows}) == len(rows)
    for axis in range(1, len(x_shape)):
        assert np.diff(rows, axis=axis).std() < 0.8 * rows.std()


# Prepared directories


@pytest.fixture(scope="module")
def mnist():
    if not (PREPARED / "mnist").is_dir():
        pytest.skip(f"no prepared mnist in {PREPARED}: set TFDS_DATA_DIR")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(PREPARED))
        return sources.dataset_from(config_of("mnist"))


def test_mnist_has_its_known_label_counts_and_pixel_sums(mnist):
    assert np.bincount(mnist.labels["train"]).tolist() == MNIST_TRAIN_COUNTS
    assert np.bincount(mnist.labels["test"]).tolist() == MNIST_TEST_COUNTS
    train, test = mnist.splits["train"], mnist.splits["test"]
    assert (train.shape, test.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    # The usual published normalization constants of the training split.
    assert round(float(train.mean()) / 255, 4) == 0.1307
    assert round(float(train.std()) / 255, 4) == 0.3081
    assert (train.sum(dtype=np.int64), test.sum(dtype=np.int64)) == (1567298545, 264923200)


def prepare(root: Path, name: str, version: str, images: dict, labels: dict | None = None) -> Path:
    """Write what `tfds build --file_format=array_record` writes, from arrays."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / name / version
    folder.mkdir(parents=True)
    lines = []
    for split, rows in images.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for index, row in enumerate(rows):
            png = io.BytesIO()
            Image.fromarray(row).save(png, format="png")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            if labels is not None:
                example.features.feature["label"].int64_list.value.append(labels[split][index])
            writer.write(example.SerializeToString())
        writer.close()
        size = str(path.stat().st_size)
        lines.append({"name": split, "numBytes": size, "shardLengths": [str(len(rows))]})
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": name, "version": version, "fileFormat": "array_record"}
    info["splits"] = [line | {"filepathTemplate": template} for line in lines]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    x_shape = [str(size) for size in images["train"].shape[1:]]
    module = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": x_shape}}
    features = {"image": {"pythonClassName": f"{module}.image_feature.Image", "image": image}}
    if labels is not None:
        kind = f"{module}.class_label_feature.ClassLabel"
        features["label"] = {"pythonClassName": kind, "classLabel": {"numClasses": "10"}}
    kind = f"{module}.features_dict.FeaturesDict"
    tree = {"pythonClassName": kind, "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(tree))
    return folder


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, shape, np.uint8)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_prepared_images_and_labels_come_back_in_order_from_the_newest_version(root):
    pytest.importorskip("PIL")
    images = {"train": random_images(1_203, 32, 32, 3), "test": random_images(5, 32, 32, 3)}
    labels = {split: np.arange(len(rows)) % 10 for split, rows in images.items()}
    prepare(root, "svhn_cropped", "3.10.0", images, labels)
    prepare(root, "svhn_cropped", "3.9.0", {split: images["test"][:1] for split in images})
    data = sources.dataset_from(config_of("svhn_cropped"))
    for split, rows in images.items():
        np.testing.assert_array_equal(data.splits[split], rows)
        np.testing.assert_array_equal(data.labels[split], labels[split])


def test_prepared_images_without_labels_have_none(root):
    pytest.importorskip("PIL")
    images = {"train": random_images(3, 64, 64, 3), "test": random_images(2, 64, 64, 3)}
    prepare(root, "celeb_a", "2.1.0", images)
    data = sources.dataset_from(config_of("celeb_a"))
    np.testing.assert_array_equal(data.splits["train"], images["train"])
    assert data.labels == {}


def test_uncropped_celeb_a_is_refused(root):
    pytest.importorskip("PIL")
    images = {"train": random_images(1, 218, 178, 3), "test": random_images(1, 218, 178, 3)}
    prepare(root, "celeb_a", "2.1.0", images)
    with one_line(r"images have shape \(218, 178, 3\); they must be \(64, 64, 3\)"):
        sources.dataset_from(config_of("celeb_a"))


@pytest.mark.parametrize("damage", ["truncated", "no_features", "no_test", "no_records"])
def test_damaged_directory_is_named(root, damage):
    pytest.importorskip("PIL")
    images = {"train": random_images(50, 28, 28), "test": random_images(50, 28, 28)}
    images = {split: rows[..., None] for split, rows in images.items()}
    if damage == "no_test":
        del images["test"]
    squeezed = {split: rows[..., 0] for split, rows in images.items()}
    folder = prepare(root, "mnist", "3.0.1", squeezed)
    if damage == "truncated":
        os.truncate(folder / "mnist-train.array_record-00000-of-00001", 30_000)
    elif damage == "no_features":
        (folder / "features.json").unlink()
    elif damage == "no_records":
        (folder / "mnist-test.array_record-00000-of-00001").unlink()
    with one_line(f"mnist: cannot read {re.escape(str(folder))}: ."):
        sources.dataset_from(config_of("mnist"))


def one_line(match: str):
    """A ValueError of exactly one line that matches."""
    return pytest.raises(ValueError, match=rf"\A(?=.*{match})[^\n]+\Z")


@pytest.mark.parametrize("name", ["mnist", "svhn_cropped", "celeb_a"])
def test_absent_directory_answers_at_once_with_what_to_do(root, name):
    began = time.perf_counter()
    where = re.escape(str(root / name))
    with one_line(f"{where}.*set TFDS_DATA_DIR.*tfds build {name} --file_format=array_record"):
        sources.dataset_from(config_of(name))
    assert time.perf_counter() - began < 0.5


def test_default_directory_is_the_one_of_tfds(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with one_line(re.escape(str(tmp_path / "tensorflow_datasets" / "mnist"))):
        sources.mnist()


def test_tfrecord_directory_is_told_apart(root):
    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for text in ('{"fileFormat": "tfrecord"}', "{}"):
        (folder / "dataset_info.json").write_text(text)
        with one_line(f"{re.escape(str(folder))} is prepared as tfrecord.*convert_format"):
            sources.mnist()
    (folder / "dataset_info.json").write_text('{"fileFormat": ')
    with one_line("cannot read .*dataset_info.json"):
        sources.mnist()


def test_neither_tensorflow_nor_scikit_learn_is_imported(root):
    pytest.importorskip("PIL")
    images = {"train": random_images(3, 32, 32, 3), "test": random_images(2, 32, 32, 3)}
    prepare(root, "svhn_cropped", "3.1.0", images)
    program = """
import sys
from vaejax.data import batches, sources
assert "tensorflow_datasets" not in sys.modules
for read in (sources.digits, lambda: sources.two_moons(9, 9, 0.1, 0), sources.svhn_cropped):
    read()
assert "tensorflow_datasets" in sys.modules
print(sorted({"tensorflow", "sklearn", "torch"} & sys.modules.keys()))
"""
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


# Batches


def test_one_epoch_covers_every_row_but_the_dropped_ones_exactly_once():
    num_examples, batch_size = 103, 10
    for epoch in (0, 7):
        steps = range(epoch * 10, epoch * 10 + 10)
        seen = np.concatenate([batch_indices(4, step, num_examples, batch_size) for step in steps])
        assert len(seen) == len(set(seen.tolist())) == 100
        assert set(seen.tolist()) <= set(range(num_examples))


def test_batches_are_a_pure_function_of_seed_and_step():
    steps = [0, 31, 2, 30, 999, 2]
    once = {step: batch_indices(1, step, 50, 8).copy() for step in steps}
    for step in sorted(steps, reverse=True):
        batch_indices(2, step, 50, 8)
        np.testing.assert_array_equal(batch_indices(1, step, 50, 8), once[step])
    with pytest.raises(ValueError, match="read-only"):
        batch_indices(1, 0, 50, 8)[0] = 3


def test_batch_order_is_the_same_on_every_machine():
    """If you meant to change the order of the data, update this and say why in Changes."""
    assert batch_indices(0, 0, 1_500, 8).tolist() == [421, 1326, 106, 582, 1125, 827, 1282, 72]
    assert batch_indices(3, 1_000, 1_500, 8, stream=1).tolist() == [
        369,
        444,
        536,
        1041,
        1013,
        810,
        120,
        834,
    ]


def test_epochs_seeds_and_streams_are_independent_orders():
    num = 10_000
    orders = [
        batch_indices(0, 0, num, num),
        batch_indices(0, 1, num, num),
        batch_indices(1, 0, num, num),
        batch_indices(0, 0, num, num, stream=1),
        batch_indices(1, 1, num, num, stream=1),
    ]
    # Correlations of independent permutations have standard error 1 / sqrt(n - 1).
    correlation = np.corrcoef(orders) - np.eye(len(orders))
    assert np.abs(correlation).max() * np.sqrt(num - 1) < 4


def test_batch_rows_are_the_train_rows_of_both_streams():
    data = sources.digits()
    rows, pair_rows = batch_rows(data, seed=2, step=17, batch_size=100)
    train = data.splits["train"]
    np.testing.assert_array_equal(rows, train[batch_indices(2, 17, 1_500, 100)])
    np.testing.assert_array_equal(pair_rows, train[batch_indices(2, 17, 1_500, 100, stream=1)])
    assert rows.dtype == pair_rows.dtype == np.uint8
    assert not np.array_equal(rows, pair_rows)


@pytest.mark.parametrize("batch_size", [0, 298])
def test_batch_larger_than_the_data_set_is_refused(batch_size):
    with one_line(f"batch_size is {batch_size}.*297"):
        batch_indices(0, 0, 297, batch_size)


@pytest.mark.parametrize(("num_examples", "size"), [(10, 5), (11, 5), (1, 5), (297, 100), (4, 1)])
def test_blocks_cover_a_split_exactly_once(num_examples, size):
    pairs = list(blocks(num_examples, size))
    assert all(indices.shape == mask.shape == (size,) for indices, mask in pairs)
    assert all(indices.max() < num_examples for indices, _ in pairs)
    covered = np.concatenate([indices[mask] for indices, mask in pairs])
    np.testing.assert_array_equal(covered, np.arange(num_examples))


def test_masked_blocks_give_the_exact_mean():
    values = np.random.default_rng(0).normal(size=297)
    total = sum((values[indices] * mask).sum() for indices, mask in blocks(297, 100))
    np.testing.assert_allclose(total / 297, values.mean(), rtol=1e-12)


# Arrays


def points(num: int = 6, **changes) -> Dataset:
    rows = np.arange(2.0 * num, dtype=np.float32).reshape(num, 2)
    whole = Dataset("toy", {"train": rows, "test": rows[:3].copy()}, 1.0, {})
    return dataclasses.replace(whole, **changes)


def test_normalized_divides_by_the_scale_in_float32():
    raw = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1)
    for scale in (16.0, 255.0):
        wanted = raw.astype(np.float32) / np.float32(scale)
        for x in (normalized(raw, scale), jax.jit(normalized, static_argnums=1)(raw, scale)):
            assert x.dtype == np.float32
            np.testing.assert_allclose(x, wanted, rtol=np.finfo(np.float32).eps)  # one rounding


def test_scale_maps_the_images_onto_the_unit_interval():
    data = sources.digits()
    x = normalized(data.splits["train"], data.scale)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)


def test_float64_points_become_float32_and_good_data_passes_unchanged():
    good = points()
    doubled = {split: rows.astype(np.float64) for split, rows in good.splits.items()}
    for given in (good, points(splits=doubled)):
        for split, rows in checked(given).splits.items():
            assert rows.dtype == np.float32
            np.testing.assert_array_equal(rows, good.splits[split])


def bad_rows(value: float, dtype: type) -> dict[str, np.ndarray]:
    rows = np.ones((5, 2), dtype)
    rows[[2, 4], 1] = value
    return {"train": np.ones((5, 2), dtype), "test": rows}


ONES = np.ones((4, 2), np.float32)
BAD = {
    "toy: test is empty": {"splits": {"train": ONES, "test": ONES[:0]}},
    "toy: train is empty": {"splits": {"train": ONES[:0], "test": ONES}},
    "event shape is (2,) in train and (1,) in test": {
        "splits": {"train": ONES, "test": ONES[:, :1]}
    },
    "dtype is float32 in train and uint8 in test": {
        "splits": {"train": ONES, "test": ONES.astype(np.uint8)}
    },
    "toy: train has dtype int64": {"splits": {"train": ONES.astype(np.int64), "test": ONES}},
    "toy: test has dtype float16": {"splits": {"train": ONES, "test": ONES.astype(np.float16)}},
    "toy: test has shape (4,)": {"splits": {"train": ONES, "test": ONES[:, 0]}},
    "splits are ['train']": {"splits": {"train": ONES}},
    "toy: test row 2 holds a non-finite value (2 of 5 rows do)": {
        "splits": bad_rows(np.nan, np.float32)
    },
    "test row 2 holds a non-finite": {"splits": bad_rows(-np.inf, np.float64)},
    "row 2 holds a non-finite": {"splits": bad_rows(1e300, np.float64)},
    "toy: test has 2 labels for 3 examples": {"labels": {"test": np.zeros(2, int)}},
    "unknown split 'valid'": {"labels": {"valid": np.zeros(2, int)}},
    "toy: scale is 0.0": {"scale": 0.0},
    "toy: scale is -1.0": {"scale": -1.0},
    "toy: scale is nan": {"scale": np.nan},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays_get_one_line(message):
    with one_line(re.escape(message)):
        checked(points(**BAD[message]))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("two_moons", {"noise": -0.1}, "noise is -0.1"),
        ("two_moons", {"num_train": 0}, "num_train is 0"),
        ("stand_in", {"num_test": -1}, "num_test is -1"),
        ("stand_in", {"x_shape": (8, 0, 1)}, r"x_shape is \(8, 0, 1\)"),
        ("stand_in", {"x_shape": ()}, r"x_shape is \(\)"),
    ],
)
def test_bad_hyper_parameters_get_one_line(name, row, message):
    with one_line(message):
        sources.dataset_from(config_of(name, **row))


def test_unknown_data_set_names_the_nearest():
    config = default_config()
    config.dataset = "minst"
    with one_line("unknown dataset 'minst'; did you mean 'mnist'"):
        sources.dataset_from(config)
