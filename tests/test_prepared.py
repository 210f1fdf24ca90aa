"""Public sets from directories that TFDS prepared: exact, in one order, or one line why not."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import data_config, one_line
from directories import random_images, write_images, write_prepared

from vaejax.data.arrays import Dataset
from vaejax.data.catalog import CATALOG
from vaejax.data.directories import unreadable
from vaejax.data.raw import raw_splits
from vaejax.data.sources import dataset_from

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
PREPARED = Path(os.environ.get("TFDS_DATA_DIR") or SHARED / "tfds")
SIZES = {"train": 1_203, "test": 5}


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((row.tobytes(), int(label)) for row, label in zip(images, labels, strict=True))


def assert_equal(one: Dataset, other: Dataset):
    assert one.sha256 == other.sha256
    for kind in ("splits", "labels", "factors"):
        assert getattr(one, kind).keys() == getattr(other, kind).keys()
        for split, rows in getattr(one, kind).items():
            np.testing.assert_array_equal(rows, getattr(other, kind)[split])


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Folder of prepared directories; the cache lies beside it and is empty."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "tfds"


def test_mnist_is_the_same_from_the_prepared_directory_and_from_the_raw_files(root, monkeypatch):
    if not (PREPARED / "mnist").is_dir() or not (SHARED / "mnist_idx").is_dir():
        pytest.skip(f"no mnist in {PREPARED} and {SHARED}: set TFDS_DATA_DIR")
    monkeypatch.setenv("TFDS_DATA_DIR", str(PREPARED))
    mnist = dataset_from(data_config("mnist"))
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.labels["train"]).tolist() == counts
    assert mnist.splits["train"].sum(dtype=np.int64) == 1_567_298_545
    assert mnist.splits["test"].sum(dtype=np.int64) == 264_923_200
    published = "43a2e8e3098f748a5e63f3660361c76c7c47860ae26c076fe5cb9c8c5dfe6337"
    assert mnist.sha256 == published  # of every run on MNIST; a change belongs into Changes
    splits, _ = raw_splits("mnist", SHARED / "mnist_idx")
    for split, blocks in splits.items():
        raw = list(blocks)
        x, y = (np.concatenate([block[kind] for block in raw]) for kind in ("x", "labels"))
        assert pairs(x, y) == pairs(mnist.splits[split], mnist.labels[split])


def test_the_order_and_the_version_of_a_directory_do_not_matter(root, monkeypatch):
    images, labels = random_images(SIZES, (32, 32, 3))
    shuffled = {split: np.random.default_rng(1).permutation(n) for split, n in SIZES.items()}
    found = []
    for order in ({split: slice(None) for split in SIZES}, shuffled):
        monkeypatch.setenv("VAEJAX_CACHE", str(root / f"cache{len(found)}"))
        ordered = ({s: column[s][order[s]] for s in SIZES} for column in (images, labels))
        write_images(root / "svhn_cropped" / f"3.{9 + len(found)}.0", *ordered)
        found.append(dataset_from(data_config("svhn_cropped")))
        assert f"3.{8 + len(found)}.0" in found[-1].note
    assert_equal(*found)
    for split in SIZES:
        assert pairs(found[0].splits[split], found[0].labels[split]) == pairs(
            images[split], labels[split]
        )
    again = dataset_from(data_config("svhn_cropped"))
    assert_equal(again, found[0])
    assert again.note == f"cache of {found[1].note}"


def test_newest_version_counts_as_numbers_and_what_was_never_finished_does_not_count(root):
    folder, newest = root / "svhn_cropped", random_images({"train": 3, "test": 2}, (32, 32, 3))
    write_images(folder / "3.10.0", *newest)
    text = (folder / "3.10.0" / "dataset_info.json").read_text()
    write_images(folder / "3.9.0", *random_images({"train": 1, "test": 1}, (32, 32, 3)))
    for other in ("incomplete.ABCDEF_3.11.0", "3.11.0.backup"):
        (folder / other).mkdir()
        (folder / other / "dataset_info.json").write_text("{}")
    (folder / "4.0.0").mkdir()  # prepared, but in a format that needs TensorFlow
    (folder / "4.0.0" / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    converted = '"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]'
    both = text.replace('"fileFormat": "array_record"', converted)
    (folder / "3.10.0" / "dataset_info.json").write_text(both)
    data = dataset_from(data_config("svhn_cropped"))
    assert pairs(data.splits["train"], data.labels["train"]) == pairs(
        newest[0]["train"], newest[1]["train"]
    )


def test_celeb_a_is_the_center_of_larger_images_and_has_no_labels(root):
    images, _ = random_images({"train": 3, "test": 2}, (80, 70, 3))
    write_images(root / "celeb_a" / "2.1.0", images)
    data = dataset_from(data_config("celeb_a", crop=64))
    center = images["train"][:, 8:72, 3:67]
    assert pairs(data.splits["train"], np.zeros(3)) == pairs(center, np.zeros(3))
    assert data.labels == {}
    with one_line("it has 70x80 pixels; the crop takes 140x140"):
        dataset_from(data_config("celeb_a"))
    write_images(root / "svhn_cropped" / "3.1.0", images)
    with one_line(r"images have shape \(80, 70, 3\); they must be \(32, 32, 3\)"):
        dataset_from(data_config("svhn_cropped"))


def test_dsprites_keeps_its_factors_in_their_order_and_goes_by_them(root):
    import tensorflow_datasets as tfds
    from directories import encoded

    names = CATALOG["dsprites"].factors
    features = {name: tfds.features.ClassLabel(num_classes=64) for name in names[::-1]}
    features["image"] = tfds.features.Image(shape=(64, 64, 1))
    factors = np.stack(np.unravel_index(np.arange(24), (1, 2, 3, 2, 2)), axis=1)
    images = np.random.default_rng(0).integers(0, 2, (24, 64, 64, 1), np.uint8)
    order = np.random.default_rng(1).permutation(24)
    rows = [
        {"image": encoded(images[i])} | dict(zip(names, factors[i], strict=True)) for i in order
    ]
    write_prepared(root / "dsprites" / "2.0.0", features, {"train": rows})
    config = data_config("dsprites")
    config.splits.test = 0.0
    data = dataset_from(config, None)
    np.testing.assert_array_equal(data.splits["train"], images)
    np.testing.assert_array_equal(data.factors["train"], factors)
    assert data.scale == 1


@pytest.mark.parametrize("damage", ["train", "test", "features.json", "dataset_info.json"])
@pytest.mark.parametrize("how", ["cut", "gone", "flipped"])
def test_damaged_directory_is_named_and_leaves_nothing_in_the_cache(root, damage, how):
    folder = root / "svhn_cropped" / "3.1.0"
    write_images(folder, *random_images({"train": 50, "test": 50}, (32, 32, 3)))
    if (damage, how) == ("dataset_info.json", "gone"):
        return  # then it is absent
    for file in folder.glob(f"*{damage}*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
        if how == "gone":
            file.unlink()
    with one_line(f"cannot read {re.escape(str(folder))}.*: ."):
        dataset_from(data_config("svhn_cropped"))
    assert not list((root.parent / "cache").rglob("*.npy"))


def test_reason_of_a_library_is_cut_to_one_line():
    for reason, kept in (("a\n b", "a"), ("\n\nc\n", "c"), ("", "RuntimeError")):
        assert str(unreadable(Path("x"), RuntimeError(reason))) == f"cannot read x: {kept}"


@pytest.mark.parametrize("name", ["mnist", "dsprites", "celeb_a"])
def test_absent_set_says_where_it_was_looked_for_and_writes_nothing(root, monkeypatch, name):
    key = "celeb_a-140" if name == "celeb_a" else name
    cache = root.parent / "cache" / "data" / key
    prepare = f"`vaejax data prepare {name}" + (" --crop 140" if name == "celeb_a" else "")
    commands = f"{prepare} --from .*{prepare} --download`"
    with one_line(f"{re.escape(str(cache))}.*{re.escape(str(root / name))}.*{commands}"):
        dataset_from(data_config(name))
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("TFDS_DATA_DIR", "~/own")
    with one_line(re.escape(str(root / "own" / name))):
        dataset_from(data_config(name))
    monkeypatch.delenv("TFDS_DATA_DIR")
    with one_line(re.escape(str(root / "tensorflow_datasets" / name))):
        dataset_from(data_config(name))
    assert not list(root.parent.iterdir())


def test_absent_set_ends_the_command_with_one_line(root):
    command = [sys.executable, "-m", "vaejax", "train", "--config", "configs/mnist.py"]
    done = subprocess.run(
        [*command, "--workdir", str(root.parent / "run")], cwd=REPOSITORY, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert done.stderr.startswith(b"vaejax: error: mnist: not in the cache")
    assert not list(root.parent.iterdir())


def test_tfrecord_directory_is_told_apart(root):
    info = root / "mnist" / "3.0.1" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    for text in ('{"fileFormat": "tfrecord"}', "{}"):
        info.write_text(text)
        with one_line(f"{re.escape(str(info.parent))} is prepared as tfrecord.*converts it"):
            dataset_from(data_config("mnist"))
    for text in ("[]", "{", '{"alternativeFileFormats": 3}'):
        info.write_text(text)
        with one_line(f"cannot read {re.escape(str(info))}: ."):
            dataset_from(data_config("mnist"))


def test_copy_that_is_not_the_published_set_is_labeled(root):
    images, labels = random_images({"train": 40, "test": 9}, (32, 32, 3))
    write_images(root / "cifar10" / "3.0.2", images, labels, "jpeg")
    write_images(root / "svhn_cropped" / "3.1.0", images, labels)
    lossy = "INEXACT: its images are JPEG, not the pixels as published"
    few = "it has 40 train, 9 test examples, not 50,000 train, 10,000 test"
    for source in ("the", "cache of the"):
        note = dataset_from(data_config("cifar10")).note
        assert (
            note == f"{source} prepared directory {root / 'cifar10' / '3.0.2'}; {lossy} and {few}"
        )
        note = dataset_from(data_config("svhn_cropped")).note
        assert "INEXACT: it has 40 train" in note
        assert "JPEG" not in note


def test_exact_copy_is_not_labeled_and_neither_is_jpeg_of_what_was_published_as_jpeg(
    root, monkeypatch
):
    sizes = {"train": 4, "test": 3}
    for name, shape, format in (("cifar10", (32, 32, 3), "png"), ("celeb_a", (64, 64, 3), "jpeg")):
        monkeypatch.setitem(CATALOG, name, CATALOG[name]._replace(sizes=sizes))
        images, labels = random_images(sizes, shape)
        write_images(root / name / "1.0.0", images, labels if name == "cifar10" else None, format)
        assert dataset_from(data_config(name)).note == f"the prepared directory {root / name}/1.0.0"


def test_where_the_cache_cannot_be_written_the_data_come_all_the_same(root):
    images, labels = random_images({"train": 30, "test": 9}, (32, 32, 3))
    write_images(root / "cifar10" / "3.0.2", images, labels)
    (root.parent / "cache").write_text("a file in the place of the folder")
    with pytest.warns(UserWarning, match="cifar10 is not cached"):
        in_memory = dataset_from(data_config("cifar10"))
    (root.parent / "cache").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached = dataset_from(data_config("cifar10"))
    assert_equal(in_memory, cached)
    assert in_memory.note == cached.note


def test_after_caching_neither_tfds_nor_tensorflow_is_imported_and_never_scikit_learn(root):
    write_images(root / "cifar10" / "3.0.2", *random_images({"train": 3, "test": 2}, (32, 32, 3)))
    program = """
import sys
from vaejax.config import default_config
from vaejax.data.sources import dataset_from
config = default_config()
config.unlock()
for config.dataset in sys.argv[1:]:
    dataset_from(config)
print(*sorted({"tensorflow", "tensorflow_datasets", "sklearn", "torch", "h5py"} & {*sys.modules}))
"""
    embedded = ["digits", "two_moons", "swiss_roll", "shapes64", "stand_in"]
    for names, expected in [(["cifar10"], b"tensorflow_datasets"), (["cifar10", *embedded], b"")]:
        command = [sys.executable, "-c", program, *names]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True)
        assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
