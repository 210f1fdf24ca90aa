"""The latent plane as a part of a page: arrays -> what `explorer.js` draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vaejax.evaluation.plane import POCKET, Plane
from vaejax.reporting.latent import MASSES, PALETTE, Grid, mass_levels
from vaejax.reporting.page import data_uri, escaped, script_json

# On dark paper: the same hues, light enough to be told from it.
_DARK = ("#4DB3F0", "#F0B73A", "#2FC79A", "#E39AC3", "#FF8A4C")
_DARK += ("#F2F2F2", "#E8DC90", "#B98A6A", "#FF6F73", "#C98BFF")
_MARKS = 250  # of low- and of high-posterior samples: more hide what they lie on
_POINTS = 1_000  # of the data behind a decoded point
_SPRITE = 1_200_000  # numbers of all decoded images of a plane
_LAYERS = (
    ("aggregate", "aggregate posterior <i>q</i>", True),
    ("prior", "prior <i>p</i>: 50, 90, 99 % of its mass", True),
    ("codes", "codes of held-out data", True),
    ("pockets", "pockets and leaks", True),
    ("low", "low-posterior samples", False),
    ("high", "high-posterior samples", False),
)
COLORS = {"light": PALETTE, "dark": _DARK}


def num_nodes(x_shape: tuple[int, ...]) -> int:
    """Decoded nodes along a side of a plane, so that a page of several remains a few megabytes."""
    fits = [nodes for nodes in (33, 17) if nodes**2 * np.prod(x_shape) <= _SPRITE]
    return max(fits, default=9)


def explorer_data(
    planes: Mapping[str, Plane], x: np.ndarray, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """What the explorer of one run is made of, as JSON.

    planes: by space, as of `evaluation.plane.planes`.  x: (N, *X) data behind decoded points.
    labels: (M,) of the codes, shown by color when they are 2 to 10 classes.  Arrays become base64
    of little-endian float32 or bytes, decoded images one PNG of all nodes.
    """
    names = [] if labels is None else np.unique(labels).tolist()
    if not 2 <= len(names) <= len(PALETTE):
        names, labels = [], None
    kind = _kind(x.shape[1:])
    found: dict[str, Any] = {"kind": kind, "shape": list(x.shape[1:]), "classes": names}
    if kind == "point":
        found["data"] = _floats(x[:_POINTS])
    indices = None if labels is None else np.searchsorted(names, labels)
    found["spaces"] = {name: _space(each, kind, indices) for name, each in planes.items()}
    return found


def explorer(
    labels: Sequence[str], runs: Sequence[Mapping[str, Plane]], data: Sequence[dict]
) -> str:
    """The explorer of several runs, as HTML.  data: of each, what `explorer_data` gives."""
    spaces = list(dict.fromkeys(space for planes in runs for space in planes))
    start = {space: _start(space, runs) for space in spaces}
    shared = {"pocket": POCKET, "colors": COLORS, "start": start, "frame": _frame(data)}
    blocks = [_run(k, *each) for k, each in enumerate(zip(labels, runs, data, strict=True))]
    everything = script_json({**shared, "runs": list(data)})
    return (
        f'<div id="explorer"><form class="controls" autocomplete="off">{_space_choice(spaces)}'
        f"{_layer_choice(data)}</form>"
        f'<div class="runs">{"".join(blocks)}</div>'
        "<noscript><p>The explorer needs JavaScript; all else on this page does not.</p></noscript>"
        f'<script type="application/json" id="explorer-data">{everything}</script></div>'
    )


def _space_choice(spaces: Sequence[str]) -> str:
    texts = {"z": "representation <i>z</i>", "z0": "generation <i>z</i><sub>0</sub>"}
    if len(spaces) == 1:
        return '<p class="only">Representation and generation space coincide.</p>'
    radios = [
        f'<label><input type="radio" name="space" value="{space}"{" checked" * (space == "z")}>'
        f"<span>{texts[space]}</span></label>"
        for space in spaces
    ]
    return f"<fieldset><legend>Space</legend>{''.join(radios)}</fieldset>"


def _layer_choice(data: Sequence[Mapping[str, Any]]) -> str:
    boxes = []
    for name, text, shown in _LAYERS:
        checked = " checked" if shown else ""
        boxes.append(
            f'<label><input type="checkbox" value="{name}"{checked}>'
            f'<span class="swatch {name}" aria-hidden="true"></span><span>{text}</span></label>'
        )
    return f"<fieldset><legend>Show</legend>{''.join(boxes)}</fieldset>"


def _run(index: int, label: str, planes: Mapping[str, Plane], data: Mapping[str, Any]) -> str:
    kind, symbol = data["kind"], '<i class="symbol">z</i>'
    height, width = (data["shape"] if kind == "image" else (1, 1))[:2]
    share = next(iter(planes.values())).pocket_mass
    rows = (("at", f"{symbol}"), ("p", f"log <i>p</i>({symbol})"), ("q", f"log <i>q</i>({symbol})"))
    rows += (("ratio", "log <i>p</i> \u2212 log <i>q</i>"),)
    readout = "".join(f'<dt>{text}</dt><dd data-part="{name}">\u2013</dd>' for name, text in rows)
    picture = (
        f'<figure class="shown {kind}"><canvas data-part="decoded" width="{width}" '
        f'height="{height}" role="img" aria-label="decoded at the pointer, {escaped(label)}">'
        f'</canvas><figcaption>decoded there <span data-part="where"></span></figcaption></figure>'
    )
    if kind == "none":  # other vectors than points in a plane have no picture
        picture = ""
    return (
        f'<article class="run"><h3>{escaped(label)}</h3>'
        f'<p class="fact"><b>{100 * share:.3g} %</b> of the prior\u2019s samples fall into '
        f"pockets, where the prior is over {np.exp(POCKET):.0f} times as dense as the codes.</p>"
        f'<div class="stage"><canvas class="plane" data-part="plane" tabindex="0" '
        f'role="application" aria-label="latent plane of {escaped(label)}; arrow keys move the '
        f'pointer, with Shift eight times as far" aria-describedby="readout-{index}"></canvas>'
        f'<div class="side">{picture}<output id="readout-{index}"><dl>{readout}</dl>'
        f'<p class="verdict" data-part="verdict"></p></output></div></div></article>'
    )


def _frame(data: Sequence[Mapping[str, Any]]) -> list[float]:
    """A square around the data of all runs.  -> left, right, bottom, top."""
    clouds = [
        np.frombuffer(base64.b64decode(each["data"]), "<f4") for each in data if "data" in each
    ]
    if not clouds:
        return [0.0, 1.0, 0.0, 1.0]
    points = np.concatenate(clouds).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    center, reach = (low + high) / 2, 0.62 * max(float((high - low).max()), 1e-3)
    return [float(center[d] + sign * reach) for d in (0, 1) for sign in (-1, 1)]


def _start(space: str, runs: Sequence[Mapping[str, Plane]]) -> list[float]:
    """Where to begin: the deepest pocket of the first run that has this space.

    Within 99 % of the prior of every run, else at least where all show something.
    """
    shown = [planes.get(space, planes["z"]) for planes in runs]
    first = next(planes[space] for planes in runs if space in planes)
    covered = np.ones_like(first.log_p, bool)
    sampled = covered.copy()
    for each in shown:
        (level,) = mass_levels(Grid(each.x, each.y, each.log_p), MASSES[-1:])
        rows, columns = (_nearest(getattr(each, d), getattr(first, d)) for d in ("y", "x"))
        covered &= (rows >= 0)[:, None] & (columns >= 0)
        sampled &= covered & (each.log_p[np.ix_(rows, columns)] >= level)
    for within in (sampled, covered):
        if (found := deepest_pocket(first, within)) is not None:
            return found
    return deepest_pocket(first) or [0.0, 0.0]


def _nearest(axis: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where on an even axis (G,) points (N,) are; -1 for those beyond its ends."""
    index = np.round((points - axis[0]) / (axis[1] - axis[0])).astype(int)
    return np.where((points >= axis[0]) & (points <= axis[-1]), index, -1)


