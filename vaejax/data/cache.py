"""Data sets decoded once and kept as .npy files, which later runs map into memory.

An entry is a folder with `manifest.json` and an array per file.  It is written beside its place,
synchronized and renamed as the last act: a folder under its final name is whole, whatever happened.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import json
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaejax.data.arrays import SPLITS, Blocks, Columns, Dataset, default_scale, hashed
from vaejax.data.columns import Progress, write_split
from vaejax.data.splits import canonical_order, content_sha256, order_keys, rows_sha256
from vaejax.locks import lock
from vaejax.progress import ProgressReport
from vaejax.records import read_json

# Blocks of every split, and a note on where they come from (a function: asked when all is read).
Recipe = Callable[[], tuple[Mapping[str, Blocks], str | Callable[[], str]]]
_KINDS = ("x", "labels", "factors")
_VERSION = 1
_VERIFIED = 2**28  # bytes of a file whose hash is computed whenever it is opened


def cache_folder() -> Path:
    """Where entries lie: VAEJAX_CACHE, or vaejax in XDG_CACHE_HOME or ~/.cache; then data."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("VAEJAX_CACHE") or os.path.join(home, "vaejax")
    return Path(root).expanduser() / "data"


def cached(key: str) -> Dataset | None:
    """The entry, its arrays mapped from their files; None when there is none.

    Raises ValueError, in one line, when files of the entry are missing, were cut or are others;
    the content of larger ones than 256 MB is left to `vaejax data info`.
    """
    folder = cache_folder() / key
    if not folder.is_dir():
        return None
    try:
        return _opened(folder)
    except Exception as error:  # a damaged header raises whatever Python's own parser does
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{folder} is damaged ({reason}); remove it, and the data will be prepared again"
        ) from error


def manifest(key: str) -> dict[str, Any]:
    """What an entry says of itself."""
    return read_json(cache_folder() / key / "manifest.json")


def _opened(folder: Path) -> Dataset:
    described = read_json(folder / "manifest.json")
    if described["version"] != _VERSION:
        raise ValueError(f"its version is {described['version']}, not {_VERSION}")
    arrays: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in _KINDS}
    for name, facts in described["arrays"].items():
        split, kind = name.split(".")
        mapped = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r")
        if [list(mapped.shape), str(mapped.dtype)] != [facts["shape"], facts["dtype"]]:
            raise ValueError(f"{name}.npy is not the array that the manifest describes")
        if mapped.nbytes <= _VERIFIED and rows_sha256(mapped) != facts["sha256"]:
            raise ValueError(f"{name}.npy has changed")
        arrays[kind][split] = mapped if kind == "x" else np.asarray(mapped)
    if _content(described["arrays"], described["scale"]) != described["sha256"]:
        raise ValueError("its manifest was changed")
    dataset = Dataset(
        name=described["name"],
        splits={split: arrays["x"][split] for split in SPLITS if split in arrays["x"]},
        scale=described["scale"],
        labels=arrays["labels"],
        factors=arrays["factors"],
        note=described["note"],
    )
    return hashed(dataset, described["sha256"])


