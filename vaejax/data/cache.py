"""Data sets decoded once and kept as .npy files, which later runs map into memory.

An entry is a folder with `manifest.json` and an array per file.  It is written beside its place,
synchronized and renamed as the last act: a folder under its final name is whole, whatever happened.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from vaejax.data.arrays import SPLITS, Blocks, Dataset, Part, default_scale, hashed, pieces
from vaejax.data.splits import canonical_order, content_sha256, order_keys

try:
    import fcntl
except ImportError:  # not on Windows: there the rename alone decides between two writers
    fcntl = None

Progress = Callable[[int], None]  # is told how many examples are done
_KINDS = ("x", "labels", "factors")
_VERSION = 1


def cache_folder() -> Path:
    """Where entries lie: VAEJAX_CACHE, or vaejax in XDG_CACHE_HOME or ~/.cache; then data."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("VAEJAX_CACHE") or os.path.join(home, "vaejax")
    return Path(root).expanduser() / "data"


def cached(key: str) -> Dataset | None:
    """The entry, its arrays mapped from their files; None when there is none.

    Raises ValueError when files of the entry are missing or were cut.
    """
    folder = cache_folder() / key
    if not folder.is_dir():
        return None
    try:
        return _opened(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} is damaged ({str(error) or type(error).__name__}); remove it, and the data "
            "will be prepared again"
        ) from error


def manifest(key: str) -> dict[str, Any]:
    """What an entry says of itself."""
    return json.loads((cache_folder() / key / "manifest.json").read_text())


def _opened(folder: Path) -> Dataset:
    described = json.loads((folder / "manifest.json").read_text())
    if described["version"] != _VERSION:
        raise ValueError(f"its version is {described['version']}, not {_VERSION}")
    arrays: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in _KINDS}
    for name, facts in described["arrays"].items():
        split, kind = name.split(".")
        mapped = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if [list(mapped.shape), str(mapped.dtype)] != [facts["shape"], facts["dtype"]]:
            raise ValueError(f"{name}.npy is not the array that the manifest describes")
        arrays[kind][split] = mapped if kind == "x" else np.asarray(mapped)
    dataset = Dataset(
        name=described["name"],
        splits={split: arrays["x"][split] for split in SPLITS if split in arrays["x"]},
        scale=described["scale"],
        labels=arrays["labels"],
        factors=arrays["factors"],
        note=described["note"],
    )
    return hashed(dataset, described["sha256"])


def write(
    key: str,
    name: str,
    splits: Mapping[str, Blocks],
    *,
    scale: float,
    note: str | Callable[[], str],
    sizes: Mapping[str, int] | None = None,
    canonical: bool = False,
    progress: Progress = lambda done: None,
) -> Dataset:
    """Write an entry from the blocks of its splits, and open it.

    A scale of 0 stands for `default_scale`; a `note` that is a function is asked when all is read.
    `canonical` brings every split into its canonical order.
    An entry that another process wrote meanwhile wins.  Whatever fails, nothing stays behind but a
    hidden folder after a kill, which the next writer removes.  Raises ValueError when a split has
    no example, or not as many as `sizes` says; OSError when the disk is full.
    """
    folder = cache_folder() / key
    partial = folder.with_name(f".{key}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        arrays, done = {}, 0
        for split, blocks in splits.items():
            told = functools.partial(_told, progress, done)
            described = _write_split(partial, split, blocks, canonical, told)
            count = described[f"{split}.x"]["shape"][0]
            if sizes is not None and count != sizes[split]:
                raise ValueError(f"{name}: {split} has {count} examples, not {sizes[split]}")
            arrays, done = arrays | described, done + count
        scale = scale or default_scale(arrays["train.x"]["dtype"])
        _write_manifest(partial, name, arrays, scale, note if isinstance(note, str) else note())
        with contextlib.suppress(OSError):  # another writer was first
            partial.rename(folder)
            _synchronize(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    entry = cached(key)
    assert entry is not None, folder
    return entry


def _told(progress: Progress, before: int, count: int) -> None:
    progress(before + count)


def _write_split(
    folder: Path, split: str, blocks: Blocks, canonical: bool, progress: Progress
) -> dict[str, Any]:
    files: dict[str, _ArrayFile] = {}
    keys = []
    with contextlib.ExitStack() as stack:
        for columns in blocks:
            if canonical:
                keys.append(order_keys(columns))
            for kind, rows in columns.items():
                if kind not in files:
                    path = folder / f"{split}.{kind}.npy"
                    files[kind] = stack.enter_context(_ArrayFile(path, rows))
                files[kind].append(rows)
            progress(files["x"].count)
        if not files or not files["x"].count:
            raise ValueError(f"the {split} split has no example")
    if keys:
        order = canonical_order(np.concatenate(keys))
        if (order != np.arange(len(order))).any():
            files = {kind: _reordered(file, order) for kind, file in files.items()}
    return {f"{split}.{kind}": file.described() for kind, file in files.items()}


def _reordered(file: _ArrayFile, order: np.ndarray) -> _ArrayFile:
    rows = Part(np.load(file.path, mmap_mode="r", allow_pickle=False), order)
    with _ArrayFile(file.path.with_suffix(".ordered"), rows[:0]) as ordered:
        for piece in pieces(rows):
            ordered.append(piece)
    ordered.path = ordered.path.replace(file.path)
    return ordered


class _ArrayFile:
    """A .npy file that grows by rows.

    Plain writes: a mapped file that outgrows the disk would kill the process instead of raising.
    """

    def __init__(self, path: Path, like: np.ndarray):
        self.path, self.count = path, 0
        self._shape, self._dtype = like.shape[1:], like.dtype
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header for a growing first axis, so that its length does not change.
        described = {"descr": self._dtype.str, "fortran_order": False}
        shape = (self.count, *self._shape)
        np.lib.format.write_array_header_1_0(self._file, {**described, "shape": shape})

    def append(self, rows: np.ndarray) -> None:
        """rows: (n, *X) of the shape and dtype of the first."""
        if (rows.shape[1:], rows.dtype) != (self._shape, self._dtype):
            found = f"{rows.shape[1:]} {rows.dtype}"
            raise ValueError(f"an example is {found}, the first {self._shape} {self._dtype}")
        data = np.ascontiguousarray(rows).data
        self._digest.update(data)
        self._file.write(data)
        self.count += len(rows)

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        shape = [self.count, *self._shape]
        return {"shape": shape, "dtype": str(self._dtype), "sha256": self._digest.hexdigest()}

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # what is buffered goes to a disk that is full
                self._file.close()


def _write_manifest(
    folder: Path, name: str, arrays: Mapping[str, Any], scale: float, note: str
) -> None:
    rows = {split: arrays[f"{split}.x"] for split in SPLITS if f"{split}.x" in arrays}
    described = {
        "version": _VERSION,
        "name": name,
        "scale": scale,
        "note": note,
        "sha256": content_sha256(rows, scale),
        "arrays": arrays,
    }
    with (folder / "manifest.json").open("w") as file:
        file.write(json.dumps(described, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _synchronize(folder)


def _synchronize(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(key: str) -> Iterator[None]:
    """One process at a time prepares an entry; the others wait.  The lock dies with its owner."""
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{key}.lock").open("w") as file:
        if _locked(file, key):
            for stale in root.glob(f".{key}.*.partial"):
                shutil.rmtree(stale, ignore_errors=True)
        yield


def _locked(file: IO[str], key: str) -> bool:
    """Whether the lock is held; not every file system has locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"data: waiting for another process that prepares {key}", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
