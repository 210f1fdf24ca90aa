"""Configs as Python files, as JSON, and as the memory of a run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vaejax.config.lookup import nearest, validate
from vaejax.records import parsed, read_json

# Beginnings of keys, as `differing_keys` writes them.
_PLACES = (
    "placement:",
    "convolutions:",
    "steps_per_dispatch:",
    "datasets.arrays.path:",
    "datasets.image_folder.path:",
    "datasets.tfds.data_dir:",
)
_MAY_CHANGE = (*_PLACES, "recovery:", "recoveries.")  # while a run is interrupted
_DATA = (*_PLACES, "dataset:", "datasets.", "data_sha256:")


def load_config(path: str | Path) -> ConfigDict:
    """The config of `file.py`, `file.py:preset` (its `get_config`) or `config.json`.

    Raises ValueError when there is no such file or it holds no config.

    >>> vaejax.load_config("configs/digits.py").dataset
    'digits'
    """
    name, _, preset = str(path).partition(":")
    if name.endswith(".json"):
        return _read_json(_existing(name))
    module = executed(name)
    try:
        config = module.get_config(preset) if preset else module.get_config()
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{name}: get_config returned no ConfigDict but {config!r}")
    return config.lock()


def executed(path: str | Path) -> Any:
    """The module of a Python file, such as one that puts parts of the user's own into our tables.

    It may import what lies beside it.  Raises ValueError when there is no such file, it fails or it
    exits.
    """
    file = _existing(path)
    spec = importlib.util.spec_from_file_location(f"vaejax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # last: none of its names hides an installed one
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    return module


def _existing(path: str | Path) -> Path:
    file, folder = Path(path), Path(path).parent
    if file.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a file")
    if not file.is_file():
        near = nearest(str(file), map(str, folder.iterdir())) if folder.is_dir() else ""
        raise ValueError(f"no file {str(path)!r}{near}")
    return file


def _failed(path: str | Path, error: BaseException) -> ValueError:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return ValueError(f"{path}: {kind}{error}")


def overridden(
    config: ConfigDict,
    arguments: Sequence[str],
    check: Callable[[ConfigDict], None] = validate,
) -> ConfigDict:
    """`config` with flags like --config.prior=decoupled applied, validated and locked.

    Raises ValueError for an unknown key, or a value of the wrong type.
    """
    for argument in arguments:
        if argument.startswith("--config."):
            check_key(config, argument.partition("=")[0].removeprefix("--config."))
    flag_values = flags.FlagValues()
    argv = ["vaejax", *arguments]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=flag_values, sys_argv=argv)
        flag_values(argv)
    except (flags.Error, TypeError) as error:
        raise ValueError(str(error)) from error
    check(config)
    return config.lock()


def check_key(config: ConfigDict, dotted: str) -> None:
    """Raise ValueError when `dotted` (e.g. "priors.decoupled.width") is no key of the config."""
    node: Any = config
    for depth, part in enumerate(dotted.split(".")):
        path = ".".join(["config", *dotted.split(".")[:depth]])
        if not isinstance(node, ConfigDict):
            raise ValueError(f"{path} is a value; it has no key {part!r}")
        if part not in node:
            raise ValueError(f"unknown key {path}.{part}{nearest(part, node.keys())}")
        node = node[part]


def differing_keys(one: ConfigDict, other: ConfigDict) -> list[str]:
    """Dotted keys whose values differ, as 'key: a != b', sorted."""
    flat_one, flat_other = _flat(one.to_dict()), _flat(other.to_dict())
    keys = sorted(flat_one.keys() | flat_other.keys())
    pairs = [(key, flat_one.get(key), flat_other.get(key)) for key in keys]
    return [f"{key}: {a!r} != {b!r}" for key, a, b in pairs if a != b]


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def config_sha256(config: ConfigDict) -> str:
    """Of its JSON text."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote, validated.  Raises ValueError."""
    return _from_tree(parsed(text))


def _from_tree(tree: Any) -> ConfigDict:
    if not isinstance(tree, dict):
        raise ValueError("a config is a JSON object")
    config = ConfigDict(_tuples(tree))
    validate(config)
    return config.lock()


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _read_json(path: Path) -> ConfigDict:
    try:
        return _from_tree(read_json(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def saved_config(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`.  Raises ValueError where none can be read."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"no run in {workdir}: {path} does not exist")
    return _read_json(path)


def check_same_config(workdir: Path, config: ConfigDict, other_data: bool = False) -> None:
    """Raise ValueError, naming the differing keys, unless `workdir` holds a run of `config`.

    Where the data lie, how they are fed and how convolutions are computed does not count; with
    `other_data`, neither does anything else about the data.
    """
    saved, given = saved_config(workdir), from_json(to_json(config))
    ignored = _DATA if other_data else _MAY_CHANGE
    if not given.data_sha256:  # filled in by the run
        ignored = (*ignored, "data_sha256:")
    differing = [line for line in differing_keys(saved, given) if not line.startswith(ignored)]
    if differing:
        shown = "; ".join(differing[:6]) + ("; ..." if len(differing) > 6 else "")
        raise ValueError(f"{workdir} holds the run of another config (there != here): {shown}")