def _content(arrays: Mapping[str, Any], scale: float) -> str:
    facts = {split: arrays[f"{split}.x"] for split in SPLITS if f"{split}.x" in arrays}
    return content_sha256(facts, scale)


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
    hidden folder after a kill, which the next writer removes.  Raises ValueError, in one line, for
    other splits than `sizes` has, a split without examples or with another number of them, and
    blocks that do not fit together; OSError when the disk is full.
    """
    _check_splits(name, splits, sizes)
    folder = cache_folder() / key
    # Not a process id: containers that share a folder have the same ones.
    partial = folder.with_name(f".{key}.{secrets.token_hex(8)}.partial")
    partial.mkdir(parents=True)
    try:
        arrays, done = {}, 0
        for split, blocks in splits.items():
            told = functools.partial(_told, progress, done)
            described = write_split(partial / split, name, blocks, canonical, told)
            count = described[f"{split}.x"]["shape"][0]
            if sizes is not None and count != sizes[split]:
                raise ValueError(f"{name}: {split} has {count} examples, not {sizes[split]}")
            arrays, done = arrays | described, done + count
        scale = scale or default_scale(arrays["train.x"]["dtype"])
        _write_manifest(partial, name, arrays, scale, note if isinstance(note, str) else note())
        _move(partial, folder)
    except OSError as error:
        reason = f"{name} cannot be cached: {error.strerror or error}"
        raise OSError(error.errno, reason, str(folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    entry = cached(key)
    assert entry is not None, folder
    return entry


def _check_splits(name: str, splits: Mapping[str, Any], sizes: Mapping[str, int] | None) -> None:
    if "train" not in splits or not set(splits) <= set(SPLITS):
        allowed = f"'train', and perhaps others of {', '.join(SPLITS)}"
        raise ValueError(f"{name}: splits are {sorted(splits)}; they must be {allowed}")
    if sizes is not None and set(sizes) != set(splits):
        raise ValueError(f"{name}: splits are {sorted(splits)}; they must be {sorted(sizes)}")


def _move(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another writer was first
            raise
    with contextlib.suppress(OSError):  # the entry is whole, and there until the power fails
        _synchronize(folder.parent)


def _told(progress: Progress, before: int, count: int) -> None:
    progress(before + count)


def _write_manifest(
    folder: Path, name: str, arrays: Mapping[str, Any], scale: float, note: str
) -> None:
    described = {
        "version": _VERSION,
        "name": name,
        "scale": scale,
        "note": note,
        "sha256": _content(arrays, scale),
        "arrays": arrays,
    }
    with (folder / "manifest.json").open("w") as file:
        file.write(json.dumps(described, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _synchronize(folder)


def _synchronize(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # not every network file system synchronizes folders
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(key: str) -> Iterator[None]:
    """One process at a time prepares an entry; the others wait.  The lock dies with its owner."""
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{key}.lock").open("w") as file:
        # Without locks the rename alone decides between two writers.
        if lock(file, before_waiting=lambda: _tell_waiting(key)):
            for stale in root.glob(f".{glob.escape(key)}.{'[0-9a-f]' * 16}.partial"):
                shutil.rmtree(stale, ignore_errors=True)
        yield


def _tell_waiting(key: str) -> None:
    print(f"data: waiting for another process that prepares {key}", file=sys.stderr)


def kept(
    key: str, name: str, recipe: Recipe, scale: float, *, canonical: bool = False, total: int = 0
) -> Dataset:
    """The entry of the cache, made by `recipe` unless it is there; without a cache, in memory.

    `total`: the number of examples, for the progress, where it is known.
    """
    entry = cached(key)  # asked first: a cache that is there may be read-only
    if entry is not None:
        return entry
    try:
        with writing(key), ProgressReport(f"caching {name}", 0, total) as progress:
            entry = cached(key)
            if entry is None:
                splits, note = recipe()
                given = {"scale": scale, "note": note, "canonical": canonical}
                entry = write(key, name, splits, progress=progress.update, **given)
        return entry
    except OSError as error:
        warnings.warn(f"{name} is not cached: {error}", stacklevel=2)
    splits, note = recipe()
    arrays = {split: _joined(name, split, blocks, canonical) for split, blocks in splits.items()}
    x, labels, factors = (
        {split: columns[kind] for split, columns in arrays.items() if kind in columns}
        for kind in ("x", "labels", "factors")
    )
    scale = scale or default_scale(x["train"].dtype)
    return Dataset(name, x, scale, labels, factors, note if isinstance(note, str) else note())


def _joined(name: str, split: str, blocks: Iterable[Columns], canonical: bool) -> Columns:
    blocks = list(blocks)
    if not blocks:
        raise ValueError(f"{name}: {split} has no example")
    order = slice(None)
    if canonical:
        order = canonical_order(np.concatenate([order_keys(columns) for columns in blocks]))
    return {kind: np.concatenate([block[kind] for block in blocks])[order] for kind in blocks[0]}
