"""The configuration: one strict tree of plain values, and the six-line lookup that reads it.

A choice is a name (`config.prior = "decoupled"`); its hyper-parameters are the row of that name in
the plural table (`config.priors.decoupled`).  Every row is the keyword arguments of one function.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# Choice -> table of rows.  A name is allowed when its table has a row for it.
CHOICES = {
    "dataset": "datasets",
    "encoder": "encoders",
    "posterior": "posteriors",
    "prior": "priors",
    "decoder": "decoders",
    "likelihood": "likelihoods",
    "regularizer": "regularizers",
    "optimizer": "optimizers",
    "schedule": "schedules",
}
REDUCTIONS = ("mean", "published_sum")
_AT_LEAST_ONE = ("latent_dim", "batch_size", "num_steps", "log_every", "eval_every")
_AT_LEAST_ONE += ("checkpoint_every", "keep_checkpoints")


def default_config() -> ConfigDict:
    """The whole tree with our defaults (handwritten digits, beta-TC-dpVAE).  Locked."""
    config = ConfigDict(
        {
            "seed": 0,
            "dataset": "digits",
            "latent_dim": 2,
            "encoder": "mlp",
            "posterior": "diagonal_gaussian",
            "prior": "decoupled",
            "decoder": "mlp",
            "likelihood": "gaussian",
            "regularizer": "beta_tc",
            "optimizer": "adam",
            "schedule": "constant",
            "batch_size": 100,
            "num_steps": 10_000,
            "log_every": 100,
            "eval_every": 1_000,
            "checkpoint_every": 1_000,
            "keep_checkpoints": 3,
            "reduction": "mean",  # or "published_sum": the authors' mixed sums and means
            "clip_norm": 0.0,  # global gradient norm, 0 = off
            "ema_decay": 0.0,  # moving average of the parameters used for evaluation, 0 = off
            "tensorboard": False,
            "datasets": _datasets(),
            **_parts(),
            "regularizers": _regularizers(),
            "optimizers": {
                "adam": {"b1": 0.9, "b2": 0.999},
                "adamw": {"b1": 0.9, "b2": 0.999, "weight_decay": 1e-4},
                "sgd": {"momentum": 0.9},
            },
            "schedules": {
                "constant": {"learning_rate": 1e-3},
                "cosine": {"learning_rate": 1e-3, "warmup_steps": 0, "final_fraction": 0.0},
            },
        }
    )
    return config.lock()


def _datasets() -> dict[str, Any]:
    return {
        "digits": {},
        "two_moons": {"num_train": 10_000, "num_test": 2_000, "noise": 0.05, "seed": 0},
        "mnist": {},
        "svhn_cropped": {},
        "celeb_a": {},
        "stand_in": {"x_shape": (32, 32, 3), "num_train": 512, "num_test": 128},
    }


def _parts() -> dict[str, Any]:
    """Rows of the model's parts; spec of the architectures: arXiv 1911.10506, appendix."""
    return {
        "encoders": {
            "mlp": {"widths": (100, 50), "leaky_slope": 0.01},
            "mnist": {},
            "mnist_factor": {},
            "svhn": {},
            "celeba": {"leaky_slope": 0.01},
        },
        "posteriors": {"diagonal_gaussian": {"log_variance_bound": 20.0}, "deterministic": {}},
        "priors": {
            "standard_normal": {},
            "decoupled": {
                "num_blocks": 6,
                "mask": "alternating",  # or "half": first `mask_percent` % pass through, then the rest
                "mask_percent": 50.0,
                "width": 64,
                "leaky_slope": 0.01,
                "t_activation": "tanh",  # or "none"
                "zero_init": False,
                "kl_constant": True,  # False drops -D/2 from the KL, as the authors' code does
            },
        },
        "decoders": {
            "mlp": {"widths": (50, 100), "leaky_slope": 0.01},
            "mnist": {},
            "mnist_factor": {},
            "svhn": {},
            "celeba": {"leaky_slope": 0.01},
        },
        "likelihoods": {
            "gaussian": {"mse_weight": 1.0},  # w = 1 / (2 sigma^2)
            "learned_gaussian": {"initial_scale": 0.3},
            "bernoulli": {},
        },
    }


