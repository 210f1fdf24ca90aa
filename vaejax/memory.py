"""What does not fit into memory: told before it is tried, and known when it happens."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from typing import IO, Any

_OF_GROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


def machine_memory() -> int:
    """Bytes of the machine, or of the container that it is seen from."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no group, or one without a limit, "max"
        found = min(found, int(_OF_GROUP.read_text()))
    return found


def check_memory(needed: float, what: str, knobs: str, available: float | None = None) -> None:
    """Raise ValueError where `what` needs more bytes than there are, by default in the machine.

    An operating system that promises more than it has would end the process without a word.
    """
    available = machine_memory() if available is None else available
    if needed > available:
        sizes = f"{needed / 1e9:,.1f} GB of memory, and there are {available / 1e9:,.1f} GB"
        raise ValueError(f"{what} would take {sizes}; {knobs}")


def check_archive(file: IO[bytes]) -> None:
    """Raise ValueError where a .zip says that it unpacks to more than all memory; rewinds it."""
    with zipfile.ZipFile(file) as archive:  # which gives no more of a file than that
        size = sum(inside.file_size for inside in archive.infolist())
    check_memory(size, "what it unpacks to", "it may be no honest file")
    file.seek(0)


def program_memory(compiled: Any) -> dict[str, int]:
    """Bytes that a compiled program needs on one device; what it overwrites counts once."""
    found = compiled.memory_analysis()
    arguments, results = found.argument_size_in_bytes, found.output_size_in_bytes
    sizes = {
        "arguments": arguments,
        "results": results - found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
    return {**sizes, "total": sum(sizes.values())}


def is_exhausted(error: BaseException | None) -> bool:
    """Whether an error is, or came of, a lack of memory on the host or on a device."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
