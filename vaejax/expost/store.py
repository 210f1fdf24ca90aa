"""The densities that are kept with a run: `densities/<name>.npz`, and what they are, as JSON."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vaejax.memory import check_archive
from vaejax.records import check_kinds, read_json
from vaejax.training.workdir import write_bytes, write_text

# What a description holds, beside the data set of its codes.
_KINDS = {"density": str, "codes": str, "held_out": float, "seed": int, "row": dict, "step": int}
_KINDS |= {"config_sha256": str, "latent_dim": int, "shape": dict, "npz_sha256": str, "notes": dict}
_KINDS |= {"name": str, "num_codes": dict, "log_density": dict, "seconds": float}


def names(workdir: Path) -> list[str]:
    """Of the densities of a run, sorted."""
    return sorted(path.stem for path in (workdir / "densities").glob("[!.]*.json"))


def paths(workdir: Path, name: str) -> tuple[Path, Path]:
    """The arrays and the description of a density."""
    folder = workdir / "densities"
    return folder / f"{name}.npz", folder / f"{name}.json"


def write(workdir: Path, name: str, params: Mapping[str, Any], card: dict[str, Any]) -> dict:
    """Keep a density.  The description comes last: with it, the density is whole.  -> it."""
    arrays, description = paths(workdir, name)
    arrays.parent.mkdir(exist_ok=True)
    buffer = BytesIO()
    flat: Any = flatten_dict(dict(params), sep=".")
    np.savez(buffer, allow_pickle=False, **flat)
    write_bytes(arrays, buffer.getvalue())
    card = {**card, "npz_sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()}
    text = json.dumps(card, indent=2) + "\n"
    write_text(description, text)
    return json.loads(text)


def read(workdir: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, description) of a density.  Raises ValueError where they are not whole."""
    arrays, description = paths(workdir, name)
    try:
        card = read_json(description)
        check_kinds(card, _KINDS)
        if not arrays.is_file():
            raise ValueError("it is no file")
        content = arrays.read_bytes()
        if hashlib.sha256(content).hexdigest() != card["npz_sha256"]:
            raise ValueError("its SHA-256 is not that of its description")
        check_archive(BytesIO(content))
        with np.load(BytesIO(content), allow_pickle=False) as file:
            return unflatten_dict({name: file[name] for name in file.files}, sep="."), card
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise unreadable(workdir, name, error) from error


def unreadable(workdir: Path, name: str, error: Exception | str) -> ValueError:
    """What is raised for a density that is damaged."""
    reason = " ".join(str(error).split())[:160]
    return ValueError(
        f"density {paths(workdir, name)[0]} cannot be read ({reason}); fit it anew with --replace"
    )
