"""The sources of the documentation name all that is public, and nothing that is not there."""

import ast
import re
from pathlib import Path

from test_imports import ROOMS

import vaejax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "launch" / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NO_ROOM = ("__main__", "cli", "probability", "types")  # `types` is the page of contracts


def contents():
    """What the index lists, in order, as paths from the root without suffix."""
    for tree in re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL):
        for entry in tree.split("\n\n", 1)[1].split():
            yield entry[1:] if entry.startswith("/") else f"launch/docs/{entry}"


def modules_of_pages():
    """Page -> the modules whose docstrings it shows."""
    found = {}
    for page in sorted((DOCS / "rooms").glob("*.md")):
        (names,) = re.findall(r"^\[modules of (.*)\]$", page.read_text(), re.MULTILINE)
        found[page.stem] = [name.removeprefix("vaejax.") for name in names.split(", ")]
    return found


def test_the_page_of_the_interface_has_every_public_name_once():
    text = (DOCS / "api.md").read_text()
    named = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(vaejax.__all__)


def test_the_page_of_contracts_shows_every_class_and_alias_of_types():
    source, text = (ROOT / "vaejax/types.py").read_text(), (DOCS / "contracts.md").read_text()
    classes = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert re.findall(r":pyobject: (\w+)", text) == classes
    assert re.findall(r"py:class:: vaejax\.types\.(\w+)", text) == classes
    for marker in re.findall(r"(?:start-at|start-after|end-before): '(.*)'", text):
        assert marker in source, marker


def test_every_room_has_a_page_and_pages_are_in_the_order_of_rooms():
    pages = modules_of_pages()
    shown = [room for rooms in pages.values() for room in rooms]
    wanted = [room for room in ROOMS if not room.startswith(NO_ROOM)]
    assert sorted(shown) == sorted(wanted)
    order = [Path(entry).stem for entry in contents() if "/rooms/" in entry]
    rooms = [page for page in order if pages[page] == [page]]
    assert rooms == sorted(rooms, key=ROOMS.index)
    assert sorted(order) == sorted(pages)


def test_the_contents_list_every_page_and_notebook_once():
    listed = list(contents())
    for entry in listed:
        assert any((ROOT / f"{entry}{suffix}").exists() for suffix in (".md", ".ipynb")), entry
    pages = [*PAGES, *(ROOT / "notebooks").glob("*.ipynb")]
    found = {str(page.relative_to(ROOT).with_suffix("")) for page in pages}
    assert found - {"launch/docs/index"} <= set(listed)
    assert len(listed) == len(set(listed))


def test_links_of_pages_lead_to_files_and_headings():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target, heading in re.findall(r"\]\((?!https:)([^)#]+)(#[^)]*)?\)", text):
            other = page.parent / target
            assert other.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert not heading or heading[1:] in slugs, f"{page.name}: {heading}"
