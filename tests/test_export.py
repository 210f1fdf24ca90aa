"""An export is used by JAX without us, gives what the model gives, and is never lost."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import one_line, some_long

import vaejax
from vaejax import artifact
from vaejax.cli import main

# A process in which all that vaejax needs, but JAX and what JAX needs, is not installed.
ALONE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
"""
REFUSED = {"vaejax", "flax", "distrax", "optax", "orbax", "tensorflow_probability", "chex"}
REFUSED |= {"ml_collections", "tensorflow", "tensorflow_datasets", "grain", "matplotlib", "rich"}
AFTER = """
z = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
found = {"sample": x0, "embed": embed(weights, x0), "decode": decode(weights, z)}
np.savez("../found.npz", **found)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with batch norm, a flow and a critic, and a density fitted to its codes."""
    config = vaejax.load_config("configs/tiny.py:digits")
    config.encoders.mlp.batch_norm = config.decoders.mlp.batch_norm = True
    config.regularizer = "factor"  # whose critic is no part of a model
    workdir = tmp_path_factory.mktemp("export") / "run"
    vaejax.fit(config, workdir, quiet=True)
    vaejax.fit_density(workdir, "gaussian")
    return workdir


@pytest.mark.parametrize("source", some_long(["prior", "gaussian"], ["gaussian"]))
def test_a_process_without_us_finds_the_same(run, tmp_path, source):
    vaejax.export(run, tmp_path / "out", source=source, platforms=["cpu"])
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    how = "\n".join(card["how"]).replace("\nz = embed", "\nx0 = x\nz = embed")
    how = how.replace('"out"', '"."').replace("sample(weights, 0,", "sample(weights, 7,")
    script = ALONE.format(refused=REFUSED) + how + AFTER
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(np.load(tmp_path / "found.npz"))

    model, state, _ = vaejax.load(run)
    model, state = vaejax.sourced(run, model, state, source)
    x = vaejax.sample(model, state, jax.random.key(7), 64)
    z = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
    expected = {"sample": x, "embed": vaejax.embed(model, state, found["sample"])}
    expected["decode"] = vaejax.decode(model, state, z)
    for name, array in expected.items():
        assert np.ptp(array) > 0
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_arrays_are_the_weights_and_the_card_tells_all_files(run, tmp_path):
    command = ["export", "--workdir", str(run), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["platforms"] == list(artifact.PLATFORMS)
    assert {*card["sha256"], "card.json"} == {path.name for path in (tmp_path / "out").iterdir()}
    model, state, config = vaejax.load(run)
    weights = np.load(tmp_path / "out" / "weights.npz", allow_pickle=False)
    assert {name: list(weights[name].shape) for name in weights.files} == card["weights"]
    for name in weights.files:
        leaf = state.variables()
        for part in name.split("."):
            leaf = leaf[part]
        np.testing.assert_array_equal(weights[name], leaf)
    assert card["config"] == json.loads(json.dumps(config.to_dict()))
    assert "critic" in state.params
    assert not any("critic" in name for name in weights.files)


def test_what_is_there_is_replaced_only_if_told_and_only_an_export(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(artifact, "_serialized", lambda program, *more: program.about.encode())
    out = tmp_path / "out"
    vaejax.export(run, out)
    with one_line("has an export; take another folder, or --replace it"):
        vaejax.export(run, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(artifact, "_npz", lambda arrays: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vaejax.export(run, out, replace=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    monkeypatch.setattr(artifact, "_npz", lambda arrays: b"new")
    vaejax.export(run, out, replace=True)
    assert (out / "weights.npz").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    (tmp_path / "link").symlink_to(out)
    monkeypatch.setattr(artifact, "_npz", lambda arrays: b"newer")
    vaejax.export(run, tmp_path / "link", replace=True)
    assert (tmp_path / "link").is_symlink()
    assert (out / "weights.npz").read_bytes() == b"newer"
    (out / "notes.txt").write_text("mine")
    with one_line("has 'notes.txt' besides an export"):
        vaejax.export(run, out, replace=True)
    assert (out / "notes.txt").read_text() == "mine"
    with one_line("no platform; at least one of cpu"):
        vaejax.export(run, tmp_path / "none", platforms=[])

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    command = ["export", "--workdir", str(run), "--out", str(tmp_path / "mine"), "--replace"]
    assert main(command) == 2
    assert "is there and no export of vaejax" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    with one_line("did you mean 'cuda'"):
        vaejax.export(run, tmp_path / "gpu", platforms=["cud"])
