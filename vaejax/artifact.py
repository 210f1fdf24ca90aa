"""A model in a folder that JAX can use without us: programs, plain arrays and a JSON card.

The programs are StableHLO, serialized by `jax.export`, for any number of rows and for each platform
of PLATFORMS.  Arrays are their arguments, so that the weights are there once, as arrays.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

import vaejax
from vaejax.config import config_sha256, unknown
from vaejax.expost.fit import PRIOR, density_sha256, sourced
from vaejax.inference import drawn_one
from vaejax.models.vae import VAE
from vaejax.records import read_json
from vaejax.training.loop import load
from vaejax.training.workdir import saved_card
from vaejax.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
CARD, WEIGHTS = "card.json", "weights.npz"
FORMAT = "vaejax export, version 1"
_LIBRARIES = ("jax", "jaxlib", "flax", "distrax", "numpy")
_HOW = """import hashlib, json, pathlib
import jax, jax.export, numpy as np
folder = pathlib.Path("{folder}")
card = json.loads((folder / "card.json").read_text())
for name, sha256 in card["sha256"].items():
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
weights = dict(np.load(folder / "weights.npz", allow_pickle=False))
decode, sample, embed = (
    jax.jit(jax.export.deserialize(bytearray((folder / name).read_bytes())).call)
    for name in ("decode.jax", "sample.jax", "embed.jax")
)
x = sample(weights, 0, np.arange(64))  # of seed 0, the first 64 samples
z = embed(weights, x)
x = decode(weights, z)"""
_NOTES = (
    "Needs Python with jax, numpy and flatbuffers (which jax.export reads its files with).",
    "x is what the model has a density of, float32; see `data` for how raw rows become x.",
    "The arrays and this card last. Programs are kept readable by JAX for six months of its "
    "releases: see compatibility guarantees in its documentation of jax.export.",
    "A program from a stranger is code. Reading one unpickles nothing and runs nothing, but JAX "
    "asks for trusted input: when called, it may do whatever custom calls of jaxlib can do. Take "
    "it if its hash is one that somebody you trust gave you, or else the arrays alone, which are "
    "safe to read with allow_pickle=False, and `config`, of which vaejax makes the model.",
)


class _Program(NamedTuple):
    """A function of (weights, *arguments), and what they are."""

    function: Callable[..., Array]
    arguments: Mapping[str, jax.ShapeDtypeStruct]
    about: str


def export(
    workdir: str | Path,
    out: str | Path,
    *,
    source: str = PRIOR,
    checkpoint: int | None = None,
    replace: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> list[Path]:
    """Write the run's decoder, sampler and encoder mean to the folder `out`.  -> its files.

    `card.json` says what they are, how to call them and what is safe; `weights.npz` has the arrays.
    The programs need jax, numpy and flatbuffers; the arrays NumPy alone.  source: the prior, or a
    density fitted to the codes, which the sampler draws from.  Raises ValueError where `load` and
    `sourced` do, for an unknown platform or none, and where `out` is there, unless it is an earlier
    export with nothing besides and `replace` says so.

    >>> [path.name for path in vaejax.export("runs/digits", "exported")]
    ['card.json', 'decode.jax', 'embed.jax', 'sample.jax', 'weights.npz']
    """
    workdir, out = Path(workdir), Path(out)
    out = out.resolve() if out.is_symlink() else out
    if not platforms:
        raise ValueError(f"no platform; at least one of {', '.join(PLATFORMS)}")
    for name in platforms:
        if name not in PLATFORMS:
            raise unknown("platform", name, PLATFORMS)
    _check_free(out, replace)
    model, state, config = load(workdir, checkpoint)
    model, state = sourced(workdir, model, state, source)
    variables = state.variables()
    params = {name: each for name, each in variables["params"].items() if name != "critic"}
    flat: Any = flatten_dict({**variables, "params": params}, sep=".")
    weights = {name: np.asarray(array) for name, array in flat.items()}
    card = saved_card(workdir)
    programs = _programs(model, tuple(card["x_shape"]), config.latent_dim)
    files = {WEIGHTS: _npz(weights)}
    for name, program in programs.items():
        files[f"{name}.jax"] = _serialized(program, weights, platforms)
    told = _card(programs, weights, files, card, config)
    told |= {
        "source": source,
        "density_sha256": density_sha256(workdir, source),
        "step": int(state.step),
        "platforms": [*platforms],
        "how": _HOW.format(folder=out.name).splitlines(),
    }
    _write(out, {**files, CARD: (json.dumps(told, indent=2) + "\n").encode()})
    return sorted(out.iterdir())


def _card(
    programs: Mapping[str, _Program],
    weights: Mapping[str, np.ndarray],
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: ConfigDict,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "how": [],
        "notes": _NOTES,
        "functions": {name: _told(name, program) for name, program in programs.items()},
        "weights": {name: [*array.shape] for name, array in weights.items()},
        "data": {**data, "observation": config.observation, "note": "x = raw / scale, observed"},
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
        "versions": {"vaejax": vaejax.__version__, **_versions()},
        "config_sha256": config_sha256(config),
        "config": config.to_dict(),
    }


def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in _LIBRARIES}


def _programs(model: VAE, x_shape: tuple[int, ...], latent_dim: int) -> dict[str, _Program]:
    """By name.  Each is one example's, mapped: so that any network takes an unknown number."""
    (n,) = jax.export.symbolic_shape("n")

    def decode(weights: Mapping[str, Array], z: Array) -> Array:
        variables = unflatten_dict(weights, sep=".")
        one = nn.apply(VAE.decode, model)
        return jax.vmap(lambda z: one(variables, z[None])[0])(z)

    def embed(weights: Mapping[str, Array], x: Array) -> Array:
        variables = unflatten_dict(weights, sep=".")
        one = nn.apply(VAE.embed, model)
        return jax.vmap(lambda x: one(variables, x[None])[0])(x)

    def sample(weights: Mapping[str, Array], seed: Array, indices: Array) -> Array:
        variables = unflatten_dict(weights, sep=".")
        key = jax.random.key(seed, impl="threefry2x32")
        return jax.vmap(lambda index: drawn_one(model, variables, key, index))(indices)

    z = jax.ShapeDtypeStruct((n, latent_dim), np.float32)
    x = jax.ShapeDtypeStruct((n, *x_shape), np.float32)
    seed, indices = (jax.ShapeDtypeStruct(*it) for it in (((), np.int32), ((n,), np.int32)))
    drawn = (
        "the mean of p(x|z) at draws of z: of the seed's endless row of samples, those asked for"
    )
    return {
        "decode": _Program(decode, {"z": z}, "z -> the mean of p(x|z)"),
        "embed": _Program(embed, {"x": x}, "x -> the mean of q(z|x)"),
        "sample": _Program(sample, {"seed": seed, "indices": indices}, drawn),
    }


