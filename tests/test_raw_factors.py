"""Data sets with known factors come back from .npz and HDF5 as written, block by block."""

import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_archives import Bomb
from test_raw import assert_same, examples, one_line, publish, read

from vaejax.data.catalog import CATALOG
from vaejax.data.raw import raw_splits

h5py = pytest.importorskip("h5py")
NPZ, HDF5 = CATALOG["dsprites"].files
(ROOMS,) = CATALOG["shapes3d"].files


def write_sprites(folder: Path, num: int, **changes) -> dict[str, tuple]:
    """Both files, the first column of their classes constant, and a metadata that is a bomb."""
    folder.mkdir(exist_ok=True)
    x, _ = examples("dsprites", num)
    classes = np.random.default_rng(1).integers(0, 32, (num, 6)) * (np.arange(6) > 0)
    arrays = {"imgs": x[..., 0], "latents_classes": classes} | changes
    bomb = np.array(Bomb(folder / "made by the pickle"), dtype=object)
    np.savez_compressed(folder / NPZ, metadata=bomb, **arrays)
    with h5py.File(folder / HDF5, "w") as file:
        file["imgs"], file["latents/classes"] = arrays["imgs"], arrays["latents_classes"]
    return {"train": (x, classes[:, 1:])}


@pytest.mark.parametrize("name", [NPZ, HDF5])
def test_sprites_come_back_and_their_metadata_is_not_unpickled(tmp_path, name, monkeypatch):
    written = write_sprites(tmp_path, 2_003)
    publish(monkeypatch, "dsprites", tmp_path)
    (tmp_path / (HDF5 if name == NPZ else NPZ)).unlink()
    for path in (tmp_path, tmp_path / name):
        columns, note = read("dsprites", path, verify=True)
        assert_same(columns, written, "factors")
        assert note == f"dSprites {Path(name).suffix}, SHA-256 as published"
    assert not (tmp_path / "made by the pickle").exists()


def test_sprites_are_read_by_blocks_and_as_python_2_wrote_them(tmp_path):
    ((x, factors),) = write_sprites(tmp_path, 2_003).values()
    with zipfile.ZipFile(tmp_path / NPZ) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    long = parts["imgs.npy"].replace(b"(2003, 64, 64), }   ", b"(2003L, 64L, 64L), }")
    with zipfile.ZipFile(tmp_path / NPZ, "w") as archive:
        for name, content in (parts | {"imgs.npy": long}).items():
            archive.writestr(name, content)
    splits, note = raw_splits("dsprites", tmp_path)
    assert note == "dSprites .npz (no SHA-256 is published for it)"
    blocks = list(splits["train"])
    assert [len(block["x"]) for block in blocks] == [1_000, 1_000, 3]
    np.testing.assert_array_equal(blocks[1]["x"], x[1_000:2_000])
    np.testing.assert_array_equal(blocks[1]["factors"], factors[1_000:2_000])


def test_sprites_are_read_from_whichever_file_exists_the_npz_first(tmp_path):
    write_sprites(tmp_path, 3)
    assert raw_splits("dsprites", tmp_path, verify=False)[1].startswith("dSprites .npz (no")
    (tmp_path / NPZ).unlink()
    with one_line(f"{HDF5} has SHA-256"):
        raw_splits("dsprites", tmp_path)
    note = "dSprites .hdf5, SHA-256 not as published (not verified)"
    assert raw_splits("dsprites", tmp_path, verify=False)[1] == note


BAD_SPRITES = {
    r"images are uint8 \(4, 64, 64, 1\); .*\(5, 64, 64, 1\)": {"imgs": np.zeros((4, 64, 64), "u1")},
    r"images are uint8 \(5, 32, 64, 1\)": {"imgs": np.zeros((5, 32, 64), "u1")},
    "images are float32": {"imgs": np.zeros((5, 64, 64), "f4")},
    r"factors are int64 \(5, 4\)": {"latents_classes": np.zeros((5, 5), int)},
    r"factors are float64 \(5, 5\)": {"latents_classes": np.zeros((5, 6))},
}


