"""Sphinx: HTML of the pages here, the notebooks, and the docstrings; see `launch/docs.sh`.

The source folder is that of the repository, so that pages, notebooks and the READMEs link to each
other as they do there.  Nothing is fetched, and pages need no network to be read.
"""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import vaejax  # noqa: E402

project, author, release = "vaejax", "the vaejax authors", vaejax.__version__
copyright = author
root_doc = "launch/docs/index"
extensions = ["sphinx.ext.autodoc", "myst_nb"]
include_patterns = ["README.md", "configs/README.md", "launch/*.md", "launch/docs/**"]
include_patterns += ["notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "runs", "tests", "vaejax"]

html_theme = "furo"
html_title = "vaejax"
html_math_renderer = "mathml"  # MathJax would be fetched by whoever reads a page
html_copy_source = False
html_theme_options = {"light_css_variables": {"code-font-size": "0.72rem"}}  # for 100 columns

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
add_module_names = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Files of the repository that a page links to and that are no pages are shown by name.
suppress_warnings = ["myst.xref_missing"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_ipywidgets_js = {}

_FLAX_FIELDS = re.compile(r",\s*parent: .*$", flags=re.DOTALL)
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def _prose(text: str) -> str:
    """A line of a docstring, which is plain text with `names`, as reStructuredText."""
    parts = re.split(r"(`[^`]+`)", text)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = f"\\ `{part}`\\ "
        else:
            part = re.sub(r"([\\*|_])", r"\\\1", part)
            parts[index] = _ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", part)
    return "".join(parts)


def _row(text: str) -> str:
    return f"* {_prose(text[2:])}" if text.startswith("* ") else _prose(text)


def _restructured(app, what, name, obj, options, lines):
    """Docstrings are written to be read where they are: paragraphs, indented blocks, examples."""
    blocks = "\n".join(lines).strip("\n").split("\n\n")
    made = []
    for block in blocks:
        rows = block.split("\n")
        if block.startswith(">>>"):
            made.append(block)
        elif block.startswith(" "):
            made.append("::\n\n" + block)
        else:
            made.append("\n".join(_row(row) for row in rows))
    lines[:] = "\n\n".join(made).split("\n")


def _shortened(app, what, name, obj, options, signature, returns):
    """Without the two fields that every Flax module has, and with names that can be read."""
    if signature and what == "class":
        signature = _FLAX_FIELDS.sub(")", signature)
        signature = re.sub(r"~[\w.]+\.", "", signature).replace("<factory>", "{}")
    return signature, returns


def _with_modules(app, docname, source):
    """`[modules of vaejax.models]` in a line by itself becomes the docstrings of them all."""
    source[0] = re.sub(r"^\[modules of (.*)\]$", _modules, source[0], flags=re.MULTILINE)


def _folders(app, docname, source):
    """A link to a folder becomes one to the page of the room; of another folder, its name stays."""
    source[0] = re.sub(r"\[([^\]\n]+)\]\((?!https?:)([\w./-]+)/\)", _page, source[0])


def _page(found) -> str:
    room = f"launch/docs/rooms/{Path(found[2]).name}.md"
    return f"[{found[1]}](/{room})" if (ROOT / room).exists() else found[1]


def _modules(found) -> str:
    names = []
    for name in found[1].split(", "):
        module = importlib.import_module(name)
        inner = pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}.")
        names += [m.name for m in inner] or [name]
    page = "## {0}\n\n```{{eval-rst}}\n.. automodule:: {0}\n```\n"
    return "\n".join(page.format(name) for name in names)


def _math(is_block):
    def visit(translator, node):
        # Sizes of brackets are unknown to docutils, and MathML stretches brackets by itself.
        text = re.sub(r"\\[bB]igg?[lmr]?(?![a-zA-Z])", "", node.astext())
        math = tex2mathml(text, as_block=is_block)
        translator.body.append(f"<p>{math}</p>" if is_block else math)
        raise nodes.SkipNode

    return visit


def setup(app):
    """Have formulas as MathML, and docstrings as reStructuredText."""
    app.add_html_math_renderer("mathml", (_math(False), None), (_math(True), None))
    app.connect("autodoc-process-docstring", _restructured)
    app.connect("autodoc-process-signature", _shortened)
    app.connect("source-read", _with_modules)
    app.connect("source-read", _folders)
