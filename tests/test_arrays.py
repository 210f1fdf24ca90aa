"""Arrays are checked once, at the border: what passes is what was given, the rest is one line."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line

from vaejax.data import arrays
from vaejax.data.arrays import (
    Dataset,
    Part,
    check_split,
    checked,
    default_scale,
    extremes,
    hashed,
    pieces,
)
from vaejax.data.splits import divided, with_hash

ONES = np.ones((5, 2), np.float32)
IMAGES = np.full((5, 4, 3, 1), 0.5, np.float32)
X = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 1)).astype(np.uint8)
SPOILED = ONES / np.array([[1], [1], [np.nan], [1], [np.nan]], np.float32)


def toy(train: np.ndarray = ONES, test: np.ndarray = ONES, **changes) -> Dataset:
    return dataclasses.replace(Dataset("toy", {"train": train, "test": test}, 1.0), **changes)


def test_a_split_that_is_not_there_is_told_from_a_misspelled_one():
    check_split(toy(), "test")
    with one_line("toy has no validation split, but train and test; config.splits.validation is"):
        check_split(toy(), "validation")
    with one_line("unknown split 'tset'; did you mean 'test'"):
        check_split(toy(), "tset")


def test_good_points_pass_unchanged_and_float64_becomes_float32():
    rows = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    for given in (rows, rows.astype(np.float64)):
        passed = checked(toy(given, given)).splits["train"]
        assert passed.dtype == np.float32
        np.testing.assert_array_equal(passed, rows)


def test_whatever_turns_into_an_array_passes_as_one():
    for given in (ONES.tolist(), jnp.asarray(ONES)):
        data = checked(toy(given, given, labels={"test": [0, 1, 2, 3, 4]}))
        assert all(type(rows) is np.ndarray for rows in data.splits.values())
        np.testing.assert_array_equal(data.splits["train"], ONES)
        np.testing.assert_array_equal(data.labels["test"], np.arange(5))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_gray_images_get_a_channel_axis_and_nothing_else_does(dtype):
    images = (np.arange(60).reshape(5, 4, 3) / 60 * default_scale(dtype)).astype(dtype)
    data = checked(toy(images, images, scale=default_scale(dtype)))
    assert data.x_shape == (4, 3, 1)
    np.testing.assert_array_equal(
        data.splits["test"][..., 0], images.astype(data.splits["test"].dtype)
    )
    for shape in [(5, 12), (5, 4, 3, 1), (5, 2, 2, 3), (5, 2, 1, 2, 3)]:
        rows = images.reshape(shape)
        assert checked(toy(rows, rows, scale=255.0)).x_shape == shape[1:]


def test_checks_are_idempotent_and_order_the_splits():
    splits = {"test": IMAGES, "validation": IMAGES[:2], "train": IMAGES}
    once = checked(Dataset("toy", splits, 1.0, {"test": np.arange(5)}))
    assert list(once.splits) == ["train", "validation", "test"]
    twice = checked(once)
    assert all(twice.splits[split] is rows for split, rows in once.splits.items())
    parts = divided(checked(toy(ONES, ONES)), validation=0.4, test=0.0, seed=0)
    assert checked(parts).splits == parts.splits  # a Part stays what it is


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_mapped_from_a_file_stays_mapped(tmp_path, dtype):
    np.save(tmp_path / "x.npy", IMAGES.astype(dtype))
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = checked(toy(rows, rows))
    assert data.splits["train"] is rows


def test_a_hash_is_kept_only_where_the_checks_change_nothing():
    same = [toy(), toy(IMAGES, IMAGES), toy(ONES.astype(np.uint8), ONES.astype(np.uint8))]
    for data in same:
        assert checked(hashed(data, "known")).sha256 == "known"
    gray = IMAGES[..., 0]
    for data in (toy(gray, gray), toy(ONES.astype(float), ONES), toy(ONES, ONES.tolist())):
        assert checked(hashed(data, "known")).sha256 == ""
    assert (
        with_hash(checked(with_hash(toy(gray, gray)))).sha256
        == with_hash(toy(IMAGES, IMAGES)).sha256
    )


def test_the_last_value_of_many_is_checked(monkeypatch):
    monkeypatch.setattr(arrays, "_BYTES", 64)
    for value in (np.nan, 1.5, -0.25):
        images = IMAGES.copy()
        images[-1, -1, -1, -1] = value
        message = r"row 4 holds.*\(1 of 5" if np.isnan(value) else f"{value}.*must lie in .0, 1]"
        with one_line(message):
            checked(toy(IMAGES, images))
        assert checked(toy(images.reshape(5, 12), ONES, splits={"train": ONES}))


@pytest.mark.parametrize("size", [1, 24, 25, 1_000])
def test_pieces_are_the_rows_in_order_and_extremes_their_bounds(monkeypatch, size):
    monkeypatch.setattr(arrays, "_BYTES", size)
    rows = np.random.default_rng(0).normal(size=(7, 3))
    for given in (rows, Part(rows, np.arange(7))):
        found = list(pieces(given))
        np.testing.assert_array_equal(np.concatenate(found), rows)
        assert all(piece.nbytes <= max(size, 24) for piece in found)
        assert extremes(given) == (rows.min(), rows.max())


BAD = {
    "toy: test is empty": toy(test=ONES[:0]),
    "toy: test is empty, (5, 0)": toy(test=ONES[:, :0]),
    "event shape is (2,) in train and (1,) in test": toy(test=ONES[:, :1]),
    "event shape is (4, 3, 1) in train and (4, 3, 3) in test": toy(
        IMAGES, np.concatenate([IMAGES] * 3, -1)
    ),
    "dtype is float32 in train and uint8 in test": toy(test=ONES.astype(np.uint8)),
    "toy: train has dtype int64": toy(ONES.astype(np.int64)),
    "toy: train has dtype float16": toy(ONES.astype(np.float16)),
    "toy: train has dtype bool": toy(ONES.astype(bool)),
    "toy: train has dtype object": toy(ONES.astype(object)),
    "toy: test has shape (5,)": toy(test=ONES[:, 0]),
    "splits are ['test']; 'train' is missing": toy(splits={"test": ONES}),
    "splits are []; 'train' is missing": toy(splits={}),
    "unknown split 'valid'; one of train, validation, test": toy(
        splits={"train": ONES, "valid": ONES}
    ),
    "toy: test row 2 holds a non-finite value (2 of 5 rows do)": toy(test=SPOILED),
    "toy: train row 0 holds a non-finite value (5 of 5 rows do)": toy(ONES * -np.inf),
    "row 0 holds a non-finite value": toy(ONES * np.array([1.0, 1e300])),
    "toy: test holds float images in [0.5, 128]; they must lie in [0, 1]": toy(
        IMAGES, np.where(np.arange(5)[:, None, None, None] == 3, 128, IMAGES)
    ),
    "toy: train holds float images in [-0.5, -0.5]": toy(-IMAGES, IMAGES),
    "toy: train holds float images in [2, 2]": toy(IMAGES[..., 0].astype(float) * 4, IMAGES),
    "they must lie in [0, 0.25]": toy(IMAGES, IMAGES, scale=0.25),
    "toy: labels: 2 in test for 5 examples": toy(labels={"test": np.zeros(2, int)}),
    "toy: labels are given for an unknown split 'valid'": toy(labels={"valid": np.zeros(5, int)}),
    "toy: labels in test are float64 of shape (5, 1); they must be integers of shape (N,)": toy(
        labels={"test": np.zeros((5, 1))}
    ),
    "toy: labels in test are float64 of shape ()": toy(labels={"test": np.zeros(())}),
    "toy: factors: 6 in train for 5 examples": toy(factors={"train": np.zeros((6, 2), int)}),
    "toy: factors are given for an unknown split 'all'": toy(factors={"all": np.zeros((5, 2))}),
    "toy: factors in test are float64 of shape (5,); they must be integers of shape (N, F)": toy(
        factors={"test": np.zeros(5)}
    ),
    "toy: scale is 0.0": toy(scale=0.0),
    "toy: scale is -1.0": toy(scale=-1.0),
    "toy: scale is nan": toy(scale=float("nan")),
    "toy: scale is inf": toy(scale=float("inf")),
    "toy: scale is None; it must be a number": toy(scale=None),
    "toy: labels in train are <U1 of shape (5,)": toy(labels={"train": np.array(list("abcde"))}),
    "toy: labels are a ndarray, not arrays by split": toy(labels=np.zeros(5, int)),
    "toy: splits are a ndarray, not arrays by split": toy(splits=ONES),
    "a vaejax.Dataset is needed, not ndarray": ONES,
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays_get_one_line(message):
    with one_line(re.escape(message)):
        checked(BAD[message])


def test_values_on_the_bounds_and_points_anywhere_pass():
    ends = np.zeros((2, 2, 2, 1)) + np.array([0.0, 16.0])[:, None, None, None]
    checked(toy(ends, ends, scale=16.0))
    checked(toy(ONES * 1e30, ONES * -1e30))
    assert type(checked(toy(scale=np.float32(2))).scale) is float  # JSON can hold it
    checked(toy(np.full((2, 2, 2, 1), 255, np.uint8), np.zeros((2, 2, 2, 1), np.uint8)))


ORDER = np.array([3, 3, 0, 39, 17, 5])
INDICES = {
    "first": 0,
    "last": -1,
    "numpy integer": np.int32(2),
    "slice": slice(1, 4),
    "negative slice": slice(-3, None),
    "backwards": slice(None, None, -2),
    "beyond": slice(4, 100),
    "none": slice(0, 0),
    "all": slice(None),
    "ellipsis": ...,
    "mask": np.array([True, False, True, True, False, False]),
    "no mask": np.zeros(6, bool),
    "positions": np.array([5, 0, -1, 0]),
    "no positions": np.array([], int),
    "table": np.array([[0, 1], [2, -3]]),
    "list": [4, 1],
    "of further axes": (slice(1, 5), 0, slice(None), 0),
    "of an example": (-1, 2, 1),
    "of further axes by positions": (slice(None), [0, 2], 1),
    "paired": ([0, 3], [1, 2]),
    "last axis": (..., 0),
    "new axis": (None, slice(None)),
    "empty tuple": (),
}


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_part_is_indexed_like_the_array_that_it_stands_for(index, nested):
    part, wanted = Part(X, ORDER), X[ORDER]
    if nested:
        again = np.array([5, 5, 2, 0, 1, 4])
        part, wanted = Part(part, again), wanted[again]
    np.testing.assert_array_equal(part[INDICES[index]], wanted[INDICES[index]], strict=True)


def test_a_part_is_described_and_converted_like_the_array_that_it_stands_for():
    for rows in (X, X.astype(np.float32), X.reshape(40, 6), Part(X, np.arange(40))):
        for order in (ORDER, ORDER[:1]):
            part, wanted = Part(rows, order), np.asarray(rows)[order]
            for name in ("shape", "dtype", "ndim", "nbytes"):
                assert getattr(part, name) == getattr(wanted, name)
            assert len(part) == len(wanted)
            np.testing.assert_array_equal(np.asarray(part), wanted, strict=True)
            np.testing.assert_array_equal(np.array([*part]), wanted, strict=True)
            assert np.asarray(part, np.float64).dtype == np.float64
            assert np.concatenate([part, part]).shape == (2 * len(order), *wanted.shape[1:])
    for index in (6, -7, [6], np.zeros(5, bool)):
        with pytest.raises(IndexError):
            Part(X, ORDER)[index]
    part = Part(X, ORDER)
    np.asarray(part)[:] = 0
    np.testing.assert_array_equal(part, X[ORDER])  # a copy of the rows, never a view
