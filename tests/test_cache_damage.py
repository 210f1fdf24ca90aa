"""A damaged entry is named in one line, and a full disk leaves nothing."""

import errno
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from toy_entry import assert_same, file_of, toy, write

from vaejax.data import cache

X = toy()["train"]["x"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


class Opened:  # a file on a disk that is full after some operations
    def __init__(self, file, spend):
        self._file, self._spend = file, spend

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def write(self, data):
        self._spend()
        return self._file.write(data)

    def flush(self):
        self._spend()
        self._file.flush()

    def close(self):
        self._file.close()
        self._spend()


def test_a_disk_that_is_full_at_any_moment_leaves_nothing(root, monkeypatch):
    left = 0

    def spend():
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def spending(function):
        return lambda *args, **options: (spend(), function(*args, **options))[1]

    def opening(path, mode="r", *args, **options):
        if "w" not in mode:
            return original(path, mode, *args, **options)
        spend()
        return Opened(original(path, mode, *args, **options), spend)

    root.mkdir(parents=True)
    original = Path.open
    monkeypatch.setattr(Path, "open", opening)
    monkeypatch.setattr(Path, "mkdir", spending(Path.mkdir))
    monkeypatch.setattr(Path, "rename", spending(Path.rename))
    monkeypatch.setattr(os, "fsync", lambda descriptor: spend())
    left = 1_000
    wanted = write(toy(), 3, canonical=True).sha256
    needed = 1_000 - left
    assert needed > 100  # a header twice, two blocks and more for nine files, and for the manifest
    shutil.rmtree(root / "toy")
    for allowed in range(needed - 1):  # the last is the synchronization of what is in its place
        left = allowed
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            write(toy(), 3, canonical=True)
        assert os.listdir(root) == []
        assert cache.cached("toy") is None
    left = needed - 1
    assert write(toy(), 3, canonical=True).sha256 == wanted


def test_all_is_synchronized_before_the_entry_gets_its_name(root, monkeypatch):
    synchronized = {}
    rename, fsync = Path.rename, os.fsync

    def facts(path: Path) -> tuple[int, int]:
        return path.stat().st_ino, path.stat().st_size

    def record(descriptor: int) -> None:
        fsync(descriptor)
        stat = os.fstat(descriptor)
        synchronized[stat.st_ino] = stat.st_size

    def renamed(partial: Path, folder: Path) -> None:
        files = [partial, *partial.iterdir()]
        assert len(files) == 11
        assert dict(map(facts, files)) == synchronized
        synchronized.clear()
        rename(partial, folder)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(Path, "rename", renamed)
    write(toy(), 3)
    assert list(synchronized) == [root.stat().st_ino]


def test_an_entry_that_cannot_be_moved_into_its_place_is_an_error(root):
    root.mkdir(parents=True)
    (root / "toy").write_text("a file")
    with pytest.raises(OSError, match="toy"):
        write(toy())
    assert os.listdir(root) == ["toy"]


DAMAGES = {
    "absent": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes().rstrip()[:-1]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04 but no archive"),
    "noise": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'(\n" + b"(" * 200),
    "too long a header": lambda path: path.write_bytes(
        b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65_535
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "test.x.npy", "train.labels.npy"])
def test_a_damaged_file_is_named_in_one_line(root, name, damage):
    write(toy())
    DAMAGES[damage](file_of("toy", name))
    with one_line(re.escape(f"{root / 'toy'} is damaged (")):
        cache.cached("toy")
    shutil.rmtree(root / "toy")
    assert_same(write(toy()), toy())


class Trap:  # what a pickle would do
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


@pytest.mark.parametrize("is_array", [False, True])
def test_a_pickle_in_place_of_an_array_is_never_opened(root, tmp_path, monkeypatch, is_array):
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    write(toy())
    for name in ("train.x.npy", "test.labels.npy"):
        content = file_of("toy", name).read_bytes()
        if is_array:
            np.save(file_of("toy", name), np.array([Trap()], object), allow_pickle=True)
        else:
            file_of("toy", name).write_bytes(pickle.dumps(Trap()))
        with one_line(re.escape(f"{root / 'toy'} is damaged (")):
            cache.cached("toy")
        file_of("toy", name).write_bytes(content)
    assert not (tmp_path / "trapped").exists()


MANIFESTS = {
    "its version is 0, not 1": {"version": 0},
    "its version is None, not 1": {"version": None},
    "its manifest was changed": {"scale": 1.0},
    "manifest was changed": {"sha256": "0" * 64},
    "train.x.npy is not the array": {"arrays": {"train.x": {"shape": [1], "dtype": "uint8"}}},
    "not enough values": {"arrays": {"train": {}}},
    "'note'": {"note": ...},
    "'arrays'": {"arrays": ...},
}


@pytest.mark.parametrize("message", MANIFESTS)
def test_a_manifest_that_does_not_fit_is_damage(root, message):
    write(toy())
    described = cache.manifest("toy") | MANIFESTS[message]
    described = {name: value for name, value in described.items() if value is not ...}
    file_of("toy", "manifest.json").write_text(json.dumps(described))
    with one_line(re.escape(f"{root / 'toy'} is damaged (") + f".*{re.escape(message)}"):
        cache.cached("toy")


@pytest.mark.parametrize("text", ["[]", "7", "null", '{"version": 1}', '{"version": 1, "a', "\xff"])
def test_a_manifest_that_is_none_is_damage(root, text):
    write(toy())
    file_of("toy", "manifest.json").write_bytes(text.encode("latin-1"))
    with one_line(re.escape(f"{root / 'toy'} is damaged (") + "[^)]"):
        cache.cached("toy")


def test_an_array_of_another_shape_or_dtype_is_damage(root):
    write(toy())
    for rows in (X.reshape(11, 2, 3, 1), X[:10], X.astype(np.int8)):
        np.save(file_of("toy"), rows)
        with one_line(re.escape(f"{root / 'toy'} is damaged (train.x.npy is not the array")):
            cache.cached("toy")
