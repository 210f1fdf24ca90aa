"""What needs TensorFlow, in a process of its own: `python -m vaejax.data.fetch TASK NAME FOLDER`.

`download` lets TFDS fetch a data set and prepare it in FOLDER as array_record; `convert` writes the
TFRecord directory FOLDER into the cache.  The last line on stdout says why it failed.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vaejax.data import cache
from vaejax.data.arrays import SPLITS, Blocks
from vaejax.data.catalog import CATALOG
from vaejax.data.prepared import Features, columns_of
from vaejax.data.public import fitted

_SECONDS = 3.0  # until a host that does not answer counts as unreachable
_CHUNK = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one task.  -> exit status."""
    task, name, folder = sys.argv[1:] if argv is None else argv
    try:
        {"download": _download, "convert": _convert}[task](name, Path(folder))
    except Exception as error:  # whatever a library raises becomes one line for the parent
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        return 1
    return 0


def _download(name: str, folder: Path) -> None:
    import tensorflow_datasets as tfds

    builder_class: Any = tfds.builder_cls(name)
    hosts = {urlsplit(url).hostname for url in builder_class.url_infos}
    if hosts and not any(_answers(host) for host in sorted(filter(None, hosts))):
        raise ConnectionError(f"no answer from {', '.join(sorted(filter(None, hosts)))}")
    _hide_accelerators()
    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")


def _answers(host: str) -> bool:
    """Whether a host takes a connection; name resolution has time-outs of its own, far longer."""
    answers: list[bool] = []

    def connect() -> None:
        with socket.create_connection((host, 443), timeout=_SECONDS):
            answers.append(True)

    def quietly() -> None:
        try:
            connect()
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answers == [True]


def _hide_accelerators() -> None:
    import tensorflow

    for kind in ("GPU", "TPU"):
        tensorflow.config.set_visible_devices([], kind)


def _convert(name: str, folder: Path) -> None:
    _hide_accelerators()
    import tensorflow_datasets as tfds

    from vaejax.config import default_config

    facts = CATALOG[name]
    builder: Any = tfds.builder_from_directory(folder)
    features = Features("image", facts.label, facts.factors)
    crop = default_config().datasets[name].get("crop", 0)

    def blocks(split: str) -> Blocks:
        examples: list[Any] = []
        for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)):
            examples.append(example)
            if len(examples) == _CHUNK:
                yield columns_of(folder, examples, features)
                examples = []
        if examples:
            yield columns_of(folder, examples, features)

    splits = {
        split: fitted(name, folder, blocks(split), crop)
        for split in SPLITS
        if split in builder.info.splits
    }
    key = f"{name}-{crop}" if crop else name
    note = f"the TFRecord directory {folder}"
    cache.write(key, name, splits, scale=facts.scale, note=note, canonical=True)


if __name__ == "__main__":
    sys.exit(main())
