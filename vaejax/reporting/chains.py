"""Markov chains of a run: their files, and pictures of their states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vaejax.config import unknown
from vaejax.data.arrays import Dataset
from vaejax.evaluation.chains import markov_paths, noise_of, reconstructed
from vaejax.evaluation.mixing import autocorrelation, projection
from vaejax.memory import check_memory
from vaejax.models.programs import program
from vaejax.parallel import example_keys
from vaejax.reporting import figures
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.reporting.panels import (
    NOTE,
    axes_at,
    block_size,
    data_frame,
    dot_key,
    image_block,
    keys_at,
    point_cloud,
    text_at,
    titled,
)
from vaejax.reporting.walks import PATH_COLORS
from vaejax.training.state import CHAIN, observed, stream_key
from vaejax.training.validation import num_at_once, over_split
from vaejax.types import Array

STARTS = ("noise", "data")
_MOST_FOLLOWED = {True: 2_000, False: 8}  # chains: of points, of others
_MOST_KEPT, _COLUMNS, _PANELS, _TRACKED = 1_000, 12, 6, 3
_WIDTH = figures.WIDTH - 0.75  # inches of a row of images
_LAGS = (1, 3, 10, 30, 100, 300)


class Chains(NamedTuple):
    """N chains of a model, of which the first C are followed."""

    x: np.ndarray  # (N, *X) the last states
    path: np.ndarray  # (C, T, *X) states at some steps, the start included
    steps: np.ndarray  # (T,) which
    lags: np.ndarray  # (L,) in steps
    autocorrelation: np.ndarray  # (L,) along the main direction of the followed, in their 2nd half


def write_chains(
    workdir: str | Path,
    num_chains: int,
    draw: int = 0,
    *,
    chain: str,
    num_steps: int = 200,
    start: str = "noise",
    denoised: bool = False,
    dataset: Dataset | None = None,
    checkpoint: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write states of chains of a run into `samples/`.  -> the paths written.

    An .npz of what is in `Chains`; for images and points of the plane also a picture of the last
    states, .png, and one of those before, _path.png.  With `denoised`, all states are replaced by
    what the model makes of them.  Raises ValueError where `opened` and `chains_of` do.
    """
    run, options = opened(workdir, dataset, checkpoint=checkpoint), options or {}
    given: dict[str, Any] = {
        "chain": chain,
        "num_steps": num_steps,
        "start": start,
        "options": options,
    }
    found = chains_of(run, num_chains, draw, **given)
    settings = "".join(f"_{key}={value}".lower() for key, value in sorted(options.items()))
    stem = f"{chain}{settings}_{start}_steps{num_steps}_seed{draw}_n{num_chains}"
    what = f"{num_chains} chains"
    if denoised:
        states = [_denoised(run, x) for x in (found.x, found.path)]
        found = found._replace(x=states[0], path=states[1])
        stem, what = f"{stem}_denoised", f"{what}, denoised"
    files: dict[str, Callable[[Path], None]] = {".npz": lambda path: _write_arrays(path, found)}
    is_plane = figures.are_points(found.x)
    if is_plane or (found.x.ndim == 4 and found.x.shape[-1] in (1, 3)):
        data = run.held_out(2_000) if is_plane else None
        title = f"{chain.capitalize()}, {what} after {num_steps:,} steps from {start}"
        last = figures.samples(found.x, data, title)
        how = ", denoised" if denoised else ""
        path = path_figure(found, data, f"{chain.capitalize()} chains from {start}{how}")
        files |= {".png": figures.file_of(last, ".png"), "_path.png": figures.file_of(path, ".png")}
    paths = {Path(workdir) / "samples" / f"{stem}{end}": write for end, write in files.items()}
    figures.write_whole(paths)
    return list(paths)


