"""CIFAR-10 and CelebA come back from their archives as written; no pickle is executed."""

import os
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from PIL import Image
from test_raw import assert_same, examples, read

from vaejax.data.catalog import CATALOG
from vaejax.data.images import decoded
from vaejax.data.raw import raw_splits

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def row_major(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2).reshape(len(x), 3072)


def binary(x: np.ndarray, y: np.ndarray) -> bytes:
    return np.concatenate([y[:, None].astype(np.uint8), row_major(x)], axis=1).tobytes()


def batch_of(x: np.ndarray, y: np.ndarray) -> dict:
    names = [f"labels_{index}.png" for index in range(len(x))]
    batch = {"batch_label": "training batch 1 of 5", "labels": y.tolist()}
    return batch | {"data": row_major(x), "filenames": names}


def pickled(protocol: int):
    return lambda x, y: pickle.dumps(batch_of(x, y), protocol=protocol)


def other_order(x: np.ndarray, y: np.ndarray) -> bytes:
    items = [("coarse_labels", [9] * len(x)), *reversed(batch_of(x, y).items())]
    return pickle.dumps(dict(items))


def of_python_2(x: np.ndarray, y: np.ndarray) -> bytes:
    """As cPickle of Python 2 wrote it: every string as bytes, in its own opcodes."""

    def string(content: bytes) -> bytes:
        if len(content) < 256:
            return b"U" + bytes([len(content)]) + content
        return b"T" + len(content).to_bytes(4, "little") + content

    numbers = b"".join(b"K" + bytes([label]) for label in y.tolist())
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nK\x00\x85" + string(b"b")
    array += b"\x87R(K\x01K" + bytes([len(x)]) + b"M\x00\x0c\x86cnumpy\ndtype\n" + string(b"u1")
    array += b"K\x00K\x01\x87R(K\x03" + string(b"|")
    array += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    content = b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"testing batch 1 of 1")
    content += string(b"labels") + b"q\x04]q\x05(" + numbers[:6] + b"e(" + numbers[6:] + b"e"
    return content + string(b"data") + array + string(row_major(x).tobytes()) + b"tbu."


WRITERS = {
    "cifar-10-binary.tar.gz": binary,
    "cifar-10-python.tar.gz": of_python_2,
    "protocol 2": pickled(2),
    "protocol 4": pickled(4),
    "other order": other_order,
}


def write_cifar(folder: Path, writer) -> dict[str, tuple]:
    """Six batches of 7 examples each in `folder`."""
    folder.mkdir(parents=True)
    batches = [examples("cifar10", 7, seed) for seed in range(6)]
    for name, batch in zip(BATCHES, batches, strict=True):
        suffix = ".bin" if writer is binary else ""
        (folder / f"{name}{suffix}").write_bytes(writer(*batch))
    (folder / "batches.meta").write_bytes(b"no pickle")
    train = tuple(np.concatenate(columns) for columns in zip(*batches[:5], strict=True))
    return {"train": train, "test": batches[5]}


def test_the_imitation_of_python_2_is_a_pickle_of_the_same_batch():
    x, y = examples("cifar10", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy.core
        batch = pickle.loads(of_python_2(x, y), encoding="latin-1")
    np.testing.assert_array_equal(batch["data"], row_major(x))
    assert batch["labels"] == y.tolist()


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("inside", [".", "cifar-10-batches-bin", "cifar-10-batches-py"])
def test_cifar_folders_come_back(tmp_path, kind, inside):
    written = write_cifar(tmp_path / "set" / inside, WRITERS[kind])
    columns, note = read("cifar10", tmp_path / "set")
    assert_same(columns, written)
    assert note == "extracted files (no SHA-256 is published for it)"


@pytest.mark.parametrize("name", CATALOG["cifar10"].files)
def test_cifar_archives_come_back_without_being_extracted(tmp_path, name):
    written = write_cifar(tmp_path / "files", WRITERS[name])
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        for file in sorted((tmp_path / "files").iterdir(), reverse=True):
            archive.add(file, f"cifar-10-batches/{file.name}")
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path, tmp_path / name):
        columns, note = read("cifar10", path)
        assert_same(columns, written)
        assert note == f"{name}, SHA-256 not as published (not verified)"
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with one_line(f"{re.escape(str(tmp_path / name))}: "):
        read("cifar10", tmp_path)
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.add(tmp_path / "files", "cifar-10-batches", filter=without_second)
    with one_line(f"{re.escape(str(tmp_path / name))}: it does not hold data_batch_2"):
        read("cifar10", tmp_path)


