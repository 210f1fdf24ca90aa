"""What needs TensorFlow, a process of its own: `python -m vaejax.data.fetch TASK NAME FOLDER CROP`.

`download` lets TFDS fetch a data set and prepare it in FOLDER as array_record; `convert` writes the
TFRecord directory FOLDER into the cache.  The last line on stdout says why it failed.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from vaejax.data import cache
from vaejax.data.arrays import SPLITS, Blocks
from vaejax.data.catalog import CATALOG
from vaejax.data.directories import (
    Features,
    columns_of,
    decoders_of,
    features_in,
    starts_as_jpeg,
)
from vaejax.data.public import as_published, cache_key, check_name

_SECONDS = 3.0  # until a host that does not answer counts as unreachable
_CHUNK = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one task.  -> exit status."""
    task, name, folder, crop = sys.argv[1:] if argv is None else argv
    try:
        {"download": _download, "convert": _convert}[task](name, Path(folder), int(crop))
    except Exception as error:  # whatever a library raises becomes one line for the parent
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        return 1
    return 0


def _download(name: str, folder: Path, crop: int) -> None:
    import tensorflow_datasets as tfds

    builder_class: Any = tfds.builder_cls(name)
    urls = [urlsplit(url) for url in builder_class.url_infos]
    hosts = {url.hostname: 80 if url.scheme == "http" else 443 for url in urls if url.hostname}
    proxies = [urlsplit(url) for url in getproxies().values()]
    hosts = {url.hostname: url.port or 80 for url in proxies if url.hostname} or hosts
    if hosts and not any(_answers(host, port) for host, port in hosts.items()):
        raise ConnectionError(f"no answer from {', '.join(sorted(hosts))}")
    _hide_accelerators()
    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")


def _answers(host: str, port: int) -> bool:
    """Whether a host takes a connection; name resolution has time-outs of its own, far longer."""
    answers: list[bool] = []

    def connect() -> None:
        with socket.create_connection((host, port), timeout=_SECONDS):
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


def _convert(name: str, folder: Path, crop: int) -> None:
    _hide_accelerators()
    import tensorflow_datasets as tfds

    check_name(name, folder)
    facts = CATALOG[name]
    builder: Any = tfds.builder_from_directory(folder)
    wanted = Features("image", facts.label, facts.factors)
    features = features_in(builder, folder, wanted, strict=False)
    decoders = decoders_of(builder, features.x)
    are_jpeg: list[bool] = []

    def blocks(split: str) -> Blocks:
        source = iter(
            tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, decoders=decoders))
        )
        while examples := list(itertools.islice(source, _CHUNK)):
            are_jpeg.append(starts_as_jpeg(examples[0][features.x]))
            yield columns_of(folder, examples, features)

    splits = {split: blocks(split) for split in SPLITS if split in builder.info.splits}
    source = f"the TFRecord directory {folder}"
    splits, note = as_published(name, splits, crop, source, lambda: any(are_jpeg))
    key = cache_key(name, crop)
    cache.write(key, name, splits, scale=facts.scale, note=note, canonical=True)


if __name__ == "__main__":
    sys.exit(main())
