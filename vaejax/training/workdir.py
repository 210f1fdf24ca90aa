"""The files of a run, and the promise that none of them is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vaejax.config import check_same_config, to_json
from vaejax.data.arrays import Dataset
from vaejax.records import check_kinds, read_json

_CARD = {"name": str, "x_shape": list, "scale": float, "sha256": str, "splits": dict, "note": str}
_NEEDED = ("train", "test")


def write_text(path: Path, text: str) -> None:
    """Write `path` in one piece: after a crash it holds the old text or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # of a crash, or a link to what is not ours
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def dataset_card(dataset: Dataset) -> dict[str, Any]:
    """What a run remembers of its data: shapes, sizes, the SHA-256 of the whole."""
    return {
        "name": dataset.name,
        "x_shape": list(dataset.x_shape),
        "scale": dataset.scale,
        "sha256": dataset.sha256,
        "splits": {split: {"num_examples": len(rows)} for split, rows in dataset.splits.items()},
        "note": dataset.note,  # where they came from: another way may lead to the same data
    }


def saved_card(workdir: Path) -> dict[str, Any]:
    """The dataset card of the run in `workdir`.  Raises ValueError."""
    path = workdir / "dataset.json"
    try:
        card = read_json(path)
        check_kinds(card, _CARD)
        sizes = [*card["x_shape"], *(card["splits"][split]["num_examples"] for split in _NEEDED)]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"its sizes are {sizes}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    return card


def check_same_run(workdir: Path, config: ConfigDict, card: dict[str, Any]) -> None:
    """Raise ValueError when `workdir` holds files of another run, naming what differs."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is not a folder")
    if (workdir / "checkpoints").exists() and not (workdir / "checkpoints").is_dir():
        raise ValueError(f"{workdir / 'checkpoints'} is not a folder")
    if not (workdir / "config.json").is_file():
        ours = ("metrics.jsonl", "timing.jsonl", "checkpoints", "evaluation.json")
        found = [name for name in ours if (workdir / name).exists()]
        if found:
            raise ValueError(f"{workdir} has {', '.join(found)} but no config.json; take another")
        return
    config = config.copy_and_resolve_references()
    config.data_sha256 = ""  # the cards tell more than the hash
    check_same_config(workdir, config)
    saved = saved_card(workdir) if (workdir / "dataset.json").exists() else card
    if {**saved, "name": "", "note": ""} != {**card, "name": "", "note": ""}:
        raise ValueError(f"{workdir} holds a run on other data than this {card['name']!r}")


def claim(workdir: Path, config: ConfigDict, card: dict[str, Any]) -> None:
    """Make `workdir` that of this run.  `config.json` comes last: with it, the claim is whole."""
    workdir.mkdir(parents=True, exist_ok=True)
    claimed = (workdir / "config.json").exists()
    if not claimed or not (workdir / "dataset.json").exists():
        write_text(workdir / "dataset.json", json.dumps(card, indent=2) + "\n")
    if not claimed:
        write_text(workdir / "config.json", to_json(config))
