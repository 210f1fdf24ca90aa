"""vaejax: variational autoencoders with decoupled priors, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaejax.config import default_config, load_config
    from vaejax.data.arrays import Dataset
    from vaejax.objectives.objective import loss_of
    from vaejax.training.loop import fit, load

__version__ = "0.1.0"

# Name -> module; resolved on first use, so that `import vaejax` costs nothing.
_PUBLIC = {
    "Dataset": "vaejax.data.arrays",
    "default_config": "vaejax.config",
    "fit": "vaejax.training.loop",
    "load": "vaejax.training.loop",
    "load_config": "vaejax.config",
    "loss_of": "vaejax.objectives.objective",
}

__all__ = ["Dataset", "default_config", "fit", "load", "load_config", "loss_of"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vaejax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
