"""Image files as blocks of uint8 arrays: a folder of the user's own pictures, read by Pillow."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vaejax.data.arrays import Blocks, Columns

BLOCK = 1_000  # examples in a block, fewer where they take more than _BLOCK_BYTES
_BLOCK_BYTES = 2**28
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Only these decoders: Pillow would hand PostScript, whatever its file is called, to an interpreter.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_MODES = {1: "L", 3: "RGB"}
_VALIDATION = ("validation", "val", "valid")
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(_VALIDATION, "validation")


def image_splits(
    path: Path,
    *,
    size: int = 0,
    crop: bool = True,
    channels: int = 3,
    skip_unreadable: bool = False,
) -> tuple[dict[str, Blocks], list[str]]:
    """Blocks by split of the images below the folder `path`, and the files that were left out.

    With a subfolder train, the splits are train/, validation/ (or val/ or valid/) and test/, each
    where present; without it everything is "train".  Files come in natural order (2 before 10);
    hidden ones are ignored.  Where the images of a split lie in subfolders, those of its first
    level are the classes, numbered in natural order of their names in train, for every split.

    size: 0 keeps images as they are, and they must be of one size; otherwise each becomes size x
    size pixels, `resized`.  channels: 1 (gray) or 3 (RGB), `decoded`.  With skip_unreadable the
    names of unreadable files, relative to `path`, enter the list while the blocks are consumed.

    Raises ValueError, in one line: at once for a bad argument or a folder that is missing, empty or
    laid out otherwise; while blocks are consumed for a file that cannot be read or has another
    size than the first, and for a split without a readable image.
    """
    if channels not in _MODES:
        raise ValueError(f"channels is {channels}; it must be 1 (gray) or 3 (RGB)")
    if size < 0:
        raise ValueError(f"size is {size}; it must be positive, or 0 for images as they are")
    splits, depth = _files_by_split(path)
    labels = _labels(path, splits, depth)
    skipped: list[str] = []
    sizes: dict[tuple[int, int], Path] = {}  # of the images so far, with the first file of each

    def examples(files: list[Path]) -> Iterator[dict[str, Any]]:
        for name, image in _readable(path, files, channels, skipped if skip_unreadable else None):
            image = resized(image, size=size, crop=crop) if size else image
            sizes.setdefault(image.size, name)
            _check_sizes(path, sizes)
            yield {"x": pixels(image)} | ({"labels": np.int64(labels[name])} if labels else {})

    return {split: in_blocks(examples(files)) for split, files in splits.items()}, skipped


def decoded(file: Path | BinaryIO, *, channels: int) -> Image.Image:
    """The first frame of an image file, upright by its EXIF orientation, as 8-bit gray or RGB.

    channels: 1 or 3.  16-bit gray values v become v / 257, rounded; transparent pixels are
    composited on black; color profiles are ignored.  Raises ValueError, in one line, for anything
    else than a complete PNG, JPEG, BMP, GIF, WebP or TIFF image with pixels of at most 16 bits, and
    for one so big that Pillow takes it for a decompression bomb.
    """
    try:
        if isinstance(file, Path) and file.exists() and not file.is_file():
            raise ValueError("it is no file")  # but a pipe, which nobody may fill
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                return _in_eight_bits(ImageOps.exif_transpose(image), _MODES[channels])
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no {', '.join(_FORMATS)} image") from error
    except Exception as error:  # the decoders raise nearly every type on a damaged file
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _in_eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """mode: "L" or "RGB"."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)  # Pillow's own conversion clips at 255
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}); 8 or 16 are allowed")
    elif image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert(mode)


