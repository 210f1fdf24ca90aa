"""`vaejax data`: into the cache by every way, with the same content, and what it refuses."""

import gzip
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from directories import random_images, write_idx, write_images
from PIL import Image

from vaejax.cli import main
from vaejax.config import default_config
from vaejax.data import cache, prepare
from vaejax.data.catalog import CATALOG, EMBEDDED
from vaejax.data.sources import SOURCES, dataset_from

SIZES = {"train": 203, "test": 7}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """Folder of prepared directories; the cache lies beside it and is empty; MNIST is small."""
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setitem(CATALOG, "mnist", CATALOG["mnist"]._replace(sizes=SIZES))
    return tmp_path / "tfds"


@pytest.fixture
def raw(tmp_path) -> Path:
    """The four files of a small MNIST, not those published."""
    write_idx(tmp_path / "raw", *random_images(SIZES, (28, 28, 1)))
    return tmp_path / "raw"


@pytest.fixture
def data(capsys):
    """`data(*arguments)`: exit status and output of the command, its error being one line."""

    def run(*arguments) -> tuple[int, str]:
        status = main(["data", *map(str, arguments)])
        out, error = capsys.readouterr()
        if status:
            assert (out, error.count("\n")) == ("", 1)
            assert error.startswith("vaejax: error: ")
        return status, out or error

    return run


def publish(monkeypatch, folder: Path) -> None:
    """Let the files in the folder be the published ones."""
    files = {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in CATALOG["mnist"].files
    }
    monkeypatch.setitem(CATALOG, "mnist", CATALOG["mnist"]._replace(files=files))


def mnist():
    config = default_config()
    with config.unlocked():
        config.dataset = "mnist"
    return dataset_from(config)


def test_raw_files_and_prepared_directories_become_the_same_entry(
    root, raw, data, monkeypatch, tmp_path
):
    publish(monkeypatch, raw)
    images, labels = random_images(SIZES, (28, 28, 1))
    backwards = ({s: column[s][::-1] for s in SIZES} for column in (images, labels))
    write_images(root / "mnist" / "3.0.1", *backwards)
    found = []
    ways = {"raw": ["--from", raw], "there": [], "given": ["--from", root / "mnist" / "3.0.1"]}
    for way, arguments in ways.items():
        monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / way))
        monkeypatch.setenv("TFDS_DATA_DIR", str(root if way == "there" else tmp_path / "nowhere"))
        status, out = data("prepare", "mnist", *arguments)
        assert status == 0
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
        found.append(mnist())
        assert f"203 train, 7 test, from {found[-1].note.removeprefix('cache of ')}" in out
        assert f"cached in {tmp_path / way / 'data' / 'mnist'}, SHA-256 {found[-1].sha256}" in out
    assert [one.note.removeprefix("cache of ") for one in found] == [
        "idx files, SHA-256 as published",
        *[f"the prepared directory {root / 'mnist' / '3.0.1'}"] * 2,
    ]
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "by use"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    for other in (*found[1:], mnist()):
        assert other.sha256 == found[0].sha256
        for split in SIZES:
            np.testing.assert_array_equal(other.splits[split], found[0].splits[split])
            np.testing.assert_array_equal(other.labels[split], found[0].labels[split])
    for split in SIZES:
        rows = zip(found[0].splits[split], found[0].labels[split], strict=True)
        wanted = zip(images[split], labels[split], strict=True)
        assert {(x.tobytes(), int(y)) for x, y in rows} == {
            (x.tobytes(), int(y)) for x, y in wanted
        }


def test_other_files_than_published_are_refused_or_recorded_as_unverified(raw, data, tmp_path):
    status, error = data("prepare", "mnist", "--from", raw)
    assert status == 2
    assert re.search(r"SHA-256 \w{64}; the published one is 440fcab\w+; `--unverified`", error)
    assert not [*(tmp_path / "cache").rglob("*.npy")]
    status, out = data("prepare", "mnist", "--from", raw, "--unverified")
    assert status == 0
    unverified = "idx files, SHA-256 not as published (not verified)"
    assert unverified in out
    assert mnist().note == f"cache of {unverified}"
    assert unverified in data("info", "mnist")[1]


