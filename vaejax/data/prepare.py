"""`vaejax data`: what there is, where it is cached, and how it comes into the cache."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaejax.config import default_config, unknown
from vaejax.data import cache
from vaejax.data.arrays import SPLITS, Dataset
from vaejax.data.catalog import CATALOG, EMBEDDED
from vaejax.data.directories import (
    file_formats,
    is_array_record,
    is_jpeg,
    prepared_versions,
    tfds_folder,
)
from vaejax.data.public import cache_key, directory, prepared_folder
from vaejax.data.raw import raw_splits
from vaejax.data.sources import SOURCES
from vaejax.data.splits import rows_sha256, with_hash
from vaejax.progress import ProgressReport


def listing() -> str:
    """A line for every data set with a name: shape, sizes, license and where it is."""
    rows: list[tuple[str, ...]] = [
        ("name", "shape", "train", "validation", "test", "license", "where")
    ]
    for name in [*EMBEDDED, *CATALOG]:
        shape, sizes, license_ = _facts(name)
        counts = [f"{sizes[split]:,}" if split in sizes else "-" for split in SPLITS]
        rows.append((name, _shape(shape), *counts, license_, _state(name)))
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    right = (2, 3, 4)
    lines = [
        "  ".join(
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += ["", "your own: config.dataset is arrays (.npy, .npz), image_folder or tfds"]
    return "\n".join(lines + _others())


def _others() -> list[str]:
    """Entries of the user's own data, which nothing else shows."""
    public = {_key(name) for name in CATALOG}
    others = [
        folder
        for folder in sorted(cache.cache_folder().glob("[!.]*"))
        if folder.is_dir() and folder.name not in public
    ]
    lines = [f"in {cache.cache_folder()} besides, each a folder that may be removed:"]
    for folder in others:
        size = sum(file.stat().st_size for file in folder.iterdir())
        lines.append(f"  {folder.name}  {size / 1e6:,.1f} MB  {_origin(folder.name)}")
    return lines if others else []


def _origin(key: str) -> str:
    try:
        return cache.manifest(key)["note"]
    except (OSError, ValueError, KeyError):
        return "damaged"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _facts(name: str) -> tuple[tuple[int, ...], Mapping[str, int], str]:
    if name in CATALOG:
        facts = CATALOG[name]
        return facts.x_shape, facts.sizes, facts.license
    dataset = _embedded(name)
    sizes = {split: len(rows) for split, rows in dataset.splits.items()}
    return dataset.x_shape, sizes, EMBEDDED[name][1]


def _embedded(name: str) -> Dataset:
    return SOURCES[name](**_row(name))


def _row(name: str) -> dict[str, Any]:
    rows: Any = default_config().datasets
    return rows[name].to_dict()


def _state(name: str) -> str:
    if name in EMBEDDED:
        return "embedded"
    try:
        if (cache.cache_folder() / _key(name)).is_dir():
            return "cached" + (" (INEXACT)" if "INEXACT" in _entry(name).note else "")
        folder = prepared_folder(name)
        if folder is not None:
            return "prepared" + (" (INEXACT)" if _is_lossy(name, folder) else "")
        return "prepared as TFRecord" if prepared_versions(name) else "absent"
    except ValueError:  # `vaejax data info` says why
        return "damaged"


def _is_lossy(name: str, folder: Path) -> bool:
    return not CATALOG[name].is_jpeg and is_jpeg(folder)


def _key(name: str) -> str:
    return cache_key(name, _crop(name))


def _crop(name: str) -> int:
    return _row(name).get("crop", 0)


def _entry(name: str) -> Dataset:
    entry = cache.cached(_key(name))
    assert entry is not None, name
    return entry


def information(name: str) -> str:
    """All about one data set; the hash of what is cached is computed anew and compared.

    Raises ValueError for an unknown name, and for an entry whose files are not what they were.
    """
    _check_name(name)
    shape, sizes, license_ = _facts(name)
    counts = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    about = EMBEDDED[name][0] if name in EMBEDDED else CATALOG[name].about
    rows = {"name": name, "what": about, "license": license_, "shape": _shape(shape)}
    rows["examples"] = counts
    if "test" not in sizes:
        rows["examples"] += "; config.splits takes the test split from them"
    if name in EMBEDDED:
        rows["where"] = "embedded, nothing to prepare"
        rows["sha256"] = with_hash(_embedded(name)).sha256
    else:
        rows["homepage"] = CATALOG[name].homepage
        rows |= _where(name)
    return "\n".join(f"{label:<10}{text}" for label, text in rows.items())


def _check_name(name: str) -> None:
    if name not in CATALOG and name not in EMBEDDED:
        raise unknown("data set", name, [*EMBEDDED, *CATALOG])


def _where(name: str) -> dict[str, str]:
    folder = cache.cache_folder() / _key(name)
    if not folder.is_dir():
        return {"cached": f"no ({folder})", "where": _absent(name)}
    entry, described = _entry(name), cache.manifest(_key(name))["arrays"]
    for kind, columns in (
        ("x", entry.splits),
        ("labels", entry.labels),
        ("factors", entry.factors),
    ):
        for split, rows in columns.items():
            file = f"{split}.{kind}"
            if rows_sha256(rows) != described[file]["sha256"]:
                raise ValueError(f"{folder} is damaged: {file}.npy has changed; remove the folder")
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {
        "cached": f"{folder}, {size / 1e6:,.1f} MB",
        "made of": entry.note,
        "sha256": f"{entry.sha256} (verified)",
    }


