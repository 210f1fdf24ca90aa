"""Programs compiled once and kept: the next run of the same kind starts without compiling."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from vaejax.data.cache import cache_folder

_LARGEST = 2**29  # bytes of the folder when a run starts; a program takes up to about one million


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles in `compiled`, beside the cached data, from now on.

    JAX's own settings (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE) take precedence.
    A folder that cannot be written is left alone, and everything compiles anew.  The key of a
    program holds the versions, the options and the features of the processor.
    """
    jax_settings: Any = jax.config
    if jax_settings.jax_compilation_cache_dir or not jax_settings.jax_enable_compilation_cache:
        return
    folder = cache_folder().with_name("compiled")
    if not _is_writable(folder):
        return
    _remove_oldest(folder, _LARGEST)
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,  # small ones take 20 ms each, and add up
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # without a folder, JAX decided at its first program


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # a full disk refuses it
    except OSError:
        return False
    return True


def _remove_oldest(folder: Path, largest: int) -> None:
    """Remove files, the oldest first, until `largest` bytes are left."""
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed by another process
            if path.is_file():
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    size = sum(bytes_ for _, bytes_, _ in files)
    for _, bytes_, path in sorted(files):
        if size <= largest:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        size -= bytes_