def without_second(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "data_batch_2" in member.name else member


def test_no_pickle_is_executed(tmp_path):
    target = tmp_path / "made by the pickle"
    pickle.loads(pickle.dumps(Bomb(target)))  # the fuse works
    target.rmdir()
    written = write_cifar(
        tmp_path / "set", lambda x, y: pickle.dumps({"bomb": Bomb(target)} | batch_of(x, y), 2)
    )
    assert_same(read("cifar10", tmp_path / "set")[0], written)
    (tmp_path / "set" / "data_batch_3").write_bytes(pickle.dumps(Bomb(target)))
    with one_line("data_batch_3: it holds 0 labels"):
        read("cifar10", tmp_path / "set")
    assert not target.exists()


X, Y = examples("cifar10", 7)
SPOILED_BATCHES = {
    "a label is missing": batch_of(X, Y[:-1]),
    "an image is missing": batch_of(X[:-1], Y),
    "no labels": {key: value for key, value in batch_of(X, Y).items() if key != "labels"},
    "no data": {key: value for key, value in batch_of(X, Y).items() if key != "data"},
    "twice": batch_of(X, Y) | {"more": X.tobytes()},
    "labels are text": batch_of(X, Y) | {"labels": "0" * 7},
    "not one byte a character": batch_of(X, Y) | {"data": "\u0410" * X.size},
    "labels beyond 9": batch_of(X, Y + 4),
}


@pytest.mark.parametrize("kind", SPOILED_BATCHES)
def test_spoiled_pickle_is_named(tmp_path, kind):
    write_cifar(tmp_path / "set", pickled(2))
    file = tmp_path / "set" / "test_batch"
    content = pickle.dumps(SPOILED_BATCHES[kind], 2)
    for spoiled in (content, content[: len(content) // 2], b"\xff" + content):
        file.write_bytes(spoiled)
        with one_line(f"{re.escape(str(file))}: "):
            read("cifar10", tmp_path / "set")


def test_cut_binary_batch_is_named(tmp_path):
    write_cifar(tmp_path / "set", binary)
    file = tmp_path / "set" / "data_batch_5.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with one_line(f"{re.escape(str(file))}: "):
        read("cifar10", tmp_path / "set")


@pytest.fixture
def faces(tmp_path, monkeypatch) -> Path:
    """Six faces, the third already of 64x64 pixels, in a folder; partition 3, 1, 2."""
    sizes = {"train": 3, "validation": 1, "test": 2}
    monkeypatch.setitem(CATALOG, "celeb_a", CATALOG["celeb_a"]._replace(sizes=sizes))
    folder = tmp_path / "set" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number in range(1, 7):
        height, width = (64, 64) if number == 3 else (218, 178)
        small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((width, height))
        image.save(folder / f"{number:06d}.jpg", quality=95)
    return folder


def zipped(folder: Path, damage=lambda content: content) -> Path:
    path = folder.parents[1] / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.writestr(f"img_align_celeba/{file.name}", damage(file.read_bytes()))
    return path


def test_faces_are_the_resized_center_in_the_official_partition(faces):
    for crop in (140, 178):
        top, left = (218 - crop) // 2, (178 - crop) // 2
        wanted = []
        for number in range(1, 7):
            image = decoded(faces / f"{number:06d}.jpg", channels=3)
            if number != 3:
                image = image.crop((left, top, left + crop, top + crop))
                image = image.resize((64, 64), Image.Resampling.BICUBIC)
            wanted.append(np.asarray(image))
        for path in (faces, faces.parent, zipped(faces)):
            columns, note = read("celeb_a", path, crop=crop)
            assert [*columns] == ["train", "validation", "test"]
            np.testing.assert_array_equal(columns["train"]["x"], wanted[:3])
            np.testing.assert_array_equal(columns["validation"]["x"], wanted[3:4])
            np.testing.assert_array_equal(columns["test"]["x"], wanted[4:])
            unverified = "img_align_celeba.zip, SHA-256 not as published (not verified)"
            folder = "folder of images (no SHA-256 is published for it)"
            assert note == (unverified if path.suffix else folder)


def test_missing_damaged_and_too_small_faces_are_named(faces):
    with one_line("000001.jpg: it has 178x218 pixels; the crop takes 179x179"):
        read("celeb_a", faces, crop=179)
    archive = zipped(faces, lambda content: content[:900])
    with one_line(f"{re.escape(str(archive))}: 000001.jpg: "):
        read("celeb_a", archive)
    archive.write_bytes(archive.read_bytes()[:-30])
    with one_line(f"{re.escape(str(archive))}: BadZipFile"):
        read("celeb_a", archive)
    (faces / "000004.jpg").unlink()
    (faces / "000006.jpg").unlink()
    for path in (faces, zipped(faces)):
        splits, _ = raw_splits("celeb_a", path, verify=False)
        with one_line("lacks 2 of 6 images, first 000004.jpg"):
            next(splits["train"])
