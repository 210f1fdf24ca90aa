"""A folder of images comes back as its pixels, in one order, and what is wrong with it is named."""

import io
import os
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from PIL import Image

from vaejax.data import images
from vaejax.data.images import centered, decoded, image_splits, resized

BLACK = (0, 0, 0)


def picture(seed: int, height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(file: Path, image: np.ndarray | Image.Image, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, **options)


def folder_of(root: Path, names: list[str]) -> dict[str, np.ndarray]:
    """A different image by name, written in random order."""
    written = {name: picture(seed) for seed, name in enumerate(names)}
    for name in random.Random(0).sample(names, len(names)):
        save(root / name, written[name])
    return written


def columns_of(blocks, name: str = "x") -> np.ndarray:
    return np.concatenate([block[name] for block in blocks])


def test_flat_folder_comes_back_in_natural_order_without_labels(tmp_path):
    names = ["1.png", "2.bmp", "10.PNG", "a2.tif", "A10.tiff", "b.gif", "b.png"]
    written = folder_of(tmp_path, names)
    with Image.open(tmp_path / "b.gif") as palette:
        written["b.gif"] = np.asarray(palette.convert("RGB"))
    for ignored in (".hidden.png", ".folder/image.png", "notes.txt"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_bytes(b"no image")
    splits, skipped = image_splits(tmp_path)
    (block,) = splits["train"]
    assert (splits.keys(), block.keys(), skipped) == ({"train"}, {"x"}, [])
    np.testing.assert_array_equal(block["x"], [written[name] for name in names])


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    folder_of(tmp_path, [f"{name}/{number}.png" for name in "ba" for number in range(12)])
    first = columns_of(image_splits(tmp_path)[0]["train"])
    walk = os.walk

    def shuffled(*args, **kwargs):
        for root, folders, names in walk(*args, **kwargs):
            folders.sort(reverse=True)
            yield root, folders, random.Random(1).sample(names, len(names))

    monkeypatch.setattr(os, "walk", shuffled)
    np.testing.assert_array_equal(columns_of(image_splits(tmp_path)[0]["train"]), first)


def test_subfolders_are_classes_in_natural_order_however_deep_the_files(tmp_path):
    names = ["class2/deep/a.png", "class2/z.png", "class10/b.png", "class10/c.png", "other/d.png"]
    written = folder_of(tmp_path, names)
    splits, _ = image_splits(tmp_path)
    (block,) = splits["train"]
    np.testing.assert_array_equal(block["labels"], [0, 0, 1, 1, 2])
    assert block["labels"].dtype == np.int64
    np.testing.assert_array_equal(block["x"], [written[name] for name in names])


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_splits_share_the_classes_of_train(tmp_path, validation):
    names = ["train/a/1.png", "train/b/1.png", "train/c/1.png", f"{validation}/c/1.png"]
    written = folder_of(tmp_path, [*names, "test/b/1.png", "test/c/1.png"])
    splits, _ = image_splits(tmp_path)
    labels = {"train": [0, 1, 2], "validation": [2], "test": [1, 2]}
    assert splits.keys() == labels.keys()
    for split, blocks in splits.items():
        (block,) = blocks
        np.testing.assert_array_equal(block["labels"], labels[split])
        folder = validation if split == "validation" else split
        wanted = [written[name] for name in written if name.startswith(f"{folder}/")]
        np.testing.assert_array_equal(block["x"], wanted)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    written = folder_of(tmp_path / "elsewhere", ["1.png"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "circle").symlink_to(tmp_path / "set")
    (block,) = image_splits(tmp_path / "set")[0]["train"]
    np.testing.assert_array_equal(block["x"], [written["1.png"]])


@pytest.mark.parametrize("limit", ["BLOCK", "_BLOCK_BYTES"])
def test_blocks_are_consecutive_pieces_of_bounded_size(tmp_path, monkeypatch, limit):
    written = folder_of(tmp_path, [f"{number}.png" for number in range(8)])
    monkeypatch.setattr(images, limit, 3 if limit == "BLOCK" else 3 * 6 * 6 * 3 + 1)
    blocks = list(image_splits(tmp_path)[0]["train"])
    assert [len(block["x"]) for block in blocks] == [3, 3, 2]
    np.testing.assert_array_equal(columns_of(blocks), [*written.values()])


def test_crop_is_the_center_and_resizing_it_that_of_pillow(tmp_path):
    wide = picture(0, 20, 31)
    save(tmp_path / "wide.png", wide)
    for crop, kept in ((True, wide[:, 5:25]), (False, wide)):
        (block,) = image_splits(tmp_path, size=8, crop=crop)[0]["train"]
        wanted = Image.fromarray(kept).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(block["x"], np.asarray(wanted)[None])
    image = Image.fromarray(wide)
    np.testing.assert_array_equal(np.asarray(resized(image, size=20, crop=True)), wide[:, 5:25])
    np.testing.assert_array_equal(np.asarray(centered(image, size=10)), wide[5:15, 10:20])
    with one_line("31x20 pixels; the crop takes 21x21"):
        centered(image, size=21)


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255  # a point sample would be all black or all white
    small = np.asarray(resized(Image.fromarray(stripes), size=8, crop=True), float)
    assert np.abs(small - 127.5).max() < 10


def test_gray_and_color_convert_into_each_other(tmp_path):
    gray, color = picture(0, channels=1), picture(1)
    save(tmp_path / "0.png", gray)
    save(tmp_path / "1.png", color)
    (block,) = image_splits(tmp_path)[0]["train"]
    np.testing.assert_array_equal(block["x"], [np.stack([gray] * 3, -1), color])
    (block,) = image_splits(tmp_path, channels=1)[0]["train"]
    np.testing.assert_array_equal(block["x"][0], gray[..., None])
    luma = color @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(block["x"][1, ..., 0], luma, atol=0.6)


def test_exif_orientation_is_respected(tmp_path):
    upright, exif = picture(0, 4, 9), Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees to the left
    save(tmp_path / "0.png", np.rot90(upright), exif=exif)
    save(tmp_path / "1.png", upright)
    (block,) = image_splits(tmp_path)[0]["train"]
    np.testing.assert_array_equal(block["x"], [upright, upright])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [300, 1_000, 32_768, 65_535]], np.uint16)
    save(tmp_path / f"a.{suffix}", values)
    image = decoded(tmp_path / f"a.{suffix}", channels=1)
    np.testing.assert_array_equal(np.asarray(image), np.round(values / 257.0))


def test_transparent_pixels_are_composited_on_black(tmp_path):
    color, alpha = picture(0), np.array([[0, 51, 255] * 2] * 6, np.uint8)
    save(tmp_path / "a.png", np.concatenate([color, alpha[..., None]], axis=-1))
    image = np.asarray(decoded(tmp_path / "a.png", channels=3))
    np.testing.assert_allclose(image, color * (alpha[..., None] / 255), atol=0.51)
    palette = Image.new("P", (2, 1))
    palette.putdata([0, 1])
    palette.putpalette([9, 9, 9, 200, 100, 50])
    save(tmp_path / "p.png", palette, transparency=0)
    image = np.asarray(decoded(tmp_path / "p.png", channels=3))
    np.testing.assert_array_equal(image, [[BLACK, (200, 100, 50)]])


def bomb() -> bytes:
    """A PNG that says it has 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "png")
    return file.getvalue()


UNREADABLE = {
    "truncated": png(picture(0, 64, 64))[:5_000],
    "empty": b"",
    "text": b"not an image\nat all",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\nshowpage\n",
    "another format": b"P6 6 6 255\n" + bytes(6 * 6 * 3),
    "bomb": bomb(),
    "float": None,
}


def spoil(file: Path, kind: str) -> None:
    if kind == "float":
        save(file, Image.fromarray(np.zeros((6, 6), np.float32)), format="TIFF")
    else:
        file.write_bytes(UNREADABLE[kind])


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_file_is_named_or_skipped(tmp_path, kind):
    written = folder_of(tmp_path, [f"train/{number}.png" for number in range(4)])
    spoil(tmp_path / "train" / "2.png", kind)
    file = re.escape(str(tmp_path / "train" / "2.png"))
    with one_line(rf"cannot read {file} \(image 3 of 4\): .*skip_unreadable"):
        list(image_splits(tmp_path)[0]["train"])
    splits, skipped = image_splits(tmp_path, skip_unreadable=True)
    rows = columns_of(splits["train"])
    np.testing.assert_array_equal(rows, [written[f"train/{number}.png"] for number in (0, 1, 3)])
    assert skipped == ["train/2.png"]


def test_big_but_not_huge_image_is_unreadable_without_a_warning(tmp_path, monkeypatch):
    folder_of(tmp_path, ["a.png"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow warns up to twice that
    with one_line("decompression bomb"):
        decoded(tmp_path / "a.png", channels=3)


def test_labels_stay_with_their_images_when_some_are_skipped(tmp_path):
    written = folder_of(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "c/1.png"])
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).write_bytes(b"")
    (block,) = image_splits(tmp_path, skip_unreadable=True)[0]["train"]
    np.testing.assert_array_equal(block["labels"], [0, 2])
    np.testing.assert_array_equal(block["x"], [written["a/2.png"], written["c/1.png"]])


def test_a_split_of_nothing_readable_is_refused(tmp_path):
    folder_of(tmp_path, ["train/a.png", "test/b.png"])
    (tmp_path / "test" / "b.png").write_bytes(b"")
    splits, _ = image_splits(tmp_path, skip_unreadable=True)
    assert len(columns_of(splits["train"])) == 1
    with one_line(f"none of 1 images.*{re.escape(str(tmp_path / 'test' / 'b.png'))}"):
        list(splits["test"])


def test_odd_size_is_named_also_across_splits(tmp_path):
    for name in ("train/1.png", "train/2.png", "test/1.png"):
        save(tmp_path / name, picture(0, 6, 7 if name == "test/1.png" else 6))
    splits, _ = image_splits(tmp_path)
    assert len(columns_of(splits["train"])) == 2
    with one_line("test/1.png has 7x6 pixels, train/1.png has 6x6; .*image_folder.size"):
        list(splits["test"])
    save(tmp_path / "train" / "2.png", picture(0, 5, 6))
    with one_line("train/2.png has 6x5 pixels, train/1.png has 6x6; .*image_folder.size"):
        list(image_splits(tmp_path)[0]["train"])


LAYOUTS = {
    "holds no image; .png, .jpg": ["readme.txt"],
    "train holds no image": ["train/readme.txt", "test/a.png"],
    "holds a.png flat and b/c.png in": ["a.png", "b/c.png"],
    "holds test/a.png flat and train/b/c.png in": ["train/b/c.png", "test/a.png"],
    "is of class car, unknown to train": ["train/bus/1.png", "test/bus/1.png", "test/car/1.png"],
    "car/1.png is in none of train": ["train/1.png", "car/1.png"],
    "a.png is in none of train": ["train/1.png", "a.png"],
    "holds validation and val": ["train/1.png", "val/1.png", "validation/1.png"],
}


@pytest.mark.parametrize("message", LAYOUTS)
def test_bad_layout_gets_one_line_at_once(tmp_path, message):
    for name in LAYOUTS[message]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(picture(0)))
    with one_line(re.escape(message)):
        image_splits(tmp_path)


def test_bad_arguments_get_one_line(tmp_path):
    folder_of(tmp_path, ["a.png"])
    for arguments, message in (({"channels": 4}, "channels is 4.*1.*3"), ({"size": -1}, "-1")):
        with one_line(message):
            image_splits(tmp_path, **arguments)
    for name, message in (("absent", "absent does not exist"), ("a.png", "a.png is a file")):
        with one_line(f"{message}; it must be a folder"):
            image_splits(tmp_path / name)
