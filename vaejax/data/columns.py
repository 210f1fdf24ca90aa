"""The columns of one split, written to .npy files block by block: no split need fit into memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from vaejax.data.arrays import Blocks, Columns, Part, pieces
from vaejax.data.splits import canonical_order, order_keys

Progress = Callable[[int], None]  # is told how many examples are done


def write_split(
    stem: Path, name: str, blocks: Blocks, canonical: bool, progress: Progress
) -> dict[str, Any]:
    """Write `<stem>.<kind>.npy` for every kind of column; the last part of `stem` is the split.

    -> "<split>.<kind>" -> shape, dtype and SHA-256.  Raises ValueError, in one line, for a split
    without examples and blocks that do not fit together.
    """
    where = f"{name}: {stem.name}"
    files: dict[str, _ArrayFile] = {}
    keys = []
    with contextlib.ExitStack() as stack:
        for columns in blocks:
            _check_block(where, columns, files)
            if canonical:
                keys.append(order_keys(columns))
            for kind, rows in columns.items():
                if kind not in files:
                    path = stem.with_name(f"{stem.name}.{kind}.npy")
                    files[kind] = stack.enter_context(_ArrayFile(path, rows))
                files[kind].append(rows)
            progress(files["x"].count)
        if not files or not files["x"].count:
            raise ValueError(f"{where} has no example")
    if keys:
        order = canonical_order(np.concatenate(keys))
        if (order != np.arange(len(order))).any():
            files = {kind: _reordered(file, order) for kind, file in files.items()}
    return {f"{stem.name}.{kind}": file.described() for kind, file in files.items()}


def _check_block(where: str, columns: Columns, files: Mapping[str, _ArrayFile]) -> None:
    lengths = {kind: len(rows) for kind, rows in columns.items()}
    if "x" not in lengths or (files and lengths.keys() != files.keys()):
        found, wanted = ", ".join(lengths), ", ".join(files or ["x"])
        raise ValueError(f"{where} has a block of {found or 'nothing'}; it must be of {wanted}")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where} has a block of {lengths}; there must be one per example")
    for kind, rows in columns.items():
        if rows.dtype.kind not in "biuf":
            allowed = "it must be bool, integer or float"
            raise ValueError(f"{where} has {kind} of dtype {rows.dtype}; {allowed}")
        if kind in files and files[kind].like != (rows.shape[1:], rows.dtype):
            shape, dtype = files[kind].like
            found = f"{rows.shape[1:]} {rows.dtype} after {shape} {dtype}"
            raise ValueError(f"{where} has {kind} of {found}; all must be alike")


def _reordered(file: _ArrayFile, order: np.ndarray) -> _ArrayFile:
    rows = Part(np.lib.format.open_memmap(file.path, mode="r"), order)
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
        self.like = self._shape, self._dtype = like.shape[1:], like.dtype
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = path.open("wb")

    def _write_header(self) -> None:
        # numpy pads the header for a growing first axis, so that its length does not change.
        described = {"descr": self._dtype.str, "fortran_order": False}
        shape = (self.count, *self._shape)
        np.lib.format.write_array_header_1_0(self._file, {**described, "shape": shape})

    def append(self, rows: np.ndarray) -> None:
        """rows: (n, *X) of the shape and dtype that it was opened for."""
        if not self._file.tell():
            self._write_header()
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
