"""Fit a density to the codes of a run, and put it in place of the model's prior."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import vaejax
from vaejax.config import config_sha256, differing_keys, nearest, saved_config
from vaejax.data.arrays import Dataset, Rows
from vaejax.data.sources import make_transform
from vaejax.data.transforms import Transform
from vaejax.expost import store
from vaejax.expost.density import Density
from vaejax.expost.families import (
    DENSITIES,
    built,
    check_name,
    default_density_config,
    fit_codes,
    validate_density,
)
from vaejax.models.vae import VAE
from vaejax.training.loop import load
from vaejax.training.run import run_dataset
from vaejax.training.state import DENSITY, TrainState, stream_key
from vaejax.training.validation import make_over_examples
from vaejax.types import Array

PRIOR = "prior"  # the source that is the model's own
_LIBRARIES = ("jax", "jaxlib", "flax", "distrax", "optax", "numpy", "scikit-learn")


def fit_density(
    workdir: str | Path,
    density: str = "",
    *,
    name: str = "",
    replace: bool = False,
    checkpoint: int | None = None,
    split: str = "train",
    config: ConfigDict | None = None,
    dataset: Dataset | None = None,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fit a density to training codes of the run in `workdir`, and keep it there under `name`.

    density: a key of DENSITIES; default: that of `config`, which is `default_density_config()`
    unless given.  name: default: that of the density.  A density that is already there is not
    fitted again.  -> what its JSON file holds.  Raises ValueError where `load` does, for a bad
    config, any other split than "train", other data than those of the run, and where another
    density has the name, unless `replace`.

    >>> vaejax.fit_density("runs/digits", "gaussian")["num_codes"]
    {'train': 1350, 'held_out': 150}
    """
    workdir = Path(workdir)
    resolved = _resolved(config, density)
    name = name or resolved.density
    check_name(name)
    if split != "train":
        raise ValueError(
            f"densities are fitted to codes of the train split, not of {split!r}: "
            "what is held out is there to judge them"
        )
    model, state, run_config = load(workdir, checkpoint)
    asked = _asked(resolved, run_config, int(state.step))
    if name in store.names(workdir) and not replace:
        card = _same(workdir, name, asked)
        say(f"{store.paths(workdir, name)[0]} is there")
        return card
    dataset = run_dataset(workdir, run_config, dataset)
    transform = make_transform(run_config, dataset, model.likelihood.unit_interval)
    rows: Rows = dataset.splits[split]
    codes = training_codes(model, state.variables(), rows, transform, resolved)
    fitted = fit_codes(codes, resolved, quiet=quiet)
    shape = {"latent_dim": codes.shape[1], "shape": fitted.shape}
    card = {"name": name, **asked, **shape, **fitted.report, "versions": _versions()}
    return store.write(workdir, name, fitted.params, card)


def _versions() -> dict[str, str]:
    found = {library: importlib.metadata.version(library) for library in _LIBRARIES}
    return {"vaejax": vaejax.__version__, **found}


def training_codes(
    model: VAE,
    variables: Mapping[str, Any],
    rows: Rows,
    transform: Transform,
    config: ConfigDict,
) -> np.ndarray:
    """Codes that a density is fitted to: a draw of q(z|x) each, or its mean.  -> (N, D).

    The draw of an example depends on its index and `config.seed` alone.
    """

    def code_of(vae: VAE, x: Array, keys: Array) -> Array:
        code = vae.encode(x, keys)
        return code.z if config.codes == "sample" else code.mean

    key = stream_key(config.seed, DENSITY)
    given: Any = {"transform": transform, "key": key, "parts": ("encoder",)}
    return make_over_examples(code_of, model, **given)(variables, rows)


def sources(workdir: str | Path) -> list[str]:
    """Of samples of the run: its prior, and the densities that are kept with it."""
    return [PRIOR, *store.names(Path(workdir))]


