"""Progress is a bar where one can be drawn, one output in a notebook, and lines elsewhere."""

import sys
from types import SimpleNamespace

import pytest

from vaejax import progress
from vaejax.progress import ProgressReport, said


@pytest.fixture
def cell(monkeypatch):
    """What a cell shows: its outputs, each a list of all that it was."""
    outputs = []

    def display(content, raw, display_id):
        assert raw
        assert display_id
        outputs.append([content])
        return SimpleNamespace(update=lambda content, raw: outputs[-1].append(content))

    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return outputs


def test_a_cell_has_one_output_that_ends_at_the_last_step(cell, monkeypatch, capsys):
    now = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) / 100)  # a step in 10 ms
    with ProgressReport("beta_tc on <digits>", 0, 1_000) as report:
        for step in range(1, 1_001):
            report.update(step)
            if step % 500 == 0:
                report.note(step, {"loss": 1 / step}, 100.0)
    (shown,) = cell
    assert len(shown) < 120  # not a thousand
    assert "1,000 of 1,000  loss 0.001" in shown[-1]["text/plain"]
    assert 'max="1000" value="1000"' in shown[-1]["text/html"]
    assert "&lt;digits&gt;" in shown[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_what_is_said_is_no_error_in_a_cell(cell, capsys):
    said("data: digits")
    assert capsys.readouterr() == ("data: digits\n", "")


def test_elsewhere_there_are_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_is_notebook", lambda: False)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    said("data: digits")
    with ProgressReport("fit", 0, 2) as report:
        report.update(1)
        report.note(2, {"loss": 0.5}, 10.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "data: digits"
    assert err.splitlines()[1] == "fit  1/2"
    assert "step 2/2  loss 0.5  10 steps/s" in err


def test_quiet_is_quiet_in_a_cell(cell, capsys):
    with ProgressReport("fit", 0, 2, quiet=True) as report:
        report.update(1)
        report.note(2, {"loss": 0.5}, 10.0)
    assert cell == []
    assert capsys.readouterr() == ("", "")
