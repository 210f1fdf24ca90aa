"""How long a user waits: from the command `vaejax train` to its first step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ml_collections import ConfigDict

from vaejax.config import to_json
from vaejax.data.cache import cache_folder

_POLL = 0.01  # seconds
_LIMIT = 600.0


def startup_seconds(config: ConfigDict) -> dict[str, float]:
    """Seconds from the command to the first line of timing, with an empty and with a filled cache.

    The caches of compiled programs are fresh; data sets that are cached already stay so.  Raises
    ValueError where the run ends before its first step.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = config.copy_and_resolve_references().unlock()
        config.log_every = 1
        (root / "config.json").write_text(to_json(config))
        cache = root / "cache"
        cache.mkdir()
        if cache_folder().exists():
            (cache / cache_folder().name).symlink_to(cache_folder().resolve())
        return {kind: _first_step(root, kind, cache) for kind in ("cold", "warm")}


def _first_step(root: Path, kind: str, cache: Path) -> float:
    workdir, errors = root / kind, root / f"{kind}.log"
    command = [sys.executable, "-m", "vaejax", "train", "--quiet"]
    command += ["--config", str(root / "config.json"), "--workdir", str(workdir)]
    environment = {**os.environ, "VAEJAX_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would take precedence, and be filled
    timing = workdir / "timing.jsonl"
    with errors.open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not (timing.exists() and timing.stat().st_size):
                seconds = time.perf_counter() - began
                if process.poll() is not None or seconds > _LIMIT:
                    last = errors.read_text().strip().rpartition("\n")[2]
                    raise ValueError(f"a run took no step in {seconds:.0f} s: {last}")
                time.sleep(_POLL)
            return time.perf_counter() - began
        finally:
            process.terminate()  # saves a checkpoint, which warms what a run compiles for that
            process.wait()
