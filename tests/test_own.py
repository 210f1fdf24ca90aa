"""The user's own arrays, images and TFDS sets arrive as they are, or one line says why not."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from directories import encoded
from PIL import Image

from vaejax.config import default_config
from vaejax.data.arrays import Dataset
from vaejax.data.prepare import listing
from vaejax.data.sources import SOURCES, dataset_from


def data_of(name: str, splits: dict | None = None, **row) -> Dataset:
    config = default_config()
    with config.unlocked():
        config.dataset = name
        config.splits.update({"test": 0.0} if splits is None else splits)
        config.datasets[name].update(row)
    return dataset_from(config)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8)
POINTS = np.random.default_rng(1).normal(size=(20, 4))


@pytest.mark.parametrize(
    ("x", "scale", "stored"),
    [
        (IMAGES, 255, IMAGES),
        (IMAGES[..., 0], 255, IMAGES[..., :1]),  # gray, without an axis of channels
        (IMAGES / 255, 1, (IMAGES / 255).astype(np.float32)),
        (POINTS, 1, POINTS.astype(np.float32)),
        (np.asfortranarray(IMAGES), 255, IMAGES),
    ],
)
def test_npy_and_npz_arrive_as_they_are_and_are_the_same_data(tmp_path, x, scale, stored):
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez_compressed(tmp_path / "train.npz", x_train=x)
    found = [data_of("arrays", path=str(tmp_path / n)) for n in ("x.npy", "x.npz", "train.npz")]
    for data in found:
        rows = data.splits["train"]
        np.testing.assert_array_equal(rows, stored)
        assert (rows.dtype, data.scale, data.sha256) == (stored.dtype, scale, found[0].sha256)
    assert data_of("arrays", path=str(tmp_path / "x.npy"), scale=300.0).scale == 300


def test_splits_labels_and_factors_of_an_npz_stay_together(tmp_path, monkeypatch):
    sizes, columns = {"train": 7, "validation": 3, "test": 2}, {}
    for split, n in sizes.items():
        columns[f"x_{split}"] = IMAGES[:n] ^ n
        columns[f"labels_{split}"] = np.arange(n, dtype=np.uint8) + n
        columns[f"factors_{split}"] = np.arange(2 * n, dtype=np.int16).reshape(n, 2)
    np.savez(tmp_path / "x.npz", **columns)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = data_of("arrays", path="~/x.npz")
    for split in sizes:
        np.testing.assert_array_equal(data.splits[split], columns[f"x_{split}"])
        np.testing.assert_array_equal(data.labels[split], columns[f"labels_{split}"])
        np.testing.assert_array_equal(data.factors[split], columns[f"factors_{split}"])


def test_missing_splits_are_taken_from_train_with_their_labels(tmp_path):
    np.savez(tmp_path / "x.npz", x=IMAGES, labels=np.arange(20), factors=np.arange(20)[:, None])
    path, splits = str(tmp_path / "x.npz"), {"test": 0.2, "validation": 0.1, "seed": 3}
    data, whole = data_of("arrays", splits, path=path), data_of("arrays", path=path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 14,
        "validation": 2,
        "test": 4,
    }
    assert sorted(np.concatenate([*data.labels.values()])) == [*range(20)]
    for split, rows in data.splits.items():
        np.testing.assert_array_equal(rows, IMAGES[data.labels[split]])
        np.testing.assert_array_equal(data.factors[split][:, 0], data.labels[split])
    assert data.sha256 == whole.sha256


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


BAD = {
    "plain arrays: it holds Python objects": {"x": np.array([Bomb()])},
    "holds y; 'x' or 'x_train' is missing": {"y": IMAGES},
    "holds nothing; 'x' or 'x_train' is missing": {},
    "holds both x and x_train": {"x": IMAGES, "x_train": IMAGES},
    "holds both labels and labels_train": {"x": IMAGES, "labels": [0], "labels_train": [0]},
    "holds x_valid, y; allowed are factors, .*x_validation": {"x": IMAGES, "x_valid": 0, "y": 0},
    "splits are .'test'.; 'train' is missing": {"x_test": IMAGES},
    "labels in train are float64 of shape .20,.": {"x": IMAGES, "labels": POINTS[:, 0]},
    "labels in train are int64 of shape ..; .*of shape .N,.": {"x": IMAGES, "labels": 3},
    "factors in test are int64 of shape .20,.; .*N, F": {
        "x": IMAGES,
        "x_test": IMAGES,
        "factors_test": np.arange(20),
    },
    "labels: 19 in train for 20 examples": {"x": IMAGES, "labels": np.arange(19)},
    "labels are given for an unknown split 'test'": {"x": IMAGES, "labels_test": np.arange(20)},
    "train has dtype int64": {"x": np.arange(20)[:, None]},
    "train has dtype bool": {"x": IMAGES > 100},
    "train has dtype complex128": {"x": POINTS * 1j},
    "train has shape .20,.": {"x": POINTS[:, 0]},
    "train has shape ..; ": {"x": np.float32(1)},
    "train holds float images in .0, 2.; they must lie in .0, 1., the scale": {
        "x": np.linspace(0, 2, 48).reshape(3, 4, 4)
    },
    "holds float images in .-1, 1.": {"x": np.linspace(-1, 1, 48).reshape(1, 4, 4, 3)},
    "row 0 holds a non-finite value": {"x": np.full((2, 2), np.nan)},
    "is empty": {"x": IMAGES[:0]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays_get_one_line_and_nothing_in_them_is_executed(tmp_path, monkeypatch, message):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", allow_pickle=True, **{k: np.asarray(v) for k, v in BAD[message].items()})
    with one_line(message):
        data_of("arrays", path="x.npz")
    assert not Path("executed").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("how", ["empty", "cut", "header", "text", "pickle"])
def test_damaged_files_are_named(tmp_path, suffix, how):
    file = tmp_path / f"x{suffix}"
    (np.save if suffix == ".npy" else np.savez)(file, IMAGES)
    content = file.read_bytes()
    header = b"\x93NUMPY\x01\x00" + (20_000).to_bytes(2, "little") + b" " * 20_000
    pickled = b"cos\nmkdir\n(S'" + str(tmp_path / "executed").encode() + b"'\ntR."
    damaged = {"empty": b"", "cut": content[: len(content) // 2], "header": header}
    file.write_bytes((damaged | {"text": b"1 2 3\n", "pickle": pickled})[how])
    with one_line(f"{re.escape(str(file))} is no .npy or .npz file of plain arrays: ."):
        data_of("arrays", path=str(file))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("row", ["arrays", "image_folder"])
def test_missing_path_is_named(tmp_path, row):
    with one_line(f"config.datasets.{row}.path is empty"):
        data_of(row)
    with one_line(f"config.datasets.{row}.path is {tmp_path}/no, which does not exist"):
        data_of(row, path=f"{tmp_path}/no")


def write_folder(folder: Path, num: int = 12) -> None:
    for index in range(num):
        file = folder / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(IMAGES[index]))


def test_image_folder_is_decoded_once_for_its_files_and_options(tmp_path, monkeypatch, cache):
    folder = tmp_path / "pictures"
    write_folder(folder)

    def read(**options) -> tuple[list[bytes], bool]:  # the rows, and whether they were decoded
        before = len(list(cache.glob("image_folder-*"))) if cache.exists() else 0
        with monkeypatch.context() as patch:
            opened = []
            original = Image.open
            patch.setattr(Image, "open", lambda *a, **k: [opened.append(a), original(*a, **k)][1])
            rows = data_of("image_folder", path=str(folder), **options).splits["train"]
        assert len(list(cache.glob("image_folder-*"))) - before == bool(opened)
        return sorted(row.tobytes() for row in rows), bool(opened)

    wanted = sorted(row.tobytes() for row in IMAGES[:12])
    assert read() == (wanted, True)
    assert read() == (wanted, False)
    for options in ({"channels": 1}, {"size": 4}, {"size": 4, "crop": False}):
        first, again = read(**options), read(**options)
        assert (first[1], again[1], first[0]) == (True, False, again[0])
    assert read(size=4)[0] != read(size=4, crop=False)[0]
    (folder / "a" / "10.png").write_bytes(encoded(IMAGES[15]))
    changed = [IMAGES[i].tobytes() for i in (*range(10), 11, 15)]
    assert read() == (sorted(changed), True)
    (folder / "b" / "99.png").write_bytes(encoded(IMAGES[16]))
    assert read() == (sorted([*changed, IMAGES[16].tobytes()]), True)
    (folder / "b" / "99.png").rename(folder / "a" / "99.png")
    assert read()[1]


def test_image_folder_has_the_labels_and_splits_of_its_folders(tmp_path, monkeypatch):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", 4)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    data = data_of("image_folder", path=".")
    assert data.name == tmp_path.name
    for split, count in (("train", 12), ("validation", 4)):
        numbers = [
            [(row == image).all() for image in IMAGES].index(True) for row in data.splits[split]
        ]
        assert sorted(numbers) == [*range(count)]
        assert numbers != sorted(numbers)  # names do not decide the order
        np.testing.assert_array_equal(data.labels[split], np.array(numbers) % 2)


def test_skipped_files_are_in_the_note_also_from_the_cache(tmp_path):
    write_folder(tmp_path / "p")
    (tmp_path / "p" / "a" / "2.png").write_bytes(b"no image")
    (tmp_path / "p" / "b" / "77.png").symlink_to(tmp_path / "gone")
    with one_line(re.escape(str(Path("a") / "2.png"))):
        data_of("image_folder", path=str(tmp_path / "p"))
    for _ in range(2):
        data = data_of("image_folder", path=str(tmp_path / "p"), skip_unreadable=True)
        assert data.note.endswith(f"2 unreadable files skipped: {Path('a/2.png')}, b/77.png")
        assert len(data.splits["train"]) == 11


@pytest.mark.parametrize("name", ["test", "Test", "val", "Training", "validation"])
def test_a_split_is_never_taken_for_a_class(tmp_path, name):
    write_folder(tmp_path / "p" / name)
    write_folder(tmp_path / "p" / "other")
    with one_line(f"p has a folder {name} and none named train"):
        data_of("image_folder", path=str(tmp_path / "p"))


def test_small_whole_numbers_need_a_scale(tmp_path):
    np.save(tmp_path / "x.npy", (IMAGES > 128).astype(np.uint8))
    with one_line("whole numbers from 0 to 1, which config.datasets.arrays.scale must explain"):
        data_of("arrays", path=str(tmp_path / "x.npy"))
    for scale in (1.0, 255.0):
        assert data_of("arrays", path=str(tmp_path / "x.npy"), scale=scale).scale == scale


def test_what_is_no_file_of_arrays_is_told_apart(tmp_path):
    with one_line("is no file; a folder of images is config.dataset=image_folder"):
        data_of("arrays", path=str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with one_line("pipe is no file"):
        data_of("arrays", path=str(tmp_path / "pipe"))
    np.save(tmp_path / "x.npy", IMAGES)
    with one_line("x.npy is a file; it must be a folder of images"):
        data_of("image_folder", path=str(tmp_path / "x.npy"))


def test_list_shows_what_the_users_own_data_left_in_the_cache(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "pictures" / f"{index}.png")
    folder = {"path": str(tmp_path / "pictures"), "size": 0, "crop": True, "channels": 3}
    assert "besides" not in listing()
    SOURCES["image_folder"](**folder, skip_unreadable=False)
    line = listing().splitlines()[-1]
    assert re.match(rf"  image_folder-\w+  0\.0 MB  the folder {tmp_path / 'pictures'}$", line)
