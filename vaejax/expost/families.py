"""The table of densities, their config, and fitting one to codes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from vaejax.config import check_tree, unknown
from vaejax.data.arrays import SPLITS
from vaejax.expost import flows, gaussians, kernels, second_stage
from vaejax.expost.density import Density, Fit, Standardized
from vaejax.progress import ProgressReport
from vaejax.training.validation import over_split

CODES = ("sample", "mean")
_SCORED = 10_000  # codes of each kind that the log-densities told are means over, at most
_SCORED_AT_ONCE = 2_048


class Family(NamedTuple):
    """How densities of a kind are built from plain values, and fitted."""

    build: Callable[..., Density]  # (latent_dim, **Fit.shape)
    fit: Callable[[Standardized, Mapping[str, Any], int, ProgressReport], Fit]


class FittedDensity(NamedTuple):
    """A density: `density.apply({"params": params}, z, method="log_prob")`."""

    density: Density
    params: dict[str, Any]  # float32
    shape: dict[str, Any]  # what the density was built with, beside the latent size
    report: dict[str, Any]  # how the fit went; plain values


def default_density_config() -> ConfigDict:
    """What is fitted, to which codes, and a row of hyper-parameters per density.  Locked."""
    training = {"num_steps": 10_000, "batch_size": 256, "learning_rate": 5e-4}
    training |= {"eval_every": 100, "patience": 20}  # evaluations on held-out codes
    flow = {"num_blocks": 6, "mask": "alternating", "mask_percent": 50.0, "width": 64}
    config = ConfigDict(
        {
            "density": "gmm",
            "codes": "sample",  # draws of q(z|x), what q(z) consists of; or "mean"
            "held_out": 0.1,  # fraction of the codes that is judged by, and not fitted to
            "seed": 0,  # of the draws, of what is held out, and of the fit
            "densities": {
                "gaussian": {"covariance_floor": 1e-6},  # floors are in standard deviations^2
                "gmm": {
                    "num_components": 10,
                    "select": "none",  # or "held_out", "bic": the best of the candidates
                    "candidates": (1, 2, 5, 10, 20, 50),
                    "covariance_floor": 1e-6,
                    "max_iterations": 2_000,
                    "tolerance": 1e-3,  # nats of the mean log-likelihood per code
                    "num_starts": 1,
                },
                # In standard deviations; 0: as held-out codes like it best.
                "kde": {"bandwidth": 0.0, "max_codes": 10_000},
                "flow": {**flow, "leaky_slope": 0.01, "t_activation": "none", **training},
                "maf": {"num_blocks": 6, "width": 64, "leaky_slope": 0.01, **training},
                # Draws are of the estimate of its log-density.
                "vae": {"widths": (256, 256), "initial_scale": 0.3, "num_draws": 64, **training},
            },
        }
    )
    return config.lock()


def validate_density(config: ConfigDict) -> None:
    """Raise ValueError, in one line, for an unknown key or name, a wrong type or a bad size."""
    tree: dict[str, Any] = config.to_dict()
    check_tree(tree, default_density_config().to_dict(), "config")
    if config.density not in DENSITIES:
        raise unknown("density", config.density, DENSITIES)
    if config.codes not in CODES:
        raise unknown("codes", config.codes, CODES)
    if not 0 < config.held_out < 1:
        raise ValueError(f"config.held_out is {config.held_out}; it must be in (0, 1)")


def fit_codes(codes: np.ndarray, config: ConfigDict, *, quiet: bool = True) -> FittedDensity:
    """Fit a density to codes (N, D).

    The part `config.held_out` of them, drawn by `config.seed`, is only judged by.  Raises
    ValueError for a bad config, codes that are not finite, and too few of them.
    """
    validate_density(config)
    _check_codes(codes)
    rows: Any = config.densities
    family, row = DENSITIES[config.density], rows[config.density].to_dict()
    order = np.random.default_rng(config.seed).permutation(len(codes))
    num_held_out = max(1, round(config.held_out * len(codes)))
    if num_held_out == len(codes):
        raise ValueError(
            f"config.held_out is {config.held_out}; of {len(codes)} codes none is left to fit to"
        )
    parts = np.split(np.asarray(codes, np.float64)[order], [len(codes) - num_held_out])
    mean, scale = parts[0].mean(axis=0), parts[0].std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)  # a dimension that no code uses
    began = time.perf_counter()
    label = f"{config.density} on {len(parts[0]):,} codes"
    with ProgressReport(label, 0, 0, quiet) as progress:
        train, held_out = ((part - mean) / scale for part in parts)
        standardized = Standardized(train, held_out, -float(np.log(scale).sum()))
        found = family.fit(standardized, row, config.seed, progress)
    params = {"mean": mean, "scale": scale, **found.params}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    density = family.build(codes.shape[1], **found.shape)
    report = {
        "num_codes": {"train": len(parts[0]), "held_out": num_held_out},
        "log_density": _mean_log_densities(density, params, *parts),
        "scored": min(_SCORED, len(parts[0])),
        "notes": found.notes,
        "seconds": round(time.perf_counter() - began, 3),
    }
    return FittedDensity(density, params, found.shape, report)


def built(density: str, latent_dim: int, shape: Mapping[str, Any]) -> Density:
    """The module that `Fit.shape` says.  Raises ValueError for an unknown density."""
    if density not in DENSITIES:
        raise unknown("density", density, DENSITIES)
    return DENSITIES[density].build(latent_dim, **shape)


def check_name(name: str) -> None:
    """Raise ValueError where a density cannot be called `name`."""
    if name == "prior" or not re.fullmatch(r"\w[\w.=-]*", name):
        raise ValueError(
            f"a density cannot be called {name!r}; letters, digits, _, -, = and dots are allowed, "
            "and 'prior' is that of the model"
        )
    if name.split("_")[0] in SPLITS:  # evaluation_<split>_<source>.json
        raise ValueError(
            f"a density cannot be called {name!r}: its evaluation would have the file name of one "
            f"of a split; take a name that does not begin with {' or '.join(SPLITS)}"
        )


def _check_codes(codes: np.ndarray) -> None:
    if np.ndim(codes) != 2 or len(codes) < 2:
        raise ValueError(f"codes have shape {np.shape(codes)}; they must be (N, D), N at least 2")
    finite = np.isfinite(codes).all(axis=1)
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {len(codes)} codes are not finite")


def _mean_log_densities(
    density: Density, params: Any, train: np.ndarray, held_out: np.ndarray
) -> dict[str, float]:
    """Nats per code."""
    log_prob = jax.jit(nn.apply(lambda density, z: density.log_prob(z), density))
    parts = {"train": train[:_SCORED], "held_out": held_out[:_SCORED]}
    z = np.concatenate(list(parts.values())).astype(np.float32)  # at once: it compiles once
    values = over_split(lambda z, _: log_prob({"params": params}, z), z, _SCORED_AT_ONCE)
    split = np.split(np.asarray(values, np.float64), [len(parts["train"])])
    return {name: float(part.mean()) for name, part in zip(parts, split, strict=True)}


DENSITIES = {
    "gaussian": Family(gaussians.gaussian, gaussians.fit_gaussian),
    "gmm": Family(gaussians.gmm, gaussians.fit_gmm),
    "kde": Family(kernels.kde, kernels.fit_kde),
    "flow": Family(flows.flow, flows.fit_transformed(flows.flow)),
    "maf": Family(flows.maf, flows.fit_transformed(flows.maf)),
    "vae": Family(second_stage.vae, second_stage.fit_vae),
}