def deepest_pocket(plane: Plane, within: np.ndarray | None = None) -> list[float] | None:
    """Where, within nine tenths of the prior's mass, log p - log q is largest.  -> [x, y].

    within: (G, G) bool, the part of the plane to look at.  None where there is no such place.
    """
    (level,) = mass_levels(Grid(plane.x, plane.y, plane.log_p), (0.9,))
    inside = (plane.log_p >= level) & ~np.isnan(plane.log_q)
    inside &= True if within is None else within
    if not inside.any():
        return None
    ratio = np.where(inside, plane.log_p - plane.log_q, -np.inf)
    row, column = np.unravel_index(ratio.argmax(), ratio.shape)
    return [round(float(plane.x[column]), 3), round(float(plane.y[row]), 3)]


def _kind(x_shape: Sequence[int]) -> str:
    if len(x_shape) == 3 and x_shape[-1] in (1, 3):
        return "image"
    return "point" if tuple(x_shape) == (2,) else "none"


def _space(plane: Plane, kind: str, indices: np.ndarray | None) -> dict[str, Any]:
    prior, aggregate = (Grid(plane.x, plane.y, each) for each in (plane.log_p, plane.log_q))
    found = {
        "extent": [float(end) for end in (*plane.x[[0, -1]], *plane.y[[0, -1]])],
        "size": len(plane.x),
        "nodes": len(plane.decoded),
        "log_p": _floats(plane.log_p),
        "log_q": _floats(plane.log_q),
        "codes": _floats(plane.codes),
        "low": _floats(_thinned(plane.low)),
        "high": _floats(_thinned(plane.high)),
        "contours": _contours(prior),
        "edges": [float(mass_levels(grid, MASSES[-1:])[0]) for grid in (prior, _finite(aggregate))],
    }
    if indices is not None:
        indices = indices[: len(plane.codes)]
        found |= {
            "class_of": _base64(indices.astype(np.uint8)),
            "centers": _centers(plane.codes, indices),
        }
    if kind == "image":
        found["decoded"] = sprite(plane.decoded)
    elif kind == "point":
        found["decoded"] = _floats(plane.decoded)
    return found