def _absent(name: str) -> str:
    folder = prepared_folder(name)
    if folder is not None:
        lossy = " INEXACT: its images are JPEG;" if _is_lossy(name, folder) else ""
        return f"prepared in {folder};{lossy} cached when it is first used"
    for other in prepared_versions(name):
        formats = ", ".join(file_formats(other))
        return f"prepared as {formats} in {other}; `vaejax data prepare {name}` converts it"
    files = CATALOG[name].wanted()
    return f"absent: `vaejax data prepare {name}` with --from FOLDER (of {files}) or --download"


def prepare(
    name: str,
    source: Path | None = None,
    *,
    crop: int | None = None,
    download: bool = False,
    verify: bool = True,
) -> str:
    """Put a data set into the cache, by the first way that there is; says which one it was.

    The ways: it is there; `source` (raw files, or a directory that TFDS prepared); a directory that
    TFDS prepared in its own place; with `download`, TFDS in a process of its own.  What is there is
    never replaced.  `crop`: pixels of the center crop, instead of the config's default.  `verify`:
    refuse raw files whose SHA-256 is not the published one.  Raises ValueError, in one line, for an
    unknown name, a crop of what is not cropped, and when no way leads there.
    """
    _check_name(name)
    if crop is not None and not _crop(name):
        raise ValueError(f"crop is {crop}, but {name} is not cropped")
    if crop is not None and crop < 1:
        raise ValueError(f"crop is {crop}; it must be at least 1")
    source = source and source.expanduser()
    if source is not None and not source.exists():
        raise ValueError(f"{source} does not exist; --from names raw files or a TFDS directory")
    if name in EMBEDDED:
        return f"{name} is embedded; there is nothing to prepare"
    crop = _crop(name) if crop is None else crop
    key = cache_key(name, crop)
    folder = cache.cache_folder() / key
    with cache.writing(key):
        entry = cache.cached(key)
        if entry is not None:
            there = (
                f"{name} is in the cache, made of {entry.note}; remove {folder} to make it again"
            )
            is_exact = not any(word in entry.note for word in ("INEXACT", "not verified"))
            if not is_exact and (source is not None or download):
                raise ValueError(there)
            return there
        entry = _prepared(name, crop, source, download, verify)
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in entry.splits.items())
    return f"{name}: {sizes}, from {entry.note}\ncached in {folder}, SHA-256 {entry.sha256}"


def _prepared(name: str, crop: int, source: Path | None, download: bool, verify: bool) -> Dataset:
    key = cache_key(name, crop)
    folders = prepared_versions(name) if source is None else _directories(name, source)
    if source is not None and not folders:
        splits, note = raw_splits(name, source, verify=verify, **({"crop": crop} if crop else {}))
        return _written(name, key, lambda: (splits, note), CATALOG[name].sizes)
    if download and not folders:
        _in_child("download", name, tfds_folder(), crop)
        folders = prepared_versions(name)
    readable = next(filter(is_array_record, folders), None)
    if readable is not None:
        return _written(name, key, lambda: directory(name, readable, crop))
    if not folders:
        raise ValueError(
            f"{name} is not prepared in {tfds_folder()}; give --from with a folder of "
            f"{CATALOG[name].wanted()}, or --download"
        )
    _in_child("convert", name, folders[0], crop)
    entry = cache.cached(key)
    assert entry is not None, key
    return entry


def _directories(name: str, source: Path) -> list[Path]:
    """What TFDS prepared in `source`: itself a version, all of the set, or of many sets."""
    if (source / "dataset_info.json").is_file():
        return [source]
    return prepared_versions(".", str(source)) or prepared_versions(name, str(source))


def _written(
    name: str, key: str, recipe: cache.Recipe, sizes: Mapping[str, int] | None = None
) -> Dataset:
    splits, note = recipe()
    facts = CATALOG[name]
    total = sum(facts.sizes.values())
    with ProgressReport(f"preparing {name}", 0, total) as progress:
        return cache.write(
            key,
            name,
            splits,
            scale=facts.scale,
            note=note,
            sizes=sizes,
            canonical=True,
            progress=progress.update,
        )


def _in_child(task: str, name: str, folder: Path, crop: int) -> None:
    """Run `vaejax.data.fetch`, which may import TensorFlow; here it is never imported."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"to {task} {name} needs TensorFlow, in a process of its own: install the `prepare` "
            "extra (bash launch/environment.sh prepare), or give --from with raw files"
        )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "vaejax.data.fetch", task, name, str(folder), str(crop)]
    # What TensorFlow says is worth nothing, the progress of a download is.
    chatter = None if task == "download" else subprocess.DEVNULL
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=chatter, text=True
    )
    if done.returncode:
        reason = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(f"could not {task} {name}: {reason[-1]}")
