"""Files from strangers: nothing is executed, nothing escapes its folder, sizes have bounds."""

import base64
import gzip
import hashlib
import html
import io
import json
import os
import shlex
import shutil
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
from conftest import data_config, one_line
from PIL import Image
from test_mutations import Payload
from test_raw import TRAIN_IMAGES, read, write_idx

from vaejax import load_config, memory
from vaejax.cli import main
from vaejax.config import saved_config
from vaejax.data.directories import Features, columns_of, prepared_splits
from vaejax.data.images import decoded
from vaejax.data.sources import dataset_from
from vaejax.evaluation.files import read_evaluation
from vaejax.expost import store
from vaejax.records import parsed, read_json
from vaejax.reporting import report
from vaejax.tables.plan import default_table, validate_table
from vaejax.training.loop import fit
from vaejax.training.metrics import rows
from vaejax.training.workdir import write_text

SCRIPT = "</script><script>alert('x')</script>\u2028<img src=x onerror=\"alert(1)\">"


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("TOUCHED", str(tmp_path / "touched"))
    yield
    assert not (tmp_path / "touched").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on a file whose name is a script, with a density; read-only."""
    folder = tmp_path_factory.mktemp("hostile")
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    path = folder / f"{SCRIPT.replace('/', '')}.npz"
    np.savez(path, x=x, labels=np.arange(60) % 3)
    config = load_config("configs/tiny.py").unlock()
    config.update(dataset="arrays", num_steps=2)
    config.datasets.arrays.path = str(path)
    fit(config, folder / "run", quiet=True)
    flags = ["--workdir", str(folder / "run"), "--density", "gaussian", "--quiet"]
    assert main(["fit-density", *flags]) == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_a_pickle_among_arrays_is_not_opened(tmp_path, name):
    bad = np.array([Payload()], object)
    with (tmp_path / name).open("wb") as file:
        np.savez(file, x=bad) if name.endswith("z") else np.save(file, bad, allow_pickle=True)
    with one_line(f"{name} is no .npy or .npz file of plain arrays: .*Python objects"):
        dataset_from(data_config("arrays", path=str(tmp_path / name)))


def test_a_pickle_in_a_density_is_not_opened(run):
    arrays, description = store.paths(run, "gaussian")
    np.savez(arrays, mean=np.array([Payload()], object))
    card = json.loads(description.read_text())
    card["npz_sha256"] = hashlib.sha256(arrays.read_bytes()).hexdigest()
    description.write_text(json.dumps(card))
    with one_line("gaussian.npz cannot be read .*allow_pickle=False"):
        store.read(run, "gaussian")


def test_what_unpacks_to_more_than_all_memory_is_refused_before_it_is(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((2_000_000, 2), np.uint8))
    assert path.stat().st_size < 10_000
    config = data_config("arrays", path=str(path), scale=1.0)
    assert len(dataset_from(config).splits["train"]) > 1_000_000
    monkeypatch.setattr(memory, "machine_memory", lambda: 10**6)
    with one_line("bomb.npz is no .* 0.0 GB of memory"):
        dataset_from(config)


def test_a_shape_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "large.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999, 99), }"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(8)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("../../escaped.npy", content)
    with one_line("large.npz is no .npy or .npz"):
        dataset_from(data_config("arrays", path=str(path), scale=1.0))
    (tmp_path / "large.npy").write_bytes(content)
    with one_line("large.npy is no .npy or .npz"):
        dataset_from(data_config("arrays", path=str(tmp_path / "large.npy"), scale=1.0))
    assert {each.name for each in tmp_path.iterdir()} == {"large.npz", "large.npy"}


def test_a_picture_of_giant_sides_and_a_pipe_are_refused(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "giant.png").write_bytes(png)
    os.mkfifo(tmp_path / "pipe.png")
    with one_line("exceeds limit"):
        decoded(tmp_path / "giant.png", channels=3)
    with one_line("it is no file"):
        decoded(tmp_path / "pipe.png", channels=3)


def test_a_raw_file_is_unpacked_to_a_bound(tmp_path, monkeypatch):
    write_idx(tmp_path)
    monkeypatch.setattr("vaejax.data.formats.LARGEST", 10_000)
    header = bytes([0, 0, 8, 3]) + struct.pack(">III", 1_000, 28, 28)
    (tmp_path / TRAIN_IMAGES).write_bytes(gzip.compress(header + bytes(10**6)))
    with one_line(f"{TRAIN_IMAGES}: it has 10000 bytes"):
        read("mnist", tmp_path)


def test_no_module_that_a_prepared_directory_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("import os; os.mkdir(os.environ['TOUCHED'])")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "set" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "set", "fileFormat": "array_record"}')
    text = {"pythonClassName": "evil_module.Feature"}
    (folder / "features.json").write_text(json.dumps(text))
    with one_line("'evil_module.Feature', which is not of TFDS"):
        prepared_splits(folder, Features())
    assert "evil_module" not in sys.modules


def test_pictures_of_a_prepared_directory_have_two_formats(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "EPS")
    with one_line("cannot identify image"):
        columns_of(tmp_path, [{"image": buffer.getvalue()}], Features())


DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = {
    DEEP: "nested too deeply",
    "[" * 50 + "]" * 50: "nested too deeply",
    '{"a": ' * 50 + "1" + "}" * 50: "nested too deeply",
    '{"step": 1, "step": 2}': "it has the key 'step' twice",
    '{"step": ' + "9" * 5_000 + "}": "Exceeds the limit",
    '"\ud800': "",
    "": "",
    "{": "",
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_json_that_nobody_writes_is_refused(tmp_path, text):
    content = text.encode("utf-8", "surrogatepass")
    with one_line(TEXTS[text]):
        parsed(content)
    for name in ("config.json", "evaluation.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes(content + b"\n" * (name == "metrics.jsonl"))
    for reader in (saved_config, lambda p: read_evaluation(p / "evaluation.json")):
        with one_line(str(tmp_path)):
            reader(tmp_path)
    if text:
        with one_line("metrics.jsonl line 1 is damaged"):
            rows(tmp_path / "metrics.jsonl")


def test_a_json_file_has_an_end(tmp_path, monkeypatch):
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    with one_line("it is no file"):
        read_json(tmp_path / "endless.json")
    monkeypatch.setattr("vaejax.records._LARGEST", 10)
    (tmp_path / "long.json").write_text("[" + "1," * 10 + "1]")
    with one_line("it is larger than 0 MB"):
        read_json(tmp_path / "long.json")


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"elbo": {"value": "<b>"}}},
        {"metrics": {"elbo": {"value": 10**400}}},
        {"metrics": {"elbo": {"value": [1.0], "protocol": ""}}},
        {"metrics": {"elbo": {"value": True}}},
        {"metrics": {"elbo": 1.0}},
        {"metrics": {"elbo": {"value": 1.0, "protocol": ["a"]}}},
        {"metrics": {"elbo": {"value": 1.0, "standard_error": "0"}}},
        {"metrics": {"elbo": {"protocol": ""}}},
        {"metrics": []},
        {"step": "2"},
        {"step": True},
        {"versions": "1"},
        {"protocol": {"counts": [1]}},
        {"protocol": None},
        {"data": "x"},
    ],
    ids=str,
)
def test_an_evaluation_of_wrong_types_is_refused_by_name(tmp_path, change):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"step": 2, "metrics": {}, **change}))
    with one_line("evaluation.json cannot be read: "):
        read_evaluation(path)


def test_metrics_without_a_split_or_an_end_are_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n')
    with one_line("metrics.jsonl line 1 is damaged"):
        rows(path)
    path.unlink()
    os.mkfifo(path)
    with one_line("metrics.jsonl is no file"):
        rows(path)


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".evaluation.json.partial").symlink_to(precious)
    write_text(tmp_path / "evaluation.json", "{}")
    assert precious.read_text() == "mine"
    assert (tmp_path / "evaluation.json").read_text() == "{}"
    assert not (tmp_path / "evaluation.json").is_symlink()


@pytest.mark.parametrize("name", ["../run", "a/../../b", "/etc", "~/x", ".."])
def test_a_name_that_leads_elsewhere_is_refused(run, tmp_path, name, capsys):
    before = sorted(tmp_path.rglob("*"))
    config = data_config("tfds", data_dir=str(tmp_path)).unlock()
    config.datasets.tfds.name = name
    with one_line("must name a prepared data set"):
        dataset_from(config)
    table = default_table()
    with one_line("its name becomes a folder's"):
        table.datasets = ((name, "two_moons.py"),)
        validate_table(table)
    place = ["--workdir", str(run)]
    for command in (
        ["fit-density", "--density", "gaussian", "--name", name],
        ["figures", "--figures", name],
    ):
        assert main([*command, *place]) == 2
    for command in ("sample", "evaluate", "figures"):
        assert main([command, *place, "--source", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 5
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_is_no_program_of_strangers(run, tmp_path, monkeypatch):
    for name, value in {"basic_figures": {}, "chosen_figures": [], "run_figures": {}}.items():
        monkeypatch.setattr(report, name, lambda *arguments, value=value: value)
    evaluation = {"step": 2, "versions": {SCRIPT: SCRIPT, "commit": SCRIPT}, "metrics": {}}
    evaluation["metrics"] = {
        SCRIPT: {"value": 1.0, "unit": SCRIPT, "protocol": SCRIPT},
        f"frechet[{SCRIPT}, random]": {"value": float("nan"), "protocol": SCRIPT},
    }
    evaluation["data"] = {"note": SCRIPT}
    evaluation["protocol"] = {"metrics": ["$(touch x)", SCRIPT], "counts": {"images": "`id`"}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "secret").write_bytes(b"GIF89a secret")
    (run / "figures").mkdir(exist_ok=True)
    (run / "figures" / "link.gif").symlink_to(tmp_path / "secret")
    (run / "figures" / f"{SCRIPT.replace('/', '')}.gif").write_bytes(b"GIF89a")
    text = report.write_report([run]).read_text()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert text.count("</script>") == text.count("<script")
    assert html.escape("$(touch x)") in text
    assert html.escape(shlex.quote("$(touch x)")) in text
    assert html.escape(shlex.quote("`id`")) in text
    assert base64.b64encode(b"GIF89a secret").decode() not in text
    assert base64.b64encode(b"GIF89a").decode() in text


def test_a_line_of_error_holds_no_commands_for_a_terminal(tmp_path, capsys):
    (path := tmp_path / "config.json").write_text(json.dumps({"\x1b[2J\n" + "x" * 5_000: 1}))
    assert main(["train", "--config", str(path), "--workdir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"unknown key config.\x1b[2J xxx" in line
    assert len(line) < 1_100
