"""File formats of published data sets: a file -> blocks of arrays.

Nothing that a file contains is executed: a pickle is only read as a list of opcodes.  Whatever is
malformed is a ValueError of one line that names the file, raised while the blocks are consumed.
"""

from __future__ import annotations

import gzip
import importlib
import math
import pickletools
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from vaejax.data.arrays import Blocks
from vaejax.data.images import BLOCK

LARGEST = 2**28  # bytes of a file within a file
Contents = Iterator[tuple[Path, bytes]]  # names of files, and what is in them


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Whatever a library raises on a malformed file becomes a ValueError of one line with it."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{file}: {kind}{' '.join(str(error).split())}") from error


def idx(images: Path, labels: Path, image_shape: tuple[int, ...]) -> Blocks:
    """The two idx files of a split, as they are or .gz.  x: (n, *image_shape, 1)."""
    x, y = _idx(images, image_shape), _idx(labels, ())
    with named(labels):
        yield from _sliced(x[..., None], y)


def _idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    opening = gzip.open if file.suffix == ".gz" else open
    with named(file), opening(file, "rb") as opened:
        raw = opened.read(LARGEST)  # more is no data set that has this form
        magic, start = bytes([0, 0, 8, 1 + len(shape)]), 8 + 4 * len(shape)
        if raw[:4] != magic or len(raw) < start:
            raise ValueError(f"it begins with {raw[:start].hex()}; {magic.hex()} and sizes must")
        num, *sizes = np.frombuffer(raw[4:start], ">u4").tolist()
        if tuple(sizes) != shape:
            raise ValueError(f"its examples have shape {tuple(sizes)}; it must be {shape}")
        if len(raw) != (wanted := start + num * math.prod(shape)):
            raise ValueError(f"it has {len(raw)} bytes; {num} examples must have {wanted}")
        return np.frombuffer(raw[start:], np.uint8).reshape(num, *shape)


def amat(file: Path) -> Blocks:
    """Text, a line of 784 digits 0 or 1 for each example.  x: (n, 28, 28, 1), 0 or 1."""
    line = np.frombuffer((b"0 " * 784)[:-1] + b"\n", np.uint8)
    with named(file), file.open("rb") as opened:
        while text := opened.read(BLOCK * len(line)):
            if len(text) % len(line):
                raise ValueError(f"it has an odd line; each must have {len(line)} bytes")
            bits = np.frombuffer(text, np.uint8).reshape(-1, len(line)) ^ line
            if bits[:, ::2].max() > 1 or bits[:, 1::2].any():
                raise ValueError("its lines must be 784 digits 0 or 1 with single spaces between")
            yield {"x": bits[:, ::2].reshape(-1, 28, 28, 1)}


def mat(file: Path) -> Blocks:
    """MATLAB's X (32, 32, 3, N) and y (N, 1) of 1..10.  x: (n, 32, 32, 3); label 10 becomes 0."""
    from scipy.io import loadmat

    with named(file):
        content = loadmat(str(file), variable_names=["X", "y"])
        x, y = content["X"], content["y"]
        if x.shape[:-1] != (32, 32, 3) or x.dtype != np.uint8:
            raise ValueError(f"its X is {x.shape} {x.dtype}; it must be (32, 32, 3, N) uint8")
        if not np.isin(y, range(1, 11)).all():
            raise ValueError("its y holds a label that is none of 1..10")
        yield from _sliced(np.moveaxis(x, -1, 0), y.ravel() % 10)


def contents(files: Iterable[Path]) -> Contents:
    """Files as they are."""
    yield from ((file, file.read_bytes()) for file in files)


def members(archive: Path, names: Iterable[str]) -> Contents:
    """Files in a .tar.gz, which is read once and not extracted; in the order of their names."""
    found: dict[str, bytes] = {}
    with named(archive), tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            name = PurePosixPath(member.name).name
            if name in names and (inside := opened.extractfile(member)):
                found[name] = inside.read(LARGEST)
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"it does not hold {', '.join(missing)}")
    yield from ((archive / name, found[name]) for name in names)


def cifar(batches: Contents) -> Blocks:
    """Rows of a label and 3072 pixels, channels first (.bin), or pickles.  x: (n, 32, 32, 3)."""
    for file, raw in batches:
        with named(file):
            if file.suffix == ".bin":
                rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3072)
                x, y = rows[:, 1:], rows[:, 0]
            else:
                x, y = _pickled(raw)
            yield from _sliced(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), y)


