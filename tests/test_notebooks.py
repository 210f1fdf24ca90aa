"""The notebooks run, from the first cell to the last, and are stored without what they print."""

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest

import vaejax

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = {"quickstart", "compose_a_loss", "decoupled_prior", "checkpoints", "your_own_data"}
NAMES.add("regularized_autoencoders")
MOST_CELLS = 15

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook) -> list[str]:
    """The cells of code, without what is for notebooks alone."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [re.sub(r"^%.*$", "", cell, flags=re.MULTILINE) for cell in cells]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a notebook runs: beside the configs, and with room for its runs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that it starts
    return tmp_path / "notebooks"


def test_all_notebooks_are_here():
    assert {path.stem for path in NOTEBOOKS} == NAMES


@each_notebook
def test_a_notebook_is_short_valid_and_without_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert "widgets" not in json.dumps(notebook.metadata)


@each_notebook
def test_a_notebook_names_what_there_is(path):
    tree = ast.parse("\n".join(code_of(nbformat.read(path, as_version=4))))
    modules = {"config", "types"}  # that are imported beside
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "vaejax":
            assert node.attr in {*vaejax.__all__, *modules}, node.attr
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vaejax":
            exec(ast.unparse(node), {})


@pytest.mark.long
@each_notebook
def test_the_short_form_runs(path, folder, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("VAEJAX_NOTEBOOK_STEPS", "4")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    plt.switch_backend("agg")
    known = {"__name__": "__main__"}
    for cell in code_of(nbformat.read(path, as_version=4)):
        exec(compile(cell, path.name, "exec"), known)


@pytest.mark.slow
@each_notebook
def test_the_full_form_runs_in_a_kernel(path, folder, monkeypatch):
    from nbclient import NotebookClient

    for name in ("VAEJAX_NOTEBOOK_STEPS", "XLA_FLAGS", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1_800, kernel_name="python3", resources=where).execute()
    shown = [
        output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert sum("image/png" in data for data in shown) >= 2
    errors = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert not errors
    assert os.listdir(folder.parent / "runs")
