"""Files in the formats of public data sets come back as the arrays that were written."""

import gzip
import hashlib
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line

from vaejax.data.catalog import CATALOG
from vaejax.data.formats import named
from vaejax.data.raw import READERS, raw_splits

REPOSITORY = Path(__file__).parents[1]
MNIST = REPOSITORY.parent / "shared" / "data" / "mnist_idx"
TRAIN_IMAGES, TRAIN_LABELS, *_ = CATALOG["mnist"].files


def read(name: str, path: Path, **options) -> tuple[dict[str, dict[str, np.ndarray]], str]:
    splits, note = raw_splits(name, path, **{"verify": False} | options)
    columns = {}
    for split, blocks in splits.items():
        pieces = list(blocks)
        assert all(piece["x"].dtype == np.uint8 for piece in pieces)
        columns[split] = {key: np.concatenate([p[key] for p in pieces]) for key in pieces[0]}
        kinds = {columns[split][key].dtype for key in columns[split].keys() - {"x"}}
        assert kinds <= {np.dtype(np.int64)}
    return columns, note


def examples(name: str, num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels (num, *X) and labels (num,) 0..9 of a data set."""
    random, facts = np.random.default_rng(seed), CATALOG[name]
    top = 2 if facts.scale == 1 else 256
    return random.integers(0, top, (num, *facts.x_shape), np.uint8), random.integers(0, 10, num)


def publish(monkeypatch, name: str, folder: Path) -> None:
    """Let the SHA-256 of the files in the folder be the published ones."""
    names = CATALOG[name].files
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    monkeypatch.setitem(CATALOG, name, CATALOG[name]._replace(files=digests))


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, spelled=lambda name: name) -> dict[str, tuple]:
    folder.mkdir(exist_ok=True)
    written = {"train": examples("mnist", 1_203, 0), "test": examples("mnist", 5, 1)}
    arrays = [array for x, y in written.values() for array in (x[..., 0], y)]
    for name, array in zip(CATALOG["mnist"].files, arrays, strict=True):
        file, content = folder / spelled(name), idx_bytes(array)
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return written


def assert_same(columns: dict, written: dict[str, tuple], key: str = "labels") -> None:
    assert columns.keys() == written.keys()
    for split, (x, y) in written.items():
        np.testing.assert_array_equal(columns[split]["x"], x)
        np.testing.assert_array_equal(columns[split][key], y)


def test_every_data_set_of_the_catalog_has_a_reader():
    assert READERS.keys() == CATALOG.keys()


def test_mnist_as_published_has_its_known_label_counts_and_pixel_sums():
    if not MNIST.is_dir():
        pytest.skip(f"no idx files in {MNIST}")
    columns, note = read("mnist", MNIST, verify=True)
    assert note == "idx files, SHA-256 as published"
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(columns["train"]["labels"]).tolist() == counts
    assert columns["train"]["x"].sum(dtype=np.int64) == 1_567_298_545
    assert columns["test"]["x"].sum(dtype=np.int64) == 264_923_200


SPELLINGS = {
    "gz": lambda name: name,
    "plain": lambda name: name[:-3],
    "dotted": lambda name: name[:-3].replace("-idx", ".idx"),
    "dotted_gz": lambda name: name.replace("-idx", ".idx"),
}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_idx_files_come_back_in_every_spelling(tmp_path, name, spelling):
    written = write_idx(tmp_path, SPELLINGS[spelling])
    columns, note = read(name, tmp_path)
    assert_same(columns, written)
    unknown = "idx files (no SHA-256 is published for it)"
    wrong = "idx files, SHA-256 not as published (not verified)"
    assert note == (wrong if spelling == "gz" else unknown)


def test_hashes_are_compared_before_anything_is_read(tmp_path, monkeypatch):
    write_idx(tmp_path)
    publish(monkeypatch, "mnist", tmp_path)
    assert raw_splits("mnist", tmp_path)[1] == "idx files, SHA-256 as published"
    file = tmp_path / TRAIN_LABELS
    (tmp_path / TRAIN_LABELS[:-3]).write_bytes(gzip.decompress(file.read_bytes()))
    content = file.read_bytes()
    file.unlink()
    note = f"idx files (no SHA-256 is published for {TRAIN_LABELS[:-3]})"
    assert raw_splits("mnist", tmp_path)[1] == note
    file.write_bytes(content + b"\n")
    ours, theirs = hashlib.sha256(content + b"\n").hexdigest(), CATALOG["mnist"].files[TRAIN_LABELS]
    with one_line(f"{re.escape(str(file))} .*{ours}.*{theirs}.*`--unverified`"):
        raw_splits("mnist", tmp_path)


IMAGES, LABELS = idx_bytes(np.zeros((5, 28, 28))), idx_bytes(np.arange(5))
DAMAGED_IDX = {
    "magic": (TRAIN_IMAGES, gzip.compress(LABELS), "begins with 00000801.*00000803"),
    "dtype": (TRAIN_LABELS, gzip.compress(b"\0\0\x0d\1" + LABELS[4:]), "begins with 00000d01"),
    "short": (TRAIN_IMAGES, gzip.compress(IMAGES[:-1]), "3935 bytes; 5 examples must have 3936"),
    "long": (TRAIN_LABELS, gzip.compress(LABELS + b"\0"), "14 bytes; 5 examples must have 13"),
    "shape": (TRAIN_IMAGES, gzip.compress(idx_bytes(np.zeros((5, 32, 32)))), r"\(32, 32\)"),
    "count": (TRAIN_LABELS, gzip.compress(idx_bytes(np.arange(4))), "4 labels; there must be 5"),
    "label": (TRAIN_LABELS, gzip.compress(idx_bytes(np.arange(5) + 6)), r"6\.\.10.*0\.\.9"),
    "truncated": (TRAIN_IMAGES, gzip.compress(IMAGES)[:-12], "EOFError"),
    "no gzip": (TRAIN_IMAGES, IMAGES, "BadGzipFile"),
    "empty": (TRAIN_IMAGES, gzip.compress(b""), "begins with"),
}


@pytest.mark.parametrize("damage", DAMAGED_IDX)
def test_damaged_idx_file_is_named(tmp_path, damage):
    write_idx(tmp_path)
    (tmp_path / TRAIN_IMAGES).write_bytes(gzip.compress(IMAGES))
    (tmp_path / TRAIN_LABELS).write_bytes(gzip.compress(LABELS))
    read("mnist", tmp_path)
    name, content, message = DAMAGED_IDX[damage]
    (tmp_path / name).write_bytes(content)
    with one_line(f"{re.escape(str(tmp_path / name))}: .*{message}"):
        read("mnist", tmp_path)


def test_a_message_of_several_lines_becomes_one():
    with one_line("a.file: OSError: one two"), named(Path("a.file")):
        raise OSError("one\n  two\n")


def write_amat(folder: Path) -> dict[str, np.ndarray]:
    written = {}
    for seed, (split, name) in enumerate(
        zip(("train", "validation", "test"), CATALOG["binarized_mnist"].files, strict=True)
    ):
        written[split] = examples("binarized_mnist", 1_001 if seed == 0 else 3, seed)[0]
        lines = [" ".join(str(pixel) for pixel in row.ravel()) for row in written[split]]
        (folder / name).write_text("\n".join(lines) + "\n", newline="")
    return written


def test_amat_files_come_back(tmp_path):
    written = write_amat(tmp_path)
    columns, _ = read("binarized_mnist", tmp_path)
    assert columns.keys() == written.keys()
    for split, x in written.items():
        np.testing.assert_array_equal(columns[split]["x"], x)


@pytest.mark.parametrize(("old", "new"), [("0", "2"), (" ", "1"), ("\n", "\r\n"), ("\n", " ")])
def test_amat_of_another_layout_is_named(tmp_path, old, new):
    write_amat(tmp_path)
    file = tmp_path / "binarized_mnist_valid.amat"
    file.write_text(file.read_text().replace(old, new, 1), newline="")
    message = "odd line; each must have 1568 bytes" if new == "\r\n" else "784 digits 0 or 1"
    with one_line(f"{re.escape(str(file))}: .*{message}"):
        read("binarized_mnist", tmp_path)


def write_mat(folder: Path, **changes) -> dict[str, tuple]:
    from scipy.io import savemat

    written = {}
    for seed, split in enumerate(("train", "test")):
        x, y = written[split] = examples("svhn_cropped", 1_005 - 1_000 * seed, seed)
        ten = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        content = {"X": x.transpose(1, 2, 3, 0), "y": ten} | changes
        savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
    return written


def test_mat_files_come_back_with_label_ten_as_zero(tmp_path):
    written = write_mat(tmp_path)
    assert_same(read("svhn_cropped", tmp_path)[0], written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 5))}, "float64.*uint8"),
        ({"X": np.zeros((5, 32, 32, 3), np.uint8)}, r"\(5, 32, 32, 3\)"),
        ({"y": np.zeros((1_005, 1))}, r"none of 1\.\.10"),
        ({"y": np.ones((4, 1))}, "4 labels; there must be 1005"),
    ],
)
def test_mat_files_of_another_layout_are_named(tmp_path, changes, message):
    write_mat(tmp_path, **changes)
    file = tmp_path / "train_32x32.mat"
    with one_line(f"{re.escape(str(file))}: .*{message}"):
        read("svhn_cropped", tmp_path)
    file.write_bytes(file.read_bytes()[:1_000])
    with one_line(f"{re.escape(str(file))}: "):
        read("svhn_cropped", tmp_path)


WANTED = {
    "mnist": "train-images-idx3-ubyte.gz.*train-images.idx3-ubyte",
    "fashion_mnist": "train-images-idx3-ubyte.gz",
    "binarized_mnist": "binarized_mnist_train.amat, .*binarized_mnist_test.amat",
    "svhn_cropped": "train_32x32.mat, test_32x32.mat",
    "cifar10": "cifar-10-binary.tar.gz or cifar-10-python.tar.gz",
    "celeb_a": "img_align_celeba.zip or img_align_celeba",
    "dsprites": r"\.npz or .*\.hdf5",
    "shapes3d": "3dshapes.h5",
}


@pytest.mark.parametrize("name", WANTED)
def test_absent_files_are_listed_with_the_folder_that_lacks_them(tmp_path, name):
    (tmp_path / "other.bin").write_bytes(b"")
    ways = {
        f"{tmp_path} does not hold": tmp_path,
        f"{tmp_path / 'absent'} does not exist; give a folder": tmp_path / "absent",
        f"{tmp_path / 'other.bin'} is another file; give a folder": tmp_path / "other.bin",
    }
    for message, path in ways.items():
        with one_line(f"{name}: {re.escape(message)}.*{WANTED[name]}"):
            raw_splits(name, path)


def test_one_absent_file_of_several_is_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with one_line(f"{re.escape(str(tmp_path))} does not hold t10k-labels-idx1-ubyte.gz"):
        raw_splits("mnist", tmp_path, verify=False)
    write_mat(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with one_line("does not hold test_32x32.mat"):
        raw_splits("svhn_cropped", tmp_path, verify=False)


def test_unknown_names_and_crops_get_one_line(tmp_path):
    with one_line("'imagenet'; data sets: mnist, .*shapes3d"):
        raw_splits("imagenet", tmp_path)
    with one_line("crop is 0"):
        raw_splits("celeb_a", tmp_path, crop=0)
