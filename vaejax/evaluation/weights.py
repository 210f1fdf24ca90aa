"""Arrays by name from a file of weights: both formats that PyTorch has written, and .npz.

Nothing that a file contains is executed.  The pickles in a file of PyTorch are read opcode by
opcode, by a machine that knows constants, containers and tensors, and refuses whatever else.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.formats import named
from vaejax.memory import check_archive

# The first of the five pickles in the format before the .zip, a number.
_MAGIC = b"\x80\x02\x8a\n" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
_TYPES = {
    "Half": "<f2",
    "Float": "<f4",
    "Double": "<f8",
    "Byte": "u1",
    "Char": "i1",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
}


class Storage(NamedTuple):
    """A run of `count` numbers somewhere else in the file."""

    key: str
    dtype: np.dtype
    count: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides are in numbers, not in bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def weights_in(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary by their names, whichever format the file has.

    Raises ValueError, in one line, for a file that is none of these or not whole, and for a pickle
    that asks for anything but tensors.
    """
    with named(path):
        if not zipfile.is_zipfile(path):
            return _of_pickles(BytesIO(path.read_bytes()))
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) == 1:
                return _of_archive(archive, pickles[0].removesuffix("data.pkl"))
        with path.open("rb") as stream:
            check_archive(stream)
            return dict(np.load(stream, allow_pickle=False))


def _of_archive(archive: zipfile.ZipFile, folder: str) -> dict[str, np.ndarray]:
    """The format of today: a .zip of a pickle and, for every storage, a file."""
    # They are stored as they are; what were compressed might become arbitrarily large.
    if packed := [each.filename for each in archive.infolist() if each.compress_type]:
        raise ValueError(f"its {packed[0]} is compressed; PyTorch compresses nothing")
    if f"{folder}byteorder" in archive.namelist():
        _check_order(archive.read(f"{folder}byteorder") == b"little")
    tensors = _tensors(_unpickled(BytesIO(archive.read(f"{folder}data.pkl"))))
    keys = {tensor.storage.key for tensor in tensors.values()}
    return _arrays(tensors, {key: archive.read(f"{folder}data/{key}") for key in keys})


def _of_pickles(stream: BytesIO) -> dict[str, np.ndarray]:
    """The format before: magic number, version, system, tensors and keys; then the storages."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is neither a file of PyTorch nor an .npz")
    _, system, tensors, keys = (_unpickled(stream) for _ in range(4))
    _check_order(isinstance(system, dict) and system.get("little_endian") is True)
    tensors = _tensors(tensors)
    sizes = {each.storage.key: each.storage.dtype.itemsize for each in tensors.values()}
    if not isinstance(keys, list) or set(sizes) - set(map(str, keys)):
        raise ValueError("its list of storages lacks some of its tensors'")
    contents = {}
    for key in keys:
        if key not in sizes:
            raise ValueError(f"its storage {str(key)[:20]!r} belongs to no tensor")
        count = int.from_bytes(stream.read(8), "little")
        contents[key] = stream.read(count * sizes[key])
    return _arrays(tensors, contents)


def _check_order(is_little: bool) -> None:
    if not is_little:
        raise ValueError("its numbers are not little-endian")


def _tensors(pickled: Any) -> dict[str, Tensor]:
    if not isinstance(pickled, dict):
        raise ValueError(f"it holds no dictionary of tensors: {type(pickled).__name__}")
    tensors = {name: value for name, value in pickled.items() if isinstance(value, Tensor)}
    if not all(isinstance(name, str) for name in tensors):
        raise ValueError("it holds tensors whose names are no text")
    return tensors


def _arrays(tensors: Mapping[str, Tensor], contents: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Views of the storages, each within its storage."""
    found = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        if len(contents[storage.key]) != storage.count * storage.dtype.itemsize:
            raise ValueError(
                f"the storage of {name} has {len(contents[storage.key])} bytes; "
                f"{storage.count} numbers of {storage.dtype.itemsize} bytes must be there"
            )
        if min((offset, *shape, *strides), default=0) < 0 or len(shape) != len(strides):
            raise ValueError(f"{name} has shape {shape} and strides {strides}")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= storage.count:
            raise ValueError(f"{name} reaches beyond the {storage.count} numbers of its storage")
        flat = np.frombuffer(contents[storage.key], storage.dtype)[offset:]
        steps = [step * storage.dtype.itemsize for step in strides]
        found[name] = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
    return found


