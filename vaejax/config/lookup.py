"""Names to functions, strictly: every mistake is one line that offers the nearest right name."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaejax.config.defaults import CHOICES, default_config

# Choices without hyper-parameters: key -> names.
NAMES = {
    "reduction": ("mean", "published_sum"),
    "placement": ("auto", "resident", "streamed"),
    "convolutions": ("auto", "native", "matmul"),
    "compute_dtype": ("float32", "bfloat16"),
}
_INTEGER, _FLOAT = 2**31 - 1, float(np.finfo(np.float32).max)  # what the devices can count to
# Last part of a key -> the least and the most; of others, of an integer 1 and `_INTEGER`, of a
# float 0 and `_FLOAT`.  What is a length of a loop, or the side of a table, needs a bound of sense:
# without one, a program is being made for ever.
_RANGES = {
    "seed": (0, 2**32 - 1),
    "alpha": (-_FLOAT, _FLOAT),
    "warmup_steps": (0, _INTEGER),
    "steps_per_dispatch": (0, 10_000),
    "size": (0, 8_192),
    "latent_dim": (1, 65_536),
    "num_blocks": (1, 1_000),
    "critic_depth": (1, 1_000),
    "probes": (1, 10_000),
    "num_components": (1, 100_000),
    "candidates": (1, 100_000),
    "num_draws": (1, 100_000),
    "mask_percent": (0, 100),
}
_BELOW_ONE = ("b1", "b2", "critic_b1", "critic_b2", "momentum", "ema_decay", "validation", "test")
_LONGEST = 64  # entries of a tuple


def validate(config: ConfigDict) -> None:
    """Raise ValueError, in one line, for an unknown key or name, a wrong type or a bad size.

    A choice may name a row that is not ours, of plain values: `build` wants its function.
    """
    tree = _tree(config)
    allowed: dict[str, Any] = default_config().to_dict()
    check_tree(_without_own_rows(tree, allowed), allowed, "config")
    for choice, table in CHOICES.items():
        if tree[choice] not in tree[table]:
            raise unknown(choice, tree[choice], tree[table])
    for key, names in NAMES.items():
        if tree[key] not in names:
            raise unknown(key, tree[key], names)
    if config.splits.validation + config.splits.test >= 1:
        fractions = f"{config.splits.validation} and {config.splits.test}"
        raise ValueError(f"config.splits takes {fractions} of the data; their sum must be below 1")


def _tree(config: Any) -> dict[str, Any]:
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise ValueError(f"a config is a ConfigDict, not of type {kind}; `load_config` reads one")
    return config.to_dict()


def _without_own_rows(tree: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` without the chosen rows that `allowed` lacks, whose values are looked at here."""
    rest = dict(tree)
    for choice, table in CHOICES.items():
        name, rows = tree.get(choice), tree.get(table)
        if not (isinstance(rows, Mapping) and isinstance(name, str)) or name in allowed[table]:
            continue
        if isinstance(row := rows.get(name), Mapping):
            for key, value in row.items():
                _check_plain(value, f"config.{table}.{name}.{key}")
            rest[table] = {key: value for key, value in rows.items() if key != name}
    return rest


def _check_plain(value: Any, path: str) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        is_plain = isinstance(item, str | bool | int | float)
        if not is_plain or (isinstance(item, float) and not math.isfinite(item)):
            kinds = "a text, a finite number or a tuple of such"
            raise ValueError(f"{path} is {value!r}; it must be {kinds}")


