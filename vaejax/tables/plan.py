"""The config of a table, and the runs that it asks for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vaejax.config import load_config, nearest, overridden
from vaejax.evaluation.metrics import check_metrics
from vaejax.expost.families import default_density_config, validate_density
from vaejax.expost.fit import PRIOR

# Rows of these are tuples of texts that begin with a name; all else is as in `default_table`.
_LENGTHS = {"config.columns": 2, "config.differences": 3}
_ROWS = ("datasets", "methods", "priors", "sources", "columns", "differences")
_FOLDERS = ("config.datasets", "config.methods", "config.priors", "config.sources")
_MAY_BE_BARE = ("config.sources",)  # a name without changes


_METRICS = ("symmetric_kl", "information", "leakage", "frechet", "precision_recall")


_COLUMNS = (
    ("FD", "frechet[*, random]"),
    ("FD (LP)", "frechet[*, low_posterior]"),
    ("FD (LP data)", "frechet[*, low_posterior_data]"),
    ("FD (rec.)", "frechet[*, reconstructions]"),
    ("precision (LP)", "precision[*, low_posterior]"),
    ("sKL", "symmetric_kl"),
    ("leakage", "leakage[0.01]"),
    ("leakage (log det)", "leakage_with_log_det[0.01]"),
    ("leaks", "leak_fraction[0.01]"),
    ("NLL", "importance_weighted_nll"),
    ("KL", "kl"),
    ("active", "active_units"),
)


def default_table() -> ConfigDict:
    """A table of all regularizers with both priors, without data sets yet."""
    regularizers = ("none", "beta_h", "beta_b", "beta_tc", "factor", "info")
    priors = ("standard_normal", "decoupled")
    return ConfigDict(
        {
            "title": "",
            # Name, a config file beside that of the table, and what is changed of it.
            "datasets": (),
            # Name, and what is changed of every data set's config.
            "methods": tuple((name, f"regularizer={name}") for name in regularizers),
            "priors": tuple((name, f"prior={name}") for name in priors),
            # What codes are drawn from: the prior, or a name, and what is changed of the config of
            # a density that is fitted to the codes of every run.
            "sources": ((PRIOR,),),
            # Patterns of "METHOD-PRIOR-SOURCE" that are left out, as "rae*-decoupled-*".
            "without": (),
            "seeds": (0, 1, 2),
            "split": "test",
            "metrics": _METRICS,
            "samples": 20_000,
            # Of samples, that metrics compare with data; none: all.
            "sets": (),
            "importance_samples": 1_000,
            "importance_examples": 500,
            "control": True,
            # Label, and the name of a metric, in which * stands for the map of features.
            "columns": _COLUMNS,
            # Label, and two columns: what sampling adds to the error of the decoder, for one.
            "differences": (("sampling gap", "FD", "FD (rec.)"), ("LP gap", "FD (LP)", "FD")),
            # Columns, lower being better, in which every other prior is compared with the first.
            "compared": (
                "FD",
                "sampling gap",
                "FD (LP)",
                "LP gap",
                "sKL",
                "leakage",
                "leakage (log det)",
                "NLL",
            ),
        }
    )


class Cell(NamedTuple):
    """All seeds of a method with a prior on a data set."""

    dataset: str
    method: str
    prior: str
    config: ConfigDict  # of a run, but for the seed
    folder: Path  # whose folders seed=0, seed=1, ... are the runs
    sources: dict[str, ConfigDict]  # of densities, by name; that of the prior is not used

    @property
    def name(self) -> str:
        return f"{self.dataset}, {self.method}, {self.prior}"


def load_table(path: str, arguments: Sequence[str] = ()) -> ConfigDict:
    """The table config of a file, with flags like --config.seeds=(0,) applied.

    Raises ValueError for an unknown key or name, or a value of the wrong type.
    """
    return overridden(load_config(path), arguments, validate_table)


def validate_table(config: ConfigDict) -> None:
    """Raise ValueError, in one line, for an unknown key or name, or a value of the wrong type."""
    given, allowed = config.to_dict(), default_table().to_dict()
    for key in given:
        if key not in allowed:
            raise ValueError(f"unknown key config.{key} of a table{nearest(key, allowed)}")
    for key, default in allowed.items():
        _check(f"config.{key}", given.get(key), default, has_rows=key in _ROWS)
    for key in ("datasets", "methods", "priors", "sources", "columns", "seeds"):
        if not config[key]:
            raise ValueError(f"config.{key} is empty; a table needs at least one")
    check_metrics(config.metrics)
    differences = {name: pair for name, *pair in config.differences}
    labels = [*(name for name, *_ in config.columns), *differences]
    for label in [*config.compared, *itertools.chain(*differences.values())]:
        if label not in labels:
            raise ValueError(f"the table has no column {label!r}{nearest(label, labels)}")


def _check(path: str, value: Any, default: Any, has_rows: bool) -> None:
    kind = type(default)
    if type(value) is not kind:
        raise ValueError(f"{path} is {value!r}; it must be of type {kind.__name__}")
    if kind is not tuple:
        return
    for item in value:
        if has_rows and path in _FOLDERS and not _is_folder(item):
            raise ValueError(f"{path} has {item!r}; its name becomes a folder's")
        if has_rows and not _is_row(item, _LENGTHS.get(path), path in _MAY_BE_BARE):
            raise ValueError(f"{path} has {item!r}; its rows are a name and its texts")
        if not has_rows and type(item) is not type((*default, "text")[0]):
            raise ValueError(f"{path} is {value!r}; it must be a tuple like {default}")
    names = [item[0] for item in value] if has_rows else list(value)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has {twice[0]!r} twice")


def _is_row(item: Any, length: int | None, may_be_bare: bool) -> bool:
    texts = isinstance(item, tuple) and all(isinstance(text, str) for text in item)
    return texts and (len(item) > 1 - may_be_bare if length is None else len(item) == length)


def _is_folder(item: Any) -> bool:
    name = item[0] if isinstance(item, tuple) and item else ""
    return isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")


def cells_of(table: ConfigDict, workdir: Path, configs: Path) -> list[Cell]:
    """The cells of a table in its order.  configs: the folder that its config files are in.

    Raises ValueError where a config cannot be made.
    """
    found = []
    for dataset, file, *changes in table.datasets:
        name, colon, preset = file.partition(":")
        for (method, *own), (prior, *its) in itertools.product(table.methods, table.priors):
            sources = _sources(table, f"{method}-{prior}")
            if not sources:
                continue
            config = load_config(f"{configs / name}{colon}{preset}").unlock()
            config = overridden(config, _flags([*changes, *own, *its]))
            folder = workdir / dataset / f"{method}-{prior}"
            found.append(Cell(dataset, method, prior, config, folder, sources))
    if not found:
        raise ValueError(f"config.without leaves nothing of the table: {table.without}")
    return found


def _sources(table: ConfigDict, name: str) -> dict[str, ConfigDict]:
    """The densities of a method with a prior, but for those that are left out."""
    return {
        source: overridden(default_density_config(), _flags(changes), validate_density)
        for source, *changes in table.sources
        if not any(fnmatchcase(f"{name}-{source}", pattern) for pattern in table.without)
    }


def _flags(changes: Sequence[str]) -> list[str]:
    return [f"--config.{text}" for text in changes]