def chains_of(
    run: OpenedRun,
    num_chains: int,
    draw: int = 0,
    *,
    chain: str,
    num_steps: int,
    start: str = "noise",
    options: Mapping[str, Any] | None = None,
) -> Chains:
    """Chains of a run from uniform noise in the range of the data, or from held-out examples.

    They are numbered; one depends on `draw` and its number alone.  Raises ValueError for fewer than
    1 chain or step, an unknown start, fewer data than chains, and where `markov_paths` does.
    """
    if min(num_chains, num_steps) < 1 or max(num_chains, num_steps) >= 2**31:
        asked = f"{num_chains} chains of {num_steps} steps asked for"
        raise ValueError(f"{asked}; at least 1 each, and fewer than 2**31")
    size = 8.0 * num_chains * math.prod(run.dataset.x_shape)
    check_memory(size, f"the states of {num_chains:,} chains", "take fewer")
    if not 0 <= draw < 2**32:
        raise ValueError(f"the seed of the chains is {draw}; it must be in [0, 2**32)")
    root = jax.random.fold_in(stream_key(run.seed, CHAIN), draw)
    start_key, key = jax.random.split(root)
    given: dict[str, Any] = {"kernel": chain, "noise": noise_of(run.config), "options": options}
    given |= {"key": key, "num_steps": num_steps}
    x = start_states(run, num_chains, start, start_key)
    followed = _MOST_FOLLOWED[figures.are_points(x)]
    thin = -(-num_steps // _MOST_KEPT)
    rest = num_steps % thin  # so that the last state is kept
    path = markov_paths(
        run.model, run.variables, start=x[:followed], burn_in=rest, thin=thin, **given
    )
    last = path[:, -1]
    if num_chains > followed:
        more = {"start": x[followed:], "first": followed, "burn_in": num_steps - 1}
        others = markov_paths(run.model, run.variables, **more, **given)
        last = np.concatenate([last, others[:, -1]])
    along = projection(path[:, path.shape[1] // 2 :])
    lags = np.array([0, *(lag for lag in _LAGS if lag < along.shape[1])])
    correlation = autocorrelation(along, int(lags[-1]))[lags]
    path = np.concatenate([x[:followed, None], path], axis=1)
    steps = np.array([0, *rest + thin * np.arange(1, path.shape[1])])
    some = np.unique(np.linspace(0, len(steps) - 1, _COLUMNS).round().astype(int))
    return Chains(last, path[:, some], steps[some], thin * lags, correlation)


def start_states(run: OpenedRun, num_chains: int, start: str, key: Array) -> np.ndarray:
    """Where chains start.  -> (num_chains, *X).

    "noise" is uniform between the smallest and the largest value of held-out x; "data" are held-out
    examples in random order.  Raises ValueError for another name, and fewer examples than chains.
    """
    if start not in STARTS:
        raise unknown("start", start, STARTS)
    if start == "noise":
        x, keys = run.held_out(1_000), example_keys(key, jnp.arange(num_chains))
        ends = {"minval": x.min(), "maxval": x.max()}
        drawn = jax.vmap(lambda one: jax.random.uniform(one, x.shape[1:], **ends))(keys)
        return np.asarray(drawn)
    rows: Any = run.dataset.splits["test"]
    if num_chains > len(rows):
        raise ValueError(f"{num_chains} chains from {len(rows)} held-out examples; at most as many")
    index = np.asarray(jax.random.permutation(key, len(rows)))[:num_chains]
    return np.asarray(observed(run.transform, rows[index], index))


def _denoised(run: OpenedRun, x: np.ndarray) -> np.ndarray:
    """What the model makes of states.  (..., *X) -> the same."""
    shape = run.dataset.x_shape
    denoise = program(reconstructed, run.model)
    flat = x.reshape(-1, *shape)
    most = num_at_once(run.model, run.variables, shape)
    return over_split(lambda rows, _: denoise(run.variables, rows), flat, most).reshape(x.shape)


def _write_arrays(path: Path, found: Chains) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **found._asdict())


@figures.style()
def path_figure(found: Chains, data: np.ndarray | None, title: str) -> Figure:
    """States on the way.  Images: a row for a chain, a column for a step; points: over the data."""
    return _image_path(found, title) if data is None else _point_path(found, data, title)


def mixing_note(found: Chains) -> str:
    """One line about how fast the chains forget."""
    pairs = list(zip(found.lags, found.autocorrelation, strict=True))[1:]
    if not pairs:
        return "too few steps for an autocorrelation"
    lags = ", ".join(f"{lag:,}" for lag, _ in pairs)
    values = ", ".join(f"{value:.2f}" for _, value in pairs)
    return f"autocorrelation (main direction) {lags} steps apart: {values}"


def _image_path(found: Chains, title: str) -> Figure:
    count, columns = found.path.shape[:2]
    images = found.path.reshape(-1, *found.path.shape[2:])
    *_, across, height = block_size(images, columns, _WIDTH)
    figure, top = titled(max(across + 0.75, 5.2), height + 0.62, title)
    axes = image_block(figure, 0.62, top + 0.22, _WIDTH, images, columns)
    rows, width = axes.images[0].get_size()
    given: Any = {"textcoords": "offset points", "fontsize": 7.5, "color": NOTE}
    for k, step in enumerate(found.steps):
        text, place = f"step {step}" if k == 0 else f"{step:,}", (width * (k + 0.5) / columns, 0)
        axes.annotate(text, place, (0, 3), ha="center", **given)
    for k in range(count):
        place = (0, rows * (k + 0.5) / count)
        axes.annotate(f"chain {k + 1}", place, (-5, 0), ha="right", va="center", **given)
    text_at(figure, 0.1, top + height + 0.34, mixing_note(found), fontsize=7.5, color=NOTE)
    return figure


def _point_path(found: Chains, data: np.ndarray, title: str) -> Figure:
    chosen = np.unique(np.linspace(0, len(found.steps) - 1, _PANELS).round().astype(int))
    columns = min(3, len(chosen))
    rows, gap = -(-len(chosen) // columns), 0.34
    side = min((figures.WIDTH - 0.2) / columns - gap, 2.2)
    figure, top = titled(max(columns * (side + gap) + 0.2, 5.2), rows * (side + 0.5) + 0.55, title)
    shown = found.path[:, chosen]
    most = np.quantile(shown, (0.005, 0.995), axis=(0, 1))  # without the few farthest
    ends = np.concatenate([data, most, shown[:_TRACKED].reshape(-1, 2)])
    for panel, k in enumerate(chosen):
        left = gap + panel % columns * (side + gap)
        axes = axes_at(figure, left, top + 0.22 + panel // columns * (side + 0.5), side, side)
        data_frame(axes, ends)
        point_cloud(axes, data)
        point_cloud(axes, found.path[:, k], figures.BLUE, zorder=3)
        for c, color in zip(range(min(_TRACKED, len(found.path))), PATH_COLORS, strict=False):
            axes.scatter(*found.path[c, k], s=30, color=color, edgecolors="white", zorder=4)
        axes.set_title(f"step {found.steps[k]:,}", fontsize=8, color=NOTE)
    text_at(figure, 0.1, top + rows * (side + 0.5) + 0.02, mixing_note(found), fontsize=7.5,
            color=NOTE)  # fmt: skip
    names = [dot_key(figures.GRAY, "held-out data"), dot_key(figures.BLUE, "chains")]
    names += [dot_key(color, f"chain {c + 1}") for c, color in enumerate(PATH_COLORS[:_TRACKED])]
    keys_at(figure, 0.1, 0.06, names)
    return figure