@pytest.mark.parametrize("message", BAD_SPRITES)
@pytest.mark.parametrize("name", [NPZ, HDF5])
def test_sprites_of_another_layout_are_named(tmp_path, message, name):
    write_sprites(tmp_path, 5, **BAD_SPRITES[message])
    with one_line(f"{name}: its {message}"):
        read("dsprites", tmp_path / name)


def rewrite(file: Path, **changes: bytes) -> None:
    """Parts of an .npz replaced; None removes one."""
    with zipfile.ZipFile(file) as archive:
        parts = {name[:-4]: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)


def npy(array: np.ndarray, folder: Path) -> bytes:
    np.save(folder / "array.npy", array)
    return (folder / "array.npy").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "short", "long", "fortran", "objects", "no npy"])
def test_damaged_npz_is_named_and_not_unpickled(tmp_path, damage):
    write_sprites(tmp_path, 5)
    imgs = npy(np.zeros((5, 64, 64), np.uint8), tmp_path)
    bombs = np.full((5, 6), Bomb(tmp_path / "made by the pickle"), object)
    changes = {
        "missing": {"imgs": None},
        "short": {"imgs": imgs[:-1]},
        "long": {"imgs": imgs + b"0"},
        "fortran": {"imgs": npy(np.zeros((64, 64, 5), np.uint8).T, tmp_path)},
        "objects": {"latents_classes": npy(bombs, tmp_path)},
        "no npy": {"imgs": b"?" * 50_000},
    }
    rewrite(tmp_path / NPZ, **changes[damage])
    with one_line(f"{NPZ}: "):
        read("dsprites", tmp_path)
    assert not (tmp_path / "made by the pickle").exists()


def test_a_flipped_bit_in_an_npz_is_found(tmp_path):
    write_sprites(tmp_path, 5)
    rewrite(tmp_path / NPZ)  # stored, not compressed
    content = bytearray((tmp_path / NPZ).read_bytes())
    with zipfile.ZipFile(tmp_path / NPZ) as archive:
        content[archive.getinfo("imgs.npy").header_offset + 1_000] ^= 1
    (tmp_path / NPZ).write_bytes(content)
    with one_line(f"{NPZ}: BadZipFile: Bad CRC"):
        read("dsprites", tmp_path)


@pytest.mark.parametrize("chunk", [None, 7, 1_500])
def test_rooms_come_back_with_factors_as_ranks_of_their_values(tmp_path, chunk):
    x, _ = examples("shapes3d", 2_003)
    sizes = (10, 10, 10, 8, 4, 15)
    values = [np.linspace(-30, 30, size) / 7 for size in sizes]
    random = np.random.default_rng(0)
    factors = np.stack([random.integers(0, size, len(x)) for size in sizes], axis=1)
    labels = np.stack([value[index] for value, index in zip(values, factors.T, strict=True)], 1)
    with h5py.File(tmp_path / ROOMS, "w") as file:
        chunks = chunk and (chunk, 16, 64, 3)
        file.create_dataset("images", data=x, chunks=chunks)
        file["labels"] = labels
    for path in (tmp_path, tmp_path / ROOMS):
        columns, _ = read("shapes3d", path)
        assert_same(columns, {"train": (x, factors)}, "factors")
    lengths = [len(block["x"]) for block in raw_splits("shapes3d", path, verify=False)[0]["train"]]
    assert lengths == ([1_500, 503] if chunk == 1_500 else [1_000, 1_000, 3])


def test_damaged_hdf5_is_named(tmp_path):
    file = tmp_path / ROOMS
    with h5py.File(file, "w") as opened:
        opened["images"] = examples("shapes3d", 3)[0]
    with one_line(f"{re.escape(str(file))}: KeyError.*labels"):
        read("shapes3d", tmp_path)
    file.write_bytes(file.read_bytes()[:3_000])
    with one_line(f"{re.escape(str(file))}: OSError"):
        read("shapes3d", tmp_path)


def test_without_h5py_the_extra_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name, file in (("dsprites", HDF5), ("shapes3d", ROOMS)):
        (tmp_path / file).write_bytes(b"")
        with one_line(f"{file} is read by h5py.*install the `prepare` extra"):
            raw_splits(name, tmp_path, verify=False)