def _finite(grid: Grid) -> Grid:
    return grid._replace(log_density=np.nan_to_num(grid.log_density, nan=-np.inf))


def _thinned(points: np.ndarray) -> np.ndarray:
    """Evenly, since they are in the order of their score."""
    return points[:: -(-len(points) // _MARKS)]


def _contours(grid: Grid) -> list[list[list[float]]]:
    """For each of MASSES the closed or open lines around it, each x, y, x, y, ..."""
    levels = mass_levels(grid, MASSES)
    axes = Figure().add_subplot()
    drawn = axes.contour(grid.x, grid.y, grid.log_density, sorted(set(levels.tolist())))
    lines = dict(zip(drawn.levels, drawn.allsegs, strict=True))
    return [[np.round(line, 3).ravel().tolist() for line in lines[level]] for level in levels]


def _centers(codes: np.ndarray, indices: np.ndarray) -> list[list[float]]:
    """Of each class, the code nearest its median.  -> [[class, x, y], ...]."""
    found = []
    for index in np.unique(indices).tolist():
        members = codes[indices == index]
        distance = ((members - np.median(members, axis=0)) ** 2).sum(axis=1)
        found.append([index, *members[distance.argmin()].round(3).tolist()])
    return found


def sprite(images: np.ndarray) -> str:
    """Decoded images as one PNG, row by row, as a data URI.

    images: (K, K, H, W, C) in [0, 1] (clipped), C = 1 or 3; what is not a number becomes black.
    """
    rows, columns, height, width, channels = images.shape
    finite = np.where(np.isfinite(images), images, 0.0)
    pixels = np.round(np.clip(finite, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 1, 3, 4)
    canvas = pixels.reshape(rows * height, columns * width, channels)
    buffer = io.BytesIO()
    image = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    image.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def _floats(values: np.ndarray) -> str:
    return _base64(np.asarray(values, "<f4"))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