def test_what_is_in_the_cache_stays_untouched(raw, data, tmp_path):
    data("prepare", "mnist", "--from", raw, "--unverified")
    folder = tmp_path / "cache" / "data" / "mnist"
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    # Asked for other files than the unverified ones that are there, it does not say all is well.
    for arguments, expected in (([], 0), (["--from", raw], 2), (["--download"], 2)):
        status, out = data("prepare", "mnist", *arguments)
        assert (status, out.count("\n")) == (expected, 1)
        assert "mnist is in the cache, made of idx files" in out
        assert f"remove {folder}" in out
    assert "nowhere does not exist" in data("prepare", "mnist", "--from", tmp_path / "nowhere")[1]
    after = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    assert before == after


def test_a_directory_may_be_given_by_its_version_its_set_or_its_parent(root, data):
    write_images(root / "mnist" / "3.0.1", *random_images(SIZES, (28, 28, 1)))
    hashes = set()
    for folder in (root, root / "mnist", root / "mnist" / "3.0.1"):
        status, out = data("prepare", "mnist", "--from", folder)
        assert (status, "3.0.1" in out) == (0, True)
        hashes.add(out.split()[-1])
        shutil.rmtree(cache.cache_folder() / "mnist")
    assert len(hashes) == 1
    status, error = data("prepare", "fashion_mnist", "--from", root / "mnist" / "3.0.1")
    assert (status, "holds 'mnist', not 'fashion_mnist'" in error) == (2, True)


def test_unknown_and_embedded_names(data):
    for command in ("prepare", "info"):
        for given, nearest in (("mnsit", "mnist"), ("cifar", "cifar10"), ("two_moon", "two_moons")):
            status, error = data(command, given)
            assert status == 2
            assert re.search(f"unknown data set '{given}'.*{nearest}.*one of .*shapes3d", error)
    for name in EMBEDDED:
        assert data("prepare", name) == (0, f"{name} is embedded; there is nothing to prepare\n")


def test_a_crop_is_for_what_is_cropped_and_has_an_entry_of_its_own(root, data, monkeypatch):
    sizes = {"train": 3, "test": 2}
    monkeypatch.setitem(CATALOG, "celeb_a", CATALOG["celeb_a"]._replace(sizes=sizes))
    images, _ = random_images(sizes, (218, 178, 3))
    write_images(root / "celeb_a" / "2.1.0", images, {})
    for crop, key in ((100, "celeb_a-100"), (None, "celeb_a-140")):
        given = () if crop is None else ("--crop", crop)
        assert data("prepare", "celeb_a", *given)[0] == 0
        assert (cache.cache_folder() / key).is_dir()
    entries = [SOURCES["celeb_a"](crop=crop) for crop in (100, 140)]
    assert entries[0].x_shape == entries[1].x_shape == (64, 64, 3)
    center = np.asarray(Image.fromarray(images["test"][0][59:159, 39:139]).resize((64, 64), 3))
    assert any((row == center).all() for row in entries[0].splits["test"])
    assert entries[0].sha256 != entries[1].sha256
    for name, crop in (("mnist", 20), ("celeb_a", 0), ("digits", 3)):
        status, line = data("prepare", name, "--crop", crop)
        assert status == 2
        assert f"crop is {crop}" in line


def test_files_that_are_missing_or_damaged_are_named(raw, data, tmp_path, monkeypatch):
    first, second, *_ = CATALOG["mnist"].files
    monkeypatch.setenv("HOME", str(tmp_path))
    status, error = data("prepare", "mnist", "--from", "~/nowhere")
    assert (status, f"{tmp_path / 'nowhere'} does not exist" in error) == (2, True)
    content = (raw / first).read_bytes()
    other = gzip.decompress((raw / second).read_bytes())
    wrong = {
        "cut": content[:-100],
        "no gzip": b"not gzip at all",
        "short": gzip.compress(gzip.decompress(content)[:-1]),
        "fewer": gzip.compress(
            gzip.decompress(content)[:6] + b"\x00\x05" + b"\x00\x00\x00\x1c" * 2
        ),
        "labels": gzip.compress(other),
    }
    for damaged in wrong.values():
        (raw / first).write_bytes(damaged)
        status, error = data("prepare", "mnist", "--from", raw, "--unverified")
        assert (status, str(raw / first) in error) == (2, True)
    (raw / first).unlink()
    status, error = data("prepare", "mnist", "--from", raw, "--unverified")
    assert (status, first in error) == (2, True)
    assert [file.name for file in (tmp_path / "cache" / "data").iterdir()] == [".mnist.lock"]


def test_files_of_another_number_of_examples_are_refused(data, tmp_path):
    write_idx(tmp_path / "raw", *random_images({"train": 202, "test": 7}, (28, 28, 1)))
    status, error = data("prepare", "mnist", "--from", tmp_path / "raw", "--unverified")
    assert (status, "mnist: train has 202 examples, not 203" in error) == (2, True)