def sourced(
    workdir: str | Path, model: VAE, state: TrainState, source: str = PRIOR
) -> tuple[VAE, TrainState]:
    """The model and the state of a run with its density `source` for a prior.

    "prior" changes nothing.  Raises ValueError for a density that is not there, is of another step
    or of another run, or cannot be read.

    >>> fitted = vaejax.sourced("runs/digits", model, state, "gaussian")
    >>> x = vaejax.sample(*fitted, jax.random.key(0), 16)
    """
    workdir = Path(workdir)
    if source == PRIOR:
        return model, state
    params, card = _read(workdir, source)
    _check_run(workdir, source, card, int(state.step))
    prior = _module(workdir, source, params, card)
    params = jax.tree.map(jax.numpy.asarray, params)

    def with_density(groups: Mapping[str, Any]) -> dict[str, Any]:
        return {**groups, "prior": params} if groups else {}

    changed = {"params": with_density(state.params), "ema": with_density(state.ema)}
    return model.clone(prior=prior), state.replace(**changed)


def density_sha256(workdir: str | Path, source: str) -> str:
    """Hash of the arrays of a density of the run; "" for the prior.  Raises ValueError as above."""
    return "" if source == PRIOR else _read(Path(workdir), source)[1]["npz_sha256"]


def _read(workdir: Path, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and description.  Raises ValueError, which says what there is instead."""
    if source not in (there := sources(workdir)):
        density = source if source in DENSITIES else "gmm"
        raise ValueError(
            f"no density {source!r} in {workdir}{nearest(source, there)} ({', '.join(there)}); "
            f"`vaejax fit-density --workdir {workdir} --density {density}` fits one"
        )
    return store.read(workdir, source)


def _module(workdir: Path, name: str, params: Any, card: Mapping[str, Any]) -> Density:
    """What the description says.  Raises ValueError where the arrays are not its parameters."""
    try:
        density = built(card["density"], card["latent_dim"], card["shape"])
        z = jax.ShapeDtypeStruct((1, card["latent_dim"]), np.float32)
        made: Any = jax.eval_shape(
            lambda z: density.init(jax.random.key(0), z, method="log_prob"), z
        )
    except (KeyError, TypeError) as error:
        raise store.unreadable(workdir, name, error) from error
    expected, found = (jax.tree.map(np.shape, tree) for tree in (made["params"], params))
    if expected != found:
        raise store.unreadable(workdir, name, "its arrays are not those of its description")
    return density


def _check_run(workdir: Path, name: str, card: Mapping[str, Any], step: int) -> None:
    if card["config_sha256"] != config_sha256(saved_config(workdir)):
        raise ValueError(f"density {name!r} in {workdir} was fitted to codes of another run")
    if card["step"] != step:
        raise ValueError(
            f"density {name!r} in {workdir} was fitted at step {card['step']}, and this is step "
            f"{step}; `vaejax fit-density --workdir {workdir} --density {card['density']} "
            f"--checkpoint {step} --name {name}_{step}` fits another"
        )


def _resolved(config: ConfigDict | None, density: str) -> Any:
    given: Any = default_density_config() if config is None else config
    resolved = given.copy_and_resolve_references().unlock()
    resolved.density = density or resolved.density
    validate_density(resolved)
    return resolved.lock()


def _asked(config: ConfigDict, run_config: ConfigDict, step: int) -> dict[str, Any]:
    """What makes two fits the same, as it is read from JSON."""
    tree: dict[str, Any] = config.to_dict()
    tree["row"] = tree.pop("densities")[config.density]
    asked = {**tree, "step": step, "config_sha256": config_sha256(run_config)}
    return json.loads(json.dumps(asked))


def _same(workdir: Path, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the density that is there.  Raises ValueError where it is another one."""
    card = store.read(workdir, name)[1]
    there = {key: card.get(key) for key in asked}
    differing = differing_keys(ConfigDict(there), ConfigDict(asked))
    if differing:
        raise ValueError(
            f"{workdir} has another density {name!r} (there != here): {'; '.join(differing[:6])}; "
            "take another --name, or --replace it"
        )
    return card
