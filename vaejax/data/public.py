"""Public data sets, from the cache or a directory that TFDS prepared, never from the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vaejax.data import cache
from vaejax.data.arrays import Blocks, Dataset, hashed
from vaejax.data.catalog import CATALOG
from vaejax.data.directories import (
    Features,
    file_formats,
    is_array_record,
    is_jpeg,
    prepared_splits,
    prepared_versions,
    tfds_folder,
)
from vaejax.data.images import centered, pixels, resized
from vaejax.records import read_json


def public(name: str, crop: int = 0) -> Dataset:
    """A data set of the catalog, kept in the cache from then on.

    `crop`: pixels of the center crop, for sets that are cropped.  Raises ValueError, in one line,
    when it is neither cached nor prepared, or cannot be read.
    """
    key = cache_key(name, crop)
    entry = cache.cached(key)
    if entry is not None:
        return hashed(replace(entry, note=f"cache of {entry.note}"), entry.sha256)
    folder = prepared_folder(name)
    if folder is None:
        raise ValueError(absence(name, crop))
    facts = CATALOG[name]
    total = sum(facts.sizes.values())
    recipe = partial(directory, name, folder, crop)
    return cache.kept(key, name, recipe, facts.scale, canonical=True, total=total)


def cache_key(name: str, crop: int = 0) -> str:
    """The name of the cache's entry."""
    return f"{name}-{crop}" if crop else name


def prepared_folder(name: str) -> Path | None:
    """The newest prepared version that can be read without TensorFlow."""
    return next(filter(is_array_record, prepared_versions(name)), None)


def directory(
    name: str, folder: Path, crop: int = 0
) -> tuple[dict[str, Blocks], Callable[[], str]]:
    """The splits of a prepared directory, and what is to be known of them when all is read.

    Raises ValueError when it is that of another data set.
    """
    check_name(name, folder)
    facts = CATALOG[name]
    splits = prepared_splits(folder, Features("image", facts.label, facts.factors), strict=False)
    source = f"the prepared directory {folder}"
    return as_published(name, splits, crop, source, lambda: is_jpeg(folder))


def check_name(name: str, folder: Path) -> None:
    """Raise ValueError when a prepared directory holds another data set than `name`."""
    other = read_json(folder / "dataset_info.json").get("name", name)
    if other != name:
        raise ValueError(f"{folder} holds {other!r}, not {name!r}")


def as_published(
    name: str,
    splits: Mapping[str, Blocks],
    crop: int,
    source: str,
    are_jpeg: Callable[[], bool],
) -> tuple[dict[str, Blocks], Callable[[], str]]:
    """The splits with images of the published shape, and a note that says what else differs.

    The note is to be asked for when all is read, and asks `are_jpeg` itself.
    """
    counts: dict[str, int] = {}

    def fitted(split: str, blocks: Blocks) -> Blocks:
        for columns in blocks:
            x = _of_published_shape(name, columns["x"], crop, source)
            counts[split] = counts.get(split, 0) + len(x)
            yield {**columns, "x": x}

    def note() -> str:
        facts, reasons = CATALOG[name], []
        if not facts.is_jpeg and are_jpeg():
            reasons.append("its images are JPEG, not the pixels as published")
        if counts != facts.sizes:
            reasons.append(f"it has {_listed(counts)} examples, not {_listed(facts.sizes)}")
        return f"{source}; INEXACT: {' and '.join(reasons)}" if reasons else source

    return {split: fitted(split, blocks) for split, blocks in splits.items()}, note


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size:,} {split}" for split, size in sizes.items())


def _of_published_shape(name: str, x: np.ndarray, crop: int, source: str) -> np.ndarray:
    wanted = CATALOG[name].x_shape
    if crop and x.shape[1:] != wanted:
        x = np.stack([_cropped(image, crop, wanted[0]) for image in x])
    if x.shape[1:] != wanted:
        shape = f"images have shape {x.shape[1:]}; they must be {wanted}"
        raise ValueError(f"{name}: cannot read {source}: {shape}")
    return x


def _cropped(image: np.ndarray, crop: int, size: int) -> np.ndarray:
    centered_image = centered(Image.fromarray(image), size=crop)
    return pixels(resized(centered_image, size=size, crop=False))


def absence(name: str, crop: int = 0) -> str:
    """One line: what was looked for and where, and the two commands that would help."""
    facts, there = CATALOG[name], prepared_versions(name)
    prepare = f"vaejax data prepare {name}{f' --crop {crop}' if crop else ''}"
    looked = f"not in the cache ({cache.cache_folder() / cache_key(name, crop)})"
    if there:
        formats = ", ".join(file_formats(there[0]))
        looked += f", and {there[0]} is prepared as {formats}, which needs TensorFlow to read"
        ways = f"`{prepare}` with the `prepare` extra installed converts it"
    else:
        looked += f" nor prepared by TFDS ({tfds_folder() / name}/<version>/dataset_info.json; "
        looked += "TFDS_DATA_DIR moves it)"
        ways = f"`{prepare} --download` with the `prepare` extra fetches it"
    reads = f"`{prepare} --from FOLDER` reads {facts.wanted()}"
    return f"{name}: {looked}; {reads}; {ways}"
