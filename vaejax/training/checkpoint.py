"""Orbax checkpoints of a TrainState: written in the background, kept N at a time."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vaejax.training.state import TrainState

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_LARGER, _RECORDS = 1.1, 2**18  # what a checkpoint takes on disk: by its values, and in any case


_STEP = re.compile(r"0|[1-9][0-9]{,17}")  # the name of a finished one; others have a suffix


class CheckpointError(ValueError):
    """A checkpoint that is missing, or cannot be read or written; the message says what to do."""


class Checkpoints:
    """The folder `workdir/checkpoints`, one sub-folder per step; read-only without `keep`."""

    def __init__(self, workdir: Path, keep: int | None = None):
        # Orbax logs a paragraph per checkpoint through absl; what matters is raised anyway.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = (workdir / "checkpoints").absolute()
        if keep is None and not self.folder.is_dir():
            raise CheckpointError(f"no checkpoints in {workdir}")
        if keep is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._keep = keep

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's, from its first use on: a run takes its first step before that is imported."""
        orbax, process = _orbax(), jax.process_index()  # of several, no other one is waited for
        options = orbax.CheckpointManagerOptions(
            create=False,
            cleanup_tmp_directories=self._keep is not None,  # of processes that were killed
            read_only=self._keep is None,
            enable_async_checkpointing=self._keep is not None,
            multiprocessing_options=orbax.options.MultiprocessingOptions(process, {process}),
        )
        return orbax.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        if "_manager" in vars(self):
            with self._told():
                self._manager.close()
        if exception[0] is None:
            self._remove_old()

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def reload(self) -> None:
        """Read the folder again: steps were moved or removed."""
        self._manager.reload()

    def save(self, state: TrainState) -> None:
        """Start writing `state`, a `host_copy`; returns before it is on disk.

        Raises CheckpointError where this one, or the one before, cannot be written.
        """
        saved = {"state": state, "sha256": _digest(state)}
        with self._told(int(state.step)):
            self._manager.wait_until_finished()
            self._remove_old()
            self.reload()
            _check_space(self.folder, state)
            self._manager.save(int(state.step), args=_orbax().args.StandardSave(saved))

    def wait(self) -> None:
        """Block until what was saved is on disk.  Raises CheckpointError where that fails."""
        with self._told():
            self._manager.wait_until_finished()

    def _remove_old(self) -> None:
        """Keep the last ones.  Orbax would remove files, and a kill would leave part of a step."""
        for step in saved_steps(self.folder.parent)[: -(self._keep or 0)]:
            renamed = f"{step}{_orbax().utils.TMP_DIR_SUFFIX}"  # removed by the next process
            shutil.rmtree((self.folder / str(step)).rename(self.folder / renamed))

    @contextlib.contextmanager
    def _told(self, step: int | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types, also of a full disk
            whole = [each for each in saved_steps(self.folder.parent) if each != step]
            kept = f"; the run goes on from checkpoint {whole[-1]}" if whole else ""
            raise CheckpointError(
                f"a checkpoint in {self.folder} cannot be written{kept} ({_reason(error)})"
            ) from error

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state saved at `step` (default: the latest), laid out for the first local device.

        Raises CheckpointError, naming the folder, when it is missing, unreadable or of another
        model; nothing is deleted.
        """
        steps = self.steps()
        step = max(steps, default=0) if step is None else step
        if step not in steps:
            raise CheckpointError(f"no checkpoint {step} in {self.folder}; {steps} are there")
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            {"state": like, "sha256": np.zeros(32, np.uint8)},
        )
        try:
            saved: Any = self._manager.restore(step, args=_orbax().args.StandardRestore(target))
            # Of values, unlike of its own records, TensorStore keeps no checksum.
            if not np.array_equal(saved["sha256"], _digest(saved["state"])):
                raise ValueError("its values are not those that were saved")
            if int(saved["state"].step) != step:
                raise ValueError(f"it is that of step {int(saved['state'].step)}")
            return saved["state"]
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            earlier = [other for other in steps if other < step]
            offer = f"; --checkpoint {earlier[-1]} goes back to the one before" if earlier else ""
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} cannot be read{offer} ({_reason(error)})"
            ) from error


@functools.cache
def _orbax() -> Any:
    import orbax.checkpoint

    return orbax.checkpoint


def _check_space(folder: Path, state: TrainState) -> None:
    """Refuse in time: of a disk that is full, Orbax's threads tell in a hundred lines."""
    needed = _LARGER * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _RECORDS
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"it needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition(" See full TensorStore details")[0][:160]


def _digest(state: TrainState) -> np.ndarray:
    """SHA-256 of all values, in the order of the tree.  -> (32,) uint8."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def host_copy(state: TrainState) -> TrainState:
    """`state` as NumPy arrays of its own: the next step donates the buffers of the original."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


def saved_steps(workdir: str | Path) -> list[int]:
    """Steps of the finished checkpoints of a run, ascending; [] where there is no run.

    >>> vaejax.saved_steps("runs/digits")
    [2, 4]
    """
    folder = Path(workdir) / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if _STEP.fullmatch(name))


def set_aside(workdir: Path, after: int) -> list[Path]:
    """Move checkpoints later than step `after` to `workdir/set_aside`, where nothing reads them."""
    moved = []
    for step in saved_steps(workdir):
        if step > after:
            target = workdir / "set_aside" / str(step)
            while target.exists():
                target = target.with_name(target.name + "_")
            target.parent.mkdir(exist_ok=True)
            moved.append((workdir / "checkpoints" / str(step)).rename(target))
    return moved
