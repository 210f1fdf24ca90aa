"""The configuration: one strict tree of plain values, and the six-line lookup that reads it.

A choice is a name (`config.prior = "decoupled"`); its hyper-parameters are the row of that name in
the plural table (`config.priors.decoupled`).  Every row is the keyword arguments of one function.
"""

from vaejax.config.defaults import CHOICES, default_config
from vaejax.config.files import (
    check_key,
    check_same_config,
    config_sha256,
    differing_keys,
    executed,
    from_json,
    load_config,
    overridden,
    saved_config,
    to_json,
)
from vaejax.config.lookup import (
    build,
    check_tree,
    choice_text,
    fails,
    nearest,
    parts_flag,
    unknown,
    validate,
    value_text,
)
from vaejax.config.presets import with_preset
from vaejax.config.published_rae import with_published_rae
from vaejax.config.raeify import raeify

__all__ = [
    "CHOICES",
    "build",
    "check_key",
    "check_same_config",
    "check_tree",
    "choice_text",
    "config_sha256",
    "default_config",
    "differing_keys",
    "executed",
    "fails",
    "from_json",
    "load_config",
    "nearest",
    "overridden",
    "parts_flag",
    "raeify",
    "saved_config",
    "to_json",
    "unknown",
    "validate",
    "value_text",
    "with_preset",
    "with_published_rae",
]