def _regularizers() -> dict[str, Any]:
    return {
        "none": {},
        "beta_h": {"beta": 5.0},
        "beta_b": {"gamma": 15.0, "capacity": 25.0, "capacity_steps": 100_000},
        "beta_tc": {
            "alpha": 1.0,
            "beta": 4.0,
            "gamma": 1.0,
            "estimator": "mss",  # minibatch stratified; "mws", "mss_published"
            "log_det": True,  # False omits log|det dg/dz|, as the authors' code does
        },
        "factor": {
            "gamma": 10.0,
            "critic_width": 1_000,
            "critic_depth": 5,
            "critic_learning_rate": 1e-4,
            "critic_b1": 0.9,
            "critic_b2": 0.999,
        },
        "info": {"alpha": 0.0, "lambda_": 11.0, "bandwidth": "published", "unbiased": False},
    }


def nearest(name: str, allowed: Iterable[str]) -> str:
    """'; did you mean X?' where some allowed name is close, else ''."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> ValueError:
    """The error for a name that no table has."""
    allowed = sorted(allowed)
    return ValueError(f"unknown {kind} {name!r}{nearest(name, allowed)} (one of {', '.join(allowed)})")


def build(table: Mapping[str, Callable], kind: str, config: ConfigDict, *args: Any, **more: Any):
    """Call the row of `table` that `config[kind]` names with its hyper-parameters.

    Raises ValueError for a name that is not in the table.
    """
    name = config[kind]
    if name not in table:
        raise unknown(kind, name, table)
    return table[name](*args, **more, **config[CHOICES[kind]][name].to_dict())


def validate(config: ConfigDict) -> None:
    """Raise ValueError, in one line, for an unknown key or name, a wrong type or a bad size."""
    _check_tree(config.to_dict(), default_config().to_dict(), "config")
    for choice, table in CHOICES.items():
        if config[choice] not in config[table]:
            raise unknown(choice, config[choice], config[table].keys())
    if config.reduction not in REDUCTIONS:
        raise unknown("reduction", config.reduction, REDUCTIONS)
    for key in _AT_LEAST_ONE:
        if config[key] < 1:
            raise ValueError(f"config.{key} is {config[key]}; it must be at least 1")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"config.seed is {config.seed}; it must be in [0, 2**32)")
    if not 0.0 <= config.ema_decay < 1.0:
        raise ValueError(f"config.ema_decay is {config.ema_decay}; it must be in [0, 1)")
    if config.clip_norm < 0.0:
        raise ValueError(f"config.clip_norm is {config.clip_norm}; it must be 0 (off) or positive")


def _check_tree(given: Mapping, allowed: Mapping, path: str) -> None:
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
            _check_tree(value, default, f"{path}.{key}")
        elif type(value) is not type(default) and not _is_float(value, default):
            wanted = type(default).__name__
            raise ValueError(f"{path}.{key} is {value!r}; it must be of type {wanted}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}.{key} is {value!r}; it must be finite")


def _is_float(value: Any, default: Any) -> bool:
    return isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)


def override_errors(config: ConfigDict, dotted: str) -> None:
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


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote, validated.  Raises ValueError."""
    return _from_tree(json.loads(text))


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


def load_config(path: str) -> ConfigDict:
    """The config of `file.py`, `file.py:preset` (its `get_config`) or `config.json`.

    Raises ValueError when there is no such file or it holds no config.
    """
    name, _, preset = path.partition(":")
    file = Path(name)
    if not file.is_file():
        raise ValueError(f"no config file {name!r}{_nearest_file(file)}")
    if file.suffix == ".json":
        return from_json(file.read_text())
    spec = importlib.util.spec_from_file_location(f"vaejax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{name!r} is neither a Python file nor a JSON file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{name!r} has no function get_config")
    config = module.get_config(preset) if preset else module.get_config()
    return config.lock()


def _nearest_file(file: Path) -> str:
    folder = file.parent
    return nearest(str(file), map(str, folder.iterdir())) if folder.is_dir() else ""
