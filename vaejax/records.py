"""JSON of files that anybody may have written: read strictly, and never executed."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LARGEST = 2**26  # bytes of a file
_DEEPEST = 32  # objects and lists within each other


def read_json(path: Path) -> Any:
    """The value in a file.  Raises OSError, and ValueError as `parsed` and for a huge file."""
    if path.exists() and not path.is_file():  # a pipe, or a device without an end
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST / 1e6:.0f} MB")
    return parsed(content)


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text, in which NaN and Infinity are numbers.

    Raises ValueError for what is no JSON, for a key twice and for what is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level, depth = _items(value), 1
    while level:
        if depth == _DEEPEST:
            raise ValueError("it is nested too deeply")
        level = [item for each in level if isinstance(each, (dict, list)) for item in _items(each)]
        depth += 1
    return value


def check_kinds(found: Any, kinds: Mapping[str, type], optional: bool = False) -> None:
    """Raise ValueError unless `found` is an object whose values are of these kinds.

    A float may be written as an integer.  optional: whether keys may lack.
    """
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    for key, kind in kinds.items():
        if key not in found and not optional:
            raise ValueError(f"it lacks {key!r}")
        value = found.get(key, kind())
        if type(value) is not kind and not (kind is float and type(value) is int):
            shown = repr(value)[:60]
            raise ValueError(f"its {key!r} is {shown}; it must be of type {kind.__name__}")
        if kind is float and type(value) is int and abs(value) > sys.float_info.max:
            raise ValueError(f"its {key!r} is too large for a float")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