def check_tree(given: Mapping, allowed: Mapping, path: str) -> None:
    """Raise ValueError, in one line, unless `given` has the keys and types of `allowed`."""
    for key in given:
        if key not in allowed:
            raise ValueError(f"unknown key {path}.{key}{nearest(key, allowed)}")
    for key, default in allowed.items():
        if key not in given:
            raise ValueError(f"missing key {path}.{key}")
        value = given[key]
        if isinstance(default, Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"{path}.{key} is a table of rows, not {value!r}")
            check_tree(value, default, f"{path}.{key}")
        elif isinstance(default, tuple):
            if not isinstance(value, tuple) or not value:
                raise ValueError(f"{path}.{key} is {value!r}; it must be a tuple like {default}")
            if len(value) > _LONGEST:
                raise ValueError(f"{path}.{key} has {len(value)} entries, more than {_LONGEST}")
            for item in value:
                _check_value(item, default[0], f"{path}.{key}")
        else:
            _check_value(value, default, f"{path}.{key}")


def _check_value(value: Any, default: Any, path: str) -> None:
    is_float = isinstance(default, float) and type(value) is int
    if type(value) is not type(default) and not is_float:
        raise ValueError(f"{path} is {value!r}; it must be of type {type(default).__name__}")
    if isinstance(value, bool):
        return
    if isinstance(value, str):
        if any(character < " " for character in value):
            raise ValueError(f"{path} is {value!r}; it must have no control characters")
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is {value!r}; it must be finite")
    key = path.rpartition(".")[2]
    least, most = _RANGES.get(key, (0, _FLOAT) if isinstance(default, float) else (1, _INTEGER))
    if value < least:
        raise ValueError(f"{path} is {value!r}; it must be at least {least}")
    if value > most:
        raise ValueError(f"{path} is {value!r}; it must be at most {most}")
    if key in _BELOW_ONE and value >= 1:
        raise ValueError(f"{path} is {value!r}; it must be in [0, 1)")


def fails(condition: Any) -> bool:
    """Whether a hyper-parameter is refused; a traced one, in a sweep, was looked at before."""
    return isinstance(condition, bool | np.bool_) and bool(condition)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """'; did you mean X?' where some allowed name is close, else ''."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> ValueError:
    """The error for a name that no table has."""
    allowed = sorted(allowed)
    return ValueError(
        f"unknown {kind} {name!r}{nearest(name, allowed)} (one of {', '.join(allowed)})"
    )


def build(
    table: Mapping[str, Callable[..., Any]], kind: str, config: ConfigDict, *args: Any, **more: Any
) -> Any:
    """Call the row of `table` that `config[kind]` names with its hyper-parameters.

    Raises ValueError for a name that is not in the table, and for hyper-parameters that are not
    those of its function.
    """
    tree = _tree(config)
    name = tree[kind]
    row = tree[CHOICES[kind]].get(name)
    if name not in table and row is not None and name not in default_config()[CHOICES[kind]]:
        raise ValueError(
            f"no function for {kind} {name!r}, which the config has a row of; what puts it into "
            "our table must be imported first (on the command line: --parts FILE.py)"
        )
    if name not in table:
        raise unknown(kind, name, table)
    keywords: dict[str, Any] = {**more, **tree[CHOICES[kind]][name]}
    try:
        inspect.signature(table[name]).bind(*args, **keywords)
    except TypeError as error:
        raise ValueError(f"config.{CHOICES[kind]}.{name} is not its row: {error}") from error
    return table[name](*args, **keywords)


def parts_flag(config: ConfigDict) -> str:
    """What a command adds to open a run whose parts are not all ours: "" or " --parts FILE.py"."""
    default = default_config()
    is_own = any(config[kind] not in default[table] for kind, table in CHOICES.items())
    return " --parts FILE.py" if is_own else ""


def choice_text(config: ConfigDict, kind: str) -> str:
    """A choice with the hyper-parameters of its row, to read: "gaussian (mse_weight 10)"."""
    name = config[kind]
    row = config[CHOICES[kind]].get(name, {})
    settings = ", ".join(f"{key.rstrip('_')} {value_text(value)}" for key, value in row.items())
    return f"{name} ({settings})" if settings else str(name)


def value_text(value: Any) -> str:
    """A value of a config, to read: "0.5", "64\u00d732"."""
    if isinstance(value, tuple):
        return "\u00d7".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
