"""The pieces of a page that needs nothing but itself."""

from __future__ import annotations

import base64
import html
import importlib.resources
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vaejax.training.workdir import write_text

_OURS = '<meta name="generator" content="vaejax report">'
_PIXELS_PER_INCH = 160  # of figures: a page shows them at less than their own size
_UNSEEN = 1.0  # mean change of a channel, of 255


def escaped(text: object) -> str:
    """Text as it may stand in HTML, in attributes too."""
    return html.escape(str(text), quote=True)


def signed(number: str) -> str:
    """A number with the minus sign of typography."""
    return number.replace("-", "\u2212")


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script>: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def figure_uri(figure: Figure) -> str:
    """A figure as a PNG, of 256 colors where that is hard to see, as a data URI."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_PIXELS_PER_INCH)
    image = Image.open(drawn).convert("RGB")
    fewer = image.quantize(256, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(fewer.convert("RGB"), np.int16) - np.asarray(image, np.int16))
    chosen = fewer if change.mean() < _UNSEEN else image
    chosen.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page(title: str, body: str, scripts: Sequence[str]) -> str:
    """A whole HTML document: `body` is HTML, the title is text."""
    template = Template(_text("report.html"))
    script = "".join(_text(name) for name in scripts)
    script = f'<script>\n(() => {{\n"use strict";\n{script}}})();\n</script>' if scripts else ""
    return template.substitute(
        ours=_OURS,
        title=escaped(title),
        style=_text("report.css"),
        body=body,
        script=script,
    )


def check_replaceable(path: Path) -> None:
    """Raise ValueError unless `path` is free or holds a page that `write_page` wrote."""
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for the report {path.name}")
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} is there and no file of ours; give another place with --out")
    with path.open("rb") as file:
        if _OURS.encode() not in file.read(1_000):
            raise ValueError(f"{path} is there and not by vaejax report; give another --out")


def write_page(path: Path, text: str) -> None:
    """Write a page in one piece.  Raises ValueError where that would replace anything else."""
    check_replaceable(path)
    write_text(path, text)


def _text(name: str) -> str:
    return importlib.resources.files("vaejax.reporting").joinpath(name).read_text("utf-8")