def _pickled(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n * 3072,) and labels (n,) of a pickled dictionary, by its opcodes."""
    labels, strings, state = [], [], ""
    for opcode, value, _ in pickletools.genops(raw):
        if opcode.name in ("MARK", "APPENDS", "APPEND", "MEMOIZE") or opcode.name.endswith("PUT"):
            continue
        if state == "list" and isinstance(value, int) and "INT" in opcode.name:
            labels.append(value)
            continue
        if state == "key" and opcode.name == "EMPTY_LIST" and not labels:
            state = "list"
            continue
        state = "key" if value == "labels" else ""
        # Protocol 2 writes bytes as text of one byte a character.
        if isinstance(value, str | bytes) and len(value) >= 3072:
            strings.append(value if isinstance(value, bytes) else value.encode("latin-1"))
    sizes = [len(string) for string in strings]
    if not labels or sizes != [3072 * len(labels)]:
        given = f"it holds {len(labels)} labels and long strings of {sizes} bytes"
        raise ValueError(f"{given}; it must be one string of 3072 bytes for each label")
    return np.frombuffer(strings[0], np.uint8), np.array(labels)


def npz(file: Path, x_shape: tuple[int, ...], num_factors: int) -> Blocks:
    """dSprites' imgs and latents_classes; the images are never in memory all at once."""
    with named(file), zipfile.ZipFile(file) as archive:
        with archive.open("latents_classes.npy") as opened:
            shape, dtype = _npy_header(opened)
            factors = np.frombuffer(opened.read(LARGEST), dtype).reshape(shape)[:, 1:]
        with archive.open("imgs.npy") as opened:
            shape, dtype = _npy_header(opened)
            factors = _factors(factors, num_factors, (*shape, 1), dtype, x_shape)
            for start in range(0, len(factors), BLOCK):
                part = factors[start : start + BLOCK]
                x = np.frombuffer(opened.read(len(part) * math.prod(x_shape)), np.uint8)
                yield {"x": x.reshape(len(part), *x_shape), "factors": part}
            if opened.read(1):  # the end, where the checksum is compared
                raise ValueError("its imgs go on behind their last image")


def _npy_header(opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Python 2 wrote it
        if np.lib.format.read_magic(opened) == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(opened)
        else:
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(opened)
    if is_fortran:
        raise ValueError("its arrays are in Fortran order; they must be in C order")
    return shape, dtype


def hdf5(
    file: Path,
    images: str,
    labels: str,
    x_shape: tuple[int, ...],
    num_factors: int,
    factors_of: Callable[[np.ndarray], np.ndarray],
) -> Blocks:
    """The data sets `images` (N, *X) and `labels` (N, ...) of an HDF5 file, the images by blocks.

    Raises ValueError at once where h5py is not installed.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        hint = "install the `prepare` extra"
        raise ValueError(f"{file} is read by h5py, which is not installed: {hint}") from error

    def blocks() -> Blocks:
        with named(file), h5py.File(file, "r") as opened:
            x = opened[images]
            shape = x.shape if len(x.shape) > len(x_shape) else (*x.shape, 1)
            factors = factors_of(opened[labels][()])
            factors = _factors(factors, num_factors, shape, x.dtype, x_shape)
            # HDF5 decompresses whole chunks, so a block is not much shorter than a chunk.
            step = max(BLOCK, min(x.chunks[0], 10 * BLOCK)) if x.chunks else BLOCK
            for start in range(0, len(factors), step):
                part = factors[start : start + step]
                rows = x[start : start + step]
                yield {"x": rows.reshape(len(part), *x_shape), "factors": part}

    return blocks()


def _factors(
    factors: np.ndarray,
    num_factors: int,
    shape: tuple[int, ...],
    dtype: Any,
    x_shape: tuple[int, ...],
) -> np.ndarray:
    """Factors as int64, after a look at them and at the shape and dtype of the images."""
    if factors.ndim != 2 or factors.shape[1] != num_factors or factors.dtype.kind not in "iu":
        given = f"{factors.dtype} {factors.shape}"
        raise ValueError(f"its factors are {given}; they must be integers (N, {num_factors})")
    if dtype != np.uint8 or shape != (len(factors), *x_shape):
        wanted = f"uint8 {(len(factors), *x_shape)}"
        raise ValueError(f"its images are {dtype} {shape}; they must be {wanted}")
    return factors.astype(np.int64)


def _sliced(x: np.ndarray, labels: np.ndarray) -> Blocks:
    """x: (N, *X); labels: (N,) of ten classes, checked."""
    if labels.shape != (len(x),):
        raise ValueError(f"it has {labels.size} labels; there must be {len(x)}, one for each image")
    if len(x) and not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"its labels are {labels.min()}..{labels.max()}; they must be in 0..9")
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        yield {"x": x[part], "labels": labels[part].astype(np.int64)}
