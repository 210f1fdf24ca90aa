"""The user's own data: arrays in a file, a folder of images, anything that TFDS prepared."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vaejax.data.arrays import SPLITS, Dataset, Rows, default_scale, extremes, pieces
from vaejax.data.cache import kept
from vaejax.data.directories import (
    Features,
    fingerprint,
    is_array_record,
    prepared_splits,
    prepared_versions,
    tfds_folder,
)
from vaejax.data.images import image_files, image_splits
from vaejax.memory import check_archive

_KINDS = ("x", "labels", "factors")
_FEW = 16  # the most levels of gray that are not taken for pixels from 0 to 255


def arrays(path: str, scale: float) -> Dataset:
    """A .npy file of (N, *X), or an .npz with `x`, or `x_train`, `x_validation`, `x_test`.

    `labels` (N,) and `factors` (N, F) are named likewise.  A scale of 0 stands for `default_scale`.
    Raises ValueError for a file that is missing, holds objects, lacks x, or holds something else,
    and for labels or factors that are no integers.
    """
    file = _existing("arrays", path)
    found = _loaded(file)
    columns = {kind: _by_split(file, kind, found) for kind in _KINDS}
    if not columns["x"]:
        raise ValueError(
            f"{file} holds {', '.join(found) or 'nothing'}; 'x' or 'x_train' is missing"
        )
    known = {name for names in map(_names, _KINDS) for name in names}
    if strangers := sorted(set(found) - known):
        raise ValueError(
            f"{file} holds {', '.join(strangers)}; allowed are {', '.join(sorted(known))}"
        )
    return Dataset(
        name=file.name,
        splits=columns["x"],
        scale=scale or _guessed("arrays", columns["x"]),
        labels=columns["labels"],
        factors=columns["factors"],
        note=f"the file {file}",
    )


def _guessed(row: str, splits: Mapping[str, Rows]) -> float:
    """`default_scale`.  Raises ValueError for small whole numbers, which may mean anything."""
    dtype = next(iter(splits.values())).dtype
    blocks = (piece for rows in splits.values() for piece in pieces(rows))  # mostly one will do
    if dtype == np.uint8 and not any((piece > _FEW).any() for piece in blocks):
        highest = int(max((extremes(rows)[1] for rows in splits.values() if len(rows)), default=0))
        if highest:
            raise ValueError(
                f"all values are whole numbers from 0 to {highest}, which config.datasets.{row}"
                f".scale must explain: {highest} makes the highest one 1, 255 is that of images"
            )
    return default_scale(dtype)


def _loaded(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        hint = "; a folder of images is config.dataset=image_folder" if file.is_dir() else ""
        raise ValueError(f"{file} is no file{hint}")
    try:
        with file.open("rb") as opened:
            if opened.read(2) == b"PK":
                check_archive(opened)
                return dict(np.load(opened, allow_pickle=False))
        return {"x": np.load(file, mmap_mode="r", allow_pickle=False)}
    except Exception as error:  # a damaged archive raises nearly every type
        reason = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in reason:
            reason = "it holds Python objects, or is no such file at all"
        raise ValueError(f"{file} is no .npy or .npz file of plain arrays: {reason}") from error


def _names(kind: str) -> dict[str, str]:
    """Name in the file -> split."""
    return {kind: "train", **{f"{kind}_{split}": split for split in SPLITS}}


def _by_split(file: Path, kind: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    named = {split: found[name] for name, split in _names(kind).items() if name in found}
    if kind in found and f"{kind}_train" in found:
        raise ValueError(f"{file} holds both {kind} and {kind}_train; they mean the same")
    return named


def image_folder(path: str, size: int, crop: bool, channels: int, skip_unreadable: bool) -> Dataset:
    """A folder of images, decoded once into the cache.

    Subfolders train, validation and test are the splits; below them, or without them, subfolders
    are classes.  Images become `size` x `size` pixels (0: as they are, all alike), of the largest
    centered square (`crop`) or squeezed, with 1 or 3 `channels`; names do not decide their order.
    Raises ValueError, in one line, for what cannot be read, unless told to skip it.
    """
    folder = _existing("image_folder", path)
    options = {"size": size, "crop": crop, "channels": channels, "skip_unreadable": skip_unreadable}
    listed = [[str(file), *_stamp(folder / file)] for file in image_files(folder)]
    content = json.dumps([str(folder.resolve()), options, listed])
    key = f"image_folder-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def recipe():
        splits, skipped = image_splits(folder, **options)
        return splits, lambda: f"the folder {folder}" + _skipped(skipped)

    return kept(key, folder.resolve().name, recipe, 255.0, canonical=True)


def _stamp(file: Path) -> list[int]:
    """What changes with the file; a broken link has none, and is unreadable later."""
    with contextlib.suppress(OSError):
        return [file.stat().st_size, file.stat().st_mtime_ns]
    return []


def _skipped(names: list[str]) -> str:
    return f"; {len(names)} unreadable files skipped: {', '.join(names[:3])}" if names else ""


def tfds(name: str, data_dir: str, x: str, label: str, scale: float) -> Dataset:
    """Anything that TFDS prepared as array_record, decoded once into the cache.

    `x` and `label` name its features ("" for no label).  A scale of 0 stands for `default_scale`.
    Raises ValueError when it is not there, or lacks a feature.
    """
    if not name or name.startswith(("/", "~")) or ".." in name.split("/"):
        given = repr(name) if name else "empty"
        raise ValueError(f"config.datasets.tfds.name is {given}; it must name a prepared data set")
    versions = prepared_versions(name, data_dir)
    folder = next(filter(is_array_record, versions), None)
    if folder is None:
        looked = tfds_folder(data_dir) / name
        raise ValueError(
            f"no array_record copy of {name!r} in {looked}; TFDS_DATA_DIR or "
            "config.datasets.tfds.data_dir names its parent, and "
            f"`tfds build {name} --file_format=array_record` makes one"
        )

    def recipe():
        return prepared_splits(folder, Features(x, label)), f"the prepared directory {folder}"

    content = json.dumps([fingerprint(folder), x, label, scale])
    key = f"tfds-{name.replace('/', '-')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    entry = kept(key, name, recipe, scale)
    if not scale:
        _guessed("tfds", entry.splits)
    return entry


def _existing(row: str, path: str) -> Path:
    if not path:
        raise ValueError(
            f"config.datasets.{row}.path is empty; it must name what to read (a Dataset made in "
            "Python must be given again, to `evaluate` and `write_figures` too)"
        )
    found = Path(path).expanduser()
    if not found.exists():
        raise ValueError(f"config.datasets.{row}.path is {path}, which does not exist")
    return found
