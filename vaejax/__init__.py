"""vaejax: variational autoencoders with decoupled priors, in JAX.

What is named here is the public interface.  A loss of one's own is a sum of costs (`loss_of`,
`reconstruction`, `kl`, `mmd_to_prior`, others in `vaejax.objectives.costs`).  A method, a prior or
another part of one's own is a function in the table of its kind (`REGULARIZERS` in
`vaejax.objectives.regularizers`, `PRIORS` in `vaejax.models.priors`, ...), and a row of the config
that names it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaejax.artifact import export
    from vaejax.config import default_config, load_config
    from vaejax.data.arrays import Dataset
    from vaejax.data.batches import batch_rows
    from vaejax.data.sources import dataset_from, make_transform
    from vaejax.evaluation.evaluate import evaluate
    from vaejax.expost.fit import fit_density, sourced
    from vaejax.inference import decode, embed, encode, log_prob, observed, sample
    from vaejax.models.vae import make_model
    from vaejax.objectives.costs import kl, mmd_to_prior, reconstruction
    from vaejax.objectives.objective import loss_of
    from vaejax.reporting.run import figures_of
    from vaejax.training.checkpoint import saved_steps
    from vaejax.training.loop import fit, load
    from vaejax.training.state import averaged_weights, initial_state
    from vaejax.training.step import make_train_step
    from vaejax.types import Player

__version__ = "0.1.0"

# Name -> module; resolved on first use, so that `import vaejax` costs nothing.
_PUBLIC = {
    "Dataset": "vaejax.data.arrays",
    "Player": "vaejax.types",
    "averaged_weights": "vaejax.training.state",
    "batch_rows": "vaejax.data.batches",
    "dataset_from": "vaejax.data.sources",
    "decode": "vaejax.inference",
    "default_config": "vaejax.config",
    "embed": "vaejax.inference",
    "encode": "vaejax.inference",
    "evaluate": "vaejax.evaluation.evaluate",
    "export": "vaejax.artifact",
    "figures_of": "vaejax.reporting.run",
    "fit": "vaejax.training.loop",
    "fit_density": "vaejax.expost.fit",
    "initial_state": "vaejax.training.state",
    "kl": "vaejax.objectives.costs",
    "load": "vaejax.training.loop",
    "load_config": "vaejax.config",
    "log_prob": "vaejax.inference",
    "loss_of": "vaejax.objectives.objective",
    "make_model": "vaejax.models.vae",
    "make_train_step": "vaejax.training.step",
    "make_transform": "vaejax.data.sources",
    "mmd_to_prior": "vaejax.objectives.costs",
    "observed": "vaejax.inference",
    "reconstruction": "vaejax.objectives.costs",
    "sample": "vaejax.inference",
    "saved_steps": "vaejax.training.checkpoint",
    "sourced": "vaejax.expost.fit",
}

__all__ = [
    "Dataset",
    "Player",
    "averaged_weights",
    "batch_rows",
    "dataset_from",
    "decode",
    "default_config",
    "embed",
    "encode",
    "evaluate",
    "export",
    "figures_of",
    "fit",
    "fit_density",
    "initial_state",
    "kl",
    "load",
    "load_config",
    "log_prob",
    "loss_of",
    "make_model",
    "make_train_step",
    "make_transform",
    "mmd_to_prior",
    "observed",
    "reconstruction",
    "sample",
    "saved_steps",
    "sourced",
]


def __getattr__(name: str) -> Any:
    if name in ("config", "types"):  # their names are in examples
        return importlib.import_module(f"vaejax.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vaejax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
