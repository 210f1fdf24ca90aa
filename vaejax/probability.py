"""distrax, without the TensorFlow that it would import wherever that is installed.

Its substrate, tensorflow_probability on JAX, tries to import TensorFlow and does without: the try
costs seconds, and memory of every accelerator that TensorFlow sees.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    absent = "tensorflow" not in modules
    if absent:
        modules["tensorflow"] = None  # an import of it now fails as if it were not installed
    try:
        yield
    finally:
        if absent:
            del modules["tensorflow"]


with _without_tensorflow():
    import distrax

__all__ = ["distrax"]