def centered(image: Image.Image, *, size: int) -> Image.Image:
    """The size x size pixels in the middle; the odd pixel left over is right and below.

    Raises ValueError for an image with fewer.
    """
    width, height = image.size
    if size > min(width, height):
        raise ValueError(f"it has {width}x{height} pixels; the crop takes {size}x{size}")
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resized(image: Image.Image, *, size: int, crop: bool) -> Image.Image:
    """size x size pixels, bicubic and antialiased, of the center square if crop, else stretched."""
    square = centered(image, size=min(image.size)) if crop else image
    if square.size == (size, size):
        return square
    return square.resize((size, size), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    """An 8-bit image of mode L or RGB.  -> (height, width, 1 or 3) uint8."""
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def in_blocks(examples: Iterable[dict[str, Any]]) -> Blocks:
    """Consecutive examples {"x": (*X), "labels": ()} stacked, all blocks but the last of a size."""
    block: list[dict[str, Any]] = []
    for example in examples:
        block.append(example)
        if len(block) >= min(BLOCK, max(1, _BLOCK_BYTES // max(1, example["x"].nbytes))):
            yield _stacked(block)
            block = []
    if block:
        yield _stacked(block)


def _stacked(block: list[dict[str, Any]]) -> Columns:
    return {name: np.stack([example[name] for example in block]) for name in block[0]}


def _readable(
    path: Path, files: list[Path], channels: int, skipped: list[str] | None
) -> Iterator[tuple[Path, Image.Image]]:
    """Decoded images with their names; `skipped` takes the names of the others, None refuses."""
    num_skipped = 0
    for index, name in enumerate(files):
        try:
            image = decoded(path / name, channels=channels)
        except ValueError as error:
            if skipped is None:
                place = f"image {index + 1} of {len(files)}"
                hint = "config.datasets.image_folder.skip_unreadable leaves such files out"
                raise ValueError(f"cannot read {path / name} ({place}): {error}; {hint}") from error
            skipped.append(name.as_posix())
            num_skipped += 1
        else:
            yield name, image
    if num_skipped == len(files):
        raise ValueError(f"none of {len(files)} images can be read, {path / files[0]} the first")


def _check_sizes(path: Path, sizes: dict[tuple[int, int], Path]) -> None:
    if len(sizes) > 1:
        (one, first), (other, odd) = sizes.items()
        raise ValueError(
            f"{path / odd} has {other[0]}x{other[1]} pixels, {first} has {one[0]}x{one[1]}; "
            "they must be the same, or config.datasets.image_folder.size given, which resizes"
        )


def _files_by_split(path: Path) -> tuple[dict[str, list[Path]], int]:
    """Image files relative to `path`, and how many parts of their names come before the class."""
    files = image_files(path)
    if not files:
        raise ValueError(f"{path} holds no image; {', '.join(_SUFFIXES)} files are looked for")
    if not (path / "train").is_dir():
        _check_no_split(path, files)
        return {"train": files}, 0
    folders: dict[str, list[Path]] = {name: [] for name in _SPLITS if (path / name).is_dir()}
    for file in files:
        if file.parts[0] not in folders:
            known = ", ".join(_SPLITS)
            raise ValueError(f"{path} has a folder train, but {file} is in none of {known}")
        folders[file.parts[0]].append(file)
    for name, inside in folders.items():
        if not inside:
            raise ValueError(f"{path / name} holds no image; fill or remove it")
    if len(twice := [name for name in _VALIDATION if name in folders]) > 1:
        raise ValueError(f"{path} holds {' and '.join(twice)}; there must be one validation split")
    return {_SPLITS[name]: inside for name, inside in folders.items()}, 1


def _check_no_split(path: Path, files: list[Path]) -> None:
    """Held-out images must not end up as a class to train on."""
    for name in dict.fromkeys(file.parts[0] for file in files if len(file.parts) > 1):
        if name.casefold() in (*_SPLITS, "training", "testing"):
            raise ValueError(
                f"{path} has a folder {name} and none named train; name them train, validation and "
                "test, or any way that is not the name of a split"
            )


def image_files(path: Path) -> list[Path]:
    """Relative to the folder `path`, in an order that does not depend on the file system.

    Raises ValueError when it is no folder, or cannot be listed.
    """
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {state}; it must be a folder of images")
    found = []
    for root, folders, names in os.walk(path, onerror=_unlisted, followlinks=True):
        here = Path(root).resolve()
        folders[:] = [
            name  # a link to a folder around itself would be followed for ever
            for name in folders
            if name[0] != "." and not here.is_relative_to((Path(root) / name).resolve())
        ]
        images = [n for n in names if n[0] != "." and n.lower().endswith(_SUFFIXES)]
        found += [(Path(root) / name).relative_to(path) for name in images]
    return sorted(found, key=lambda file: [_natural(part) for part in file.parts])


def _unlisted(error: OSError) -> None:
    raise ValueError(f"cannot list {error.filename}: {error.strerror}") from error


def _natural(name: str) -> tuple[list[str | int], str]:
    """A sort key in which numbers count as numbers; text and digits alternate in the list."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _labels(path: Path, splits: dict[str, list[Path]], depth: int) -> dict[Path, int]:
    """Class of each file; empty where the images lie flat."""
    files = [file for inside in splits.values() for file in inside]
    nested = [file for file in files if len(file.parts) > depth + 1]
    if not nested:
        return {}
    if len(nested) < len(files):
        flat = next(file for file in files if len(file.parts) == depth + 1)
        both = f"{flat} flat and {nested[0]} in the folder of a class"
        raise ValueError(f"{path} holds {both}; all must be one or the other")
    names = dict.fromkeys(file.parts[depth] for file in splits["train"])
    classes = {name: label for label, name in enumerate(names)}
    for file in files:
        if file.parts[depth] not in classes:
            raise ValueError(f"{path / file} is of class {file.parts[depth]}, unknown to train")
    return {file: classes[file.parts[depth]] for file in files}
