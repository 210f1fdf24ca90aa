"""Public data sets from the files that their authors published: which files, and their SHA-256.

Nothing is downloaded, and nothing that a file contains is executed.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vaejax.data.arrays import Blocks, Columns
from vaejax.data.catalog import CATALOG
from vaejax.data.formats import LARGEST, amat, cifar, contents, hdf5, idx, mat, members, named, npz
from vaejax.data.images import centered, decoded, in_blocks, pixels, resized


class Found(NamedTuple):
    """The files of a data set, present but not read."""

    about: str
    files: tuple[Path, ...]  # those whose SHA-256 is compared with the published one
    splits: dict[str, Blocks]


Reader = Callable[[str, Path, int], Found]  # of the name, the path and the crop of `raw_splits`


def raw_splits(
    name: str, path: Path, *, verify: bool = True, crop: int = 140
) -> tuple[dict[str, Blocks], str]:
    """Blocks by split of the public data set `name`, and one line on the provenance of its files.

    path: the folder that holds the files under their published names, or the file itself where one
    is enough.  crop: pixels of the center crop, of celeb_a only.  The numbers of examples are not
    compared with the catalog.

    Raises ValueError, in one line: at once for an unknown name, a bad crop, a missing file, or with
    `verify` a SHA-256 other than the published one; while blocks are consumed for a malformed file.
    """
    if name not in READERS:
        raise ValueError(f"no raw files are known for {name!r}; data sets: {', '.join(READERS)}")
    if crop < 1:
        raise ValueError(f"crop is {crop}; it must be a positive number of pixels")
    found = READERS[name](name, Path(path), crop)
    published = CATALOG[name].files
    known = [file for file in found.files if published.get(file.name)]
    others = [file.name for file in found.files if file not in known]
    is_as_published = [_is_as_published(file, published[file.name], verify) for file in known]
    if not all(is_as_published):
        return found.splits, f"{found.about}, SHA-256 not as published (not verified)"
    if known and not others:
        return found.splits, f"{found.about}, SHA-256 as published"
    which = ", ".join(others) if known else "it"
    return found.splits, f"{found.about} (no SHA-256 is published for {which})"


def _is_as_published(file: Path, published: str, verify: bool) -> bool:
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    if verify and sha256 != published:
        hint = "`--unverified` accepts it"
        raise ValueError(f"{file} has SHA-256 {sha256}; the published one is {published}; {hint}")
    return sha256 == published


def _absent(name: str, path: Path, wanted: str) -> ValueError:
    if path.is_dir():
        return ValueError(f"{name}: {path} does not hold {wanted}")
    state = "is another file" if path.exists() else "does not exist"
    return ValueError(f"{name}: {path} {state}; give a folder that holds {wanted}")


def _one_of(path: Path, names: Iterable[str]) -> Path | None:
    """The first of `names` in the folder `path`, or `path` if it is a file of such a name."""
    if path.is_file():
        return path if path.name in names else None
    return next((path / name for name in names if (path / name).is_file()), None)


def _all_of(name: str, path: Path, files: Iterable[str]) -> tuple[Path, ...]:
    if missing := [file for file in files if not (path / file).is_file()]:
        raise _absent(name, path, ", ".join(missing))
    return tuple(path / file for file in files)


def _mnist_like(name: str, path: Path, _: int) -> Found:
    """Four idx files, also unpacked, or spelled images.idx3 in place of images-idx3."""
    files = []
    for file in CATALOG[name].files:
        dotted = file.replace("-idx", ".idx")
        spelled = (file, file.removesuffix(".gz"), dotted, dotted.removesuffix(".gz"))
        found = _one_of(path, spelled) if path.is_dir() else None
        if found is None:
            raise _absent(name, path, f"{file} (nor {', '.join(spelled[1:])})")
        files.append(found)
    shape = CATALOG[name].x_shape[:2]
    splits = {"train": idx(files[0], files[1], shape), "test": idx(files[2], files[3], shape)}
    return Found("idx files", tuple(files), splits)


def _binarized_mnist(name: str, path: Path, _: int) -> Found:
    files = _all_of(name, path, CATALOG[name].files)
    pairs = zip(CATALOG[name].sizes, files, strict=True)
    return Found(".amat files", files, {split: amat(file) for split, file in pairs})


def _svhn_cropped(name: str, path: Path, _: int) -> Found:
    files = _all_of(name, path, CATALOG[name].files)
    pairs = zip(CATALOG[name].sizes, files, strict=True)
    return Found(".mat files", files, {split: mat(file) for split, file in pairs})


def _cifar10(name: str, path: Path, _: int) -> Found:
    """The binary or the python version, as .tar.gz or extracted."""
    pickles = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    binary = [f"{batch}.bin" for batch in pickles]
    if archive := _one_of(path, CATALOG[name].files):
        batches = binary if "binary" in archive.name else pickles
        parts = {"train": batches[:5], "test": batches[5:]}
        splits = {split: cifar(members(archive, part)) for split, part in parts.items()}
        return Found(archive.name, (archive,), splits)
    for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
        for batches in (binary, pickles):
            if any((folder / batch).is_file() for batch in batches):
                files = _all_of(name, folder, batches)
                parts = {"train": files[:5], "test": files[5:]}
                splits = {split: cifar(contents(part)) for split, part in parts.items()}
                return Found("extracted files", files, splits)
    raise _absent(name, path, f"{' or '.join(CATALOG[name].files)}, nor what is in them")


def _celeb_a(name: str, path: Path, crop: int) -> Found:
    """The official partition by number; a center crop, then 64x64 by bicubic interpolation.

    arXiv 1911.10506 does not say its crop; 140 pixels are those of arXiv 1903.12436.
    """
    facts = CATALOG[name]
    folders = (path / "img_align_celeba", path)
    source = _one_of(path, facts.files)
    source = source or next((folder for folder in folders if any(folder.glob("*.jpg"))), None)
    if source is None:
        wanted = " or ".join([*facts.files, "img_align_celeba", "000001.jpg and so on"])
        raise _absent(name, path, wanted)
    ends = [0, *accumulate(facts.sizes.values())]
    names = [f"{number:06d}.jpg" for number in range(1, ends[-1] + 1)]
    splits = {
        split: in_blocks(_faces(source, names, range(start, end), crop, facts.x_shape[0]))
        for split, (start, end) in zip(facts.sizes, pairwise(ends), strict=True)
    }
    if source.is_file():
        return Found(source.name, (source,), splits)
    return Found("folder of images", (), splits)


def _faces(source: Path, names: list[str], part: range, crop: int, size: int) -> Iterator[Columns]:
    """Those of the images `names` that are in `part`; the folder or .zip must hold all of them."""
    with named(source), ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(source)) if source.is_file() else None
        inside = archive.namelist() if archive else os.listdir(source)
        files = {PurePosixPath(file).name: file for file in inside}
        if missing := [name for name in names if name not in files]:
            raise ValueError(f"it lacks {len(missing)} of {len(names)} images, first {missing[0]}")
        for name in (names[index] for index in part):
            with named(Path(name)):
                packed = archive and archive.open(files[name]).read(LARGEST)
                file = source / name if packed is None else BytesIO(packed)
                image = decoded(file, channels=3)
                if image.size != (size, size):
                    image = resized(centered(image, size=crop), size=size, crop=False)
            yield {"x": pixels(image)}


def _dsprites(name: str, path: Path, _: int) -> Found:
    """The .npz or the .hdf5 file, whichever exists; the factor color, always 0, is left out."""
    facts = CATALOG[name]
    file = _one_of(path, facts.files)
    if file is None:
        raise _absent(name, path, " or ".join(facts.files))
    shapes = facts.x_shape, len(facts.factors)
    if file.suffix == ".npz":
        blocks = npz(file, *shapes)
    else:
        blocks = hdf5(file, "imgs", "latents/classes", *shapes, lambda classes: classes[:, 1:])
    return Found(f"dSprites {file.suffix}", (file,), {"train": blocks})


def _shapes3d(name: str, path: Path, _: int) -> Found:
    """An HDF5 file; a factor is the index of a value among the sorted ones of its column."""
    facts = CATALOG[name]
    file = _one_of(path, facts.files)
    if file is None:
        raise _absent(name, path, ", ".join(facts.files))

    def indices(labels: np.ndarray) -> np.ndarray:
        columns = [np.unique(column, return_inverse=True)[1] for column in labels.T]
        return np.stack(columns, axis=1)

    blocks = hdf5(file, "images", "labels", facts.x_shape, len(facts.factors), indices)
    return Found("HDF5 file", (file,), {"train": blocks})


READERS: dict[str, Reader] = {
    "mnist": _mnist_like,
    "fashion_mnist": _mnist_like,
    "binarized_mnist": _binarized_mnist,
    "svhn_cropped": _svhn_cropped,
    "cifar10": _cifar10,
    "celeb_a": _celeb_a,
    "dsprites": _dsprites,
    "shapes3d": _shapes3d,
}