def test_without_tensorflow_one_line_names_the_extra(root, data, monkeypatch):
    found = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "tensorflow" else found(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    status, error = data("prepare", "mnist")
    assert status == 2
    assert f"mnist is not prepared in {root}; give --from with a folder of train-images" in error
    status, error = data("prepare", "mnist", "--download")
    assert (status, "to download mnist needs TensorFlow" in error) == (2, True)
    (root / "mnist" / "3.0.1").mkdir(parents=True)
    (root / "mnist" / "3.0.1" / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    for source in ([], ["--from", root / "mnist" / "3.0.1"]):
        status, error = data("prepare", "mnist", *source)
        assert (status, "to convert mnist needs TensorFlow" in error) == (2, True)
        assert "`prepare` extra" in error
    assert "prepared as TFRecord" in data("list")[1]
    assert "prepared as tfrecord in" in data("info", "mnist")[1]


def test_child_that_fails_is_one_line(monkeypatch, data):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *names: True)
    for program, reason in (
        ("print('a'); print('OSError: b c'); exit(1)", "OSError: b c"),
        ("exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
    ):
        original = subprocess.run
        child = [sys.executable, "-c", program]
        with monkeypatch.context() as patch:
            patch.setattr(prepare.subprocess, "run", lambda _, **k: original(child, **k))  # noqa: B023
            status, error = data("prepare", "mnist", "--download")
        assert (status, error) == (2, f"vaejax: error: could not download mnist: {reason}\n")


def test_list_and_info_say_where_a_set_is_and_whether_it_is_exact(root, raw, data):
    def line(name: str) -> str:
        return next(row for row in data("list")[1].splitlines() if row.split(" ")[0] == name)

    assert {row.split(" ")[0] for row in data("list")[1].splitlines()} >= {*EMBEDDED, *CATALOG}
    assert re.fullmatch(r"dsprites +64x64x1 +737,280 +- +- +Apache 2.0 +absent", line("dsprites"))
    for name in EMBEDDED:
        assert line(name).endswith("embedded")
    write_images(root / "cifar10" / "3.0.2", *random_images(SIZES, (32, 32, 3)), format="jpeg")
    write_images(root / "mnist" / "3.0.1", *random_images(SIZES, (28, 28, 1)))
    assert (line("cifar10")[-19:], line("mnist")[-10:]) == (" prepared (INEXACT)", "  prepared")
    assert "INEXACT: its images are JPEG" in data("info", "cifar10")[1]
    assert "INEXACT" not in data("info", "mnist")[1]
    data("prepare", "mnist")
    data("prepare", "cifar10")
    assert (line("cifar10")[-17:], line("mnist")[-8:]) == (" cached (INEXACT)", "  cached")
    assert "INEXACT: its images are JPEG" in data("info", "cifar10")[1]
    assert f"{mnist().sha256} (verified)" in data("info", "mnist")[1]
    (cache.cache_folder() / "mnist" / "manifest.json").unlink()
    (root / "svhn_cropped" / "3.1.0").mkdir(parents=True)
    (root / "svhn_cropped" / "3.1.0" / "dataset_info.json").write_text("{")
    assert (line("mnist")[-7:], line("svhn_cropped")[-7:]) == ("damaged", "damaged")
    for name in ("mnist", "svhn_cropped"):
        assert data("info", name)[0] == 2


@pytest.mark.parametrize("file", ["train.x.npy", "test.x.npy", "train.labels.npy"])
def test_info_finds_a_byte_that_flipped(raw, data, file):
    data("prepare", "mnist", "--from", raw, "--unverified")
    path = cache.cache_folder() / "mnist" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    status, error = data("info", "mnist")
    assert (status, f"{path.parent} is damaged ({file} has changed)" in error) == (2, True)
    config = default_config().unlock()
    config.dataset = "mnist"
    with pytest.raises(ValueError, match="is damaged"):  # nor is it trained on
        dataset_from(config)


@pytest.mark.parametrize(("key", "value"), [("scale", 1.0), ("sha256", "0" * 64)])
def test_info_finds_a_manifest_that_was_changed(raw, data, key, value):
    data("prepare", "mnist", "--from", raw, "--unverified")
    path = cache.cache_folder() / "mnist" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    status, error = data("info", "mnist")
    assert (status, "mnist is damaged" in error) == (2, True)