def _serialized(
    program: _Program, weights: Mapping[str, np.ndarray], platforms: Sequence[str]
) -> bytes:
    like = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in weights.items()}
    lowered = jax.export.export(jax.jit(program.function), platforms=tuple(platforms))
    return bytes(lowered(like, *program.arguments.values()).serialize())


def _told(name: str, program: _Program) -> dict[str, Any]:
    arguments = {key: f"{arg.dtype}{[*arg.shape]}" for key, arg in program.arguments.items()}
    call = f"{name}({', '.join(['weights', *arguments])})"
    return {"file": f"{name}.jax", "call": call, "about": program.about, "arguments": arguments}


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _check_free(out: Path, replace: bool) -> None:
    """Raises ValueError unless nothing is lost by making `out`."""
    if not out.exists():
        return
    try:
        card = read_json(out / CARD)
        is_ours = card["format"].startswith("vaejax export")
        ours = {CARD, *card["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_ours, ours = False, set()
    if not is_ours:
        raise ValueError(f"{out} is there and no export of vaejax; take another folder")
    if others := sorted({path.name for path in out.iterdir()} - ours):
        raise ValueError(f"{out} has {others[0]!r} besides an export; take another folder")
    if not replace:
        raise ValueError(f"{out} has an export; take another folder, or --replace it")


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder, all at once; an earlier one is there until then."""
    partial, old = (out.with_name(f".{out.name}.{what}") for what in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        for name, content in files.items():
            (partial / name).write_bytes(content)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        partial.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