def _unpickled(stream: BytesIO) -> Any:
    """What the next pickle in the stream holds, if that is constants, containers and tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    operation: tuple[Any, Any, int | None]
    for operation in pickletools.genops(stream):
        name, value = operation[0].name, operation[1]
        if name in _LITERALS:
            stack.append(value)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "GLOBAL":
            if value not in _GLOBALS:
                raise ValueError(f"its pickle asks for {value[:60]!r}; it may hold only tensors")
            stack.append(_GLOBALS[value])
        elif name in _OPERATIONS:
            _OPERATIONS[name](stack)
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle has the opcode {name}; it may hold only tensors")
    return stack.pop()


def _marked(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, which goes too."""
    last = len(stack) - 1 - stack[::-1].index(_MARK)
    above = stack[last + 1 :]
    del stack[last:]
    return above


def _put_tuple(stack: list[Any], size: int | None = None) -> None:
    items = _marked(stack) if size is None else [stack.pop() for _ in range(size)][::-1]
    stack.append(tuple(items))


def _put_items(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict):
        raise ValueError(f"its pickle sets items of a {type(stack[-1]).__name__}")
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _put_elements(stack: list[Any], elements: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError(f"its pickle appends to a {type(stack[-1]).__name__}")
    stack[-1].extend(elements)


def _call(stack: list[Any]) -> None:
    """One of our own functions in _GLOBALS: no other callable can be on the stack."""
    function, arguments = stack[-2:]
    if not callable(function):
        raise ValueError("its pickle calls what is no function")
    stack[-2:] = [function(*arguments)]


def _storage(identity: Any) -> Storage:
    """Of ("storage", type, key, device, count), and with None as sixth in the format before."""
    if not (
        isinstance(identity, tuple)
        and len(identity) in (5, 6)
        and identity[0] == "storage"
        and isinstance(identity[1], np.dtype)
        and all(more is None for more in identity[5:])
    ):
        raise ValueError("its pickle refers to what is no storage")
    _, dtype, key, _, count = identity[:5]
    return Storage(str(key), dtype, int(count))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("its pickle makes a tensor of what is no storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    return dict(items)


# All that a pickle may name, and what stands for it here.
_GLOBALS: dict[str, Callable[..., Any] | np.dtype] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}Storage": np.dtype(dtype) for name, dtype in _TYPES.items()},
}

_MARK = object()
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LITERALS |= {"BINUNICODE", "BINSTRING", "SHORT_BINSTRING"}  # those of Python 2 as well
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_OPERATIONS: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": _put_tuple,
    "TUPLE1": lambda stack: _put_tuple(stack, 1),
    "TUPLE2": lambda stack: _put_tuple(stack, 2),
    "TUPLE3": lambda stack: _put_tuple(stack, 3),
    "SETITEM": lambda stack: _put_items(stack, [stack.pop(), stack.pop()][::-1]),
    "SETITEMS": lambda stack: _put_items(stack, _marked(stack)),
    "APPEND": lambda stack: _put_elements(stack, [stack.pop()]),
    "APPENDS": lambda stack: _put_elements(stack, _marked(stack)),
    "REDUCE": _call,
    "BUILD": lambda stack: stack.pop(),  # attributes of a state dictionary: versions of modules
    "BINPERSID": lambda stack: stack.append(_storage(stack.pop())),
}
