"""What goes into the cache comes out, and what does not fit together does not go in."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from toy_entry import SIZES, assert_same, blocks_of, file_of, toy, write

from vaejax.data import cache
from vaejax.data.arrays import SPLITS, Dataset
from vaejax.data.cache import kept
from vaejax.data.splits import with_hash


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def in_memory(columns: dict, scale: float = 255.0) -> Dataset:
    return with_hash(Dataset("other", {s: part["x"] for s, part in columns.items()}, scale))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kinds", [("x",), ("x", "labels"), ("x", "labels", "factors")])
@pytest.mark.parametrize("cuts", [(), (1, 1, 2), (3,)])
def test_an_entry_is_what_was_written_whatever_the_blocks(root, dtype, kinds, cuts):
    columns = {s: {kind: part[kind] for kind in kinds} for s, part in toy(dtype).items()}
    backwards = dict(reversed(columns.items()))
    for entry in (write(backwards, *cuts, sizes=SIZES), cache.cached("toy")):
        assert_same(entry, columns)
        assert list(entry.splits) == list(SPLITS)
        assert (entry.name, entry.note, entry.scale) == ("toy", "drawn", 255.0)
        assert entry.sha256 == in_memory(columns).sha256
        assert all(isinstance(rows, np.memmap) for rows in entry.splits.values())
    assert sorted(os.listdir(root)) == ["toy"]
    facts = cache.manifest("toy")["arrays"]
    assert facts.keys() == {f"{split}.{kind}" for split in SIZES for kind in kinds}


def test_no_entry_is_none_and_an_entry_is_found_by_its_key_alone():
    assert cache.cached("toy") is None
    write(toy())
    assert cache.cached("to") is cache.cached("toys") is cache.cached("toy-1") is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_scale_zero_is_the_default_of_the_dtype(dtype):
    scale = {np.uint8: 255.0, np.float32: 1.0}[dtype]
    entry = write(toy(dtype), scale=0)
    assert (entry.scale, entry.sha256) == (scale, in_memory(toy(dtype), scale).sha256)


def test_many_rows_do_not_move_the_data_that_follows_the_header():
    rows = np.arange(123_457, dtype=np.uint8)[:, None]
    entry = write({"train": {"x": rows}}, *range(1, 100))
    np.testing.assert_array_equal(entry.splits["train"], rows)
    for size in (1, 123_457):  # numpy's own header is of the same length
        write({"train": {"x": rows[:size]}}, key=f"cut-{size}")
    lengths = {len(rows[:size]): file_of(f"cut-{size}").stat().st_size for size in (1, 123_457)}
    assert lengths[123_457] - lengths[1] == 123_456


def test_progress_counts_all_examples_and_the_note_is_asked_when_all_is_read():
    done, columns = [], toy()
    write(columns, 2, 3, progress=done.append, note=lambda: f"{done[-1]} read")
    assert done == [2, 3, 11, 13, 14, 15, 17, 18, 18]
    assert cache.manifest("toy")["note"] == "18 read"


def test_an_entry_that_is_there_wins_over_a_later_one():
    first = write(toy())
    assert write(toy(seed=1)).sha256 == first.sha256 != in_memory(toy(seed=1)).sha256
    assert_same(first, toy())


def _blocks(*blocks: dict) -> dict:
    return {"train": blocks}


X, Y = toy()["train"]["x"], toy()["train"]["labels"]
BAD = {
    "toy: test has no example": {"test": ()},
    "toy: train has no example": _blocks({"x": X[:0]}, {"x": X[:0]}),
    "toy: train has 10 examples, not 11": _blocks({"x": X[:10]}),
    "toy: train has 12 examples, not 11": _blocks({"x": X}, {"x": X[:1]}),
    "splits are ['test']": {"train": None, "test": [{"x": X}]},
    "splits are ['train', 'valid']": {"valid": [{"x": X}]},
    "(3, 2) uint8 after (3, 2, 1) uint8": _blocks({"x": X[:2]}, {"x": X[2:, ..., 0]}),
    "x of (3, 2, 1) float32 after": _blocks({"x": X[:2]}, {"x": X[2:].astype(np.float32)}),
    "labels of () int32 after () int64": _blocks(
        {"x": X[:2], "labels": Y[:2]}, {"x": X[2:], "labels": Y[2:].astype(np.int32)}
    ),
    "a block of {'x': 11, 'labels': 10}": _blocks({"x": X, "labels": Y[:10]}),
    "a block of x; it must be of x, labels": _blocks({"x": X[:2], "labels": Y[:2]}, {"x": X[2:]}),
    "a block of x, labels; it must be of x": _blocks({"x": X[:2]}, {"x": X[2:], "labels": Y[2:]}),
    "a block of labels; it must be of x": _blocks({"labels": Y}),
    "labels of dtype object": _blocks({"x": X, "labels": Y.astype(object)}),
    "labels of dtype <U": _blocks({"x": X, "labels": Y.astype(str)}),
}


@pytest.mark.parametrize("canonical", [False, True])
@pytest.mark.parametrize("message", BAD)
def test_blocks_that_do_not_fit_get_one_line_and_leave_nothing(root, message, canonical):
    splits = {"train": [{"x": X}], **BAD[message]}
    splits = {split: iter(blocks) for split, blocks in splits.items() if blocks is not None}
    sizes = {"train": 11} if splits.keys() == {"train"} else None
    with one_line(re.escape(message)):
        cache.write("toy", "toy", splits, scale=1, note="", sizes=sizes, canonical=canonical)
    assert not root.exists() or os.listdir(root) == []


def test_splits_other_than_expected_get_one_line(root):
    for sizes in ({"train": 11, "test": 3}, {**SIZES, "extra": 1}):
        with one_line(r"splits are \['test', 'train', 'validation'\]; they must be \["):
            write(toy(), sizes=sizes)
    assert not root.exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_blocks_that_fail_leave_nothing(root, error):
    def failing():
        yield {"x": X}
        raise error("stop")

    with pytest.raises(error, match="stop"):
        cache.write("toy", "toy", {"train": failing()}, scale=1, note="")
    assert os.listdir(root) == []


@pytest.mark.parametrize("canonical", [False, True])
def test_without_a_cache_the_same_data_are_held_in_memory_and_one_warning_says_so(
    tmp_path, monkeypatch, canonical
):
    def recipe():
        return {s: blocks_of(part, 2) for s, part in toy().items()}, lambda: "drawn"

    def refused(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    entry = kept("toy", "toy", recipe, 0, canonical=canonical)
    with monkeypatch.context() as patch:  # what is cached needs no writing
        patch.setattr(cache, "writing", refused)
        assert kept("toy", "toy", refused, 0).sha256 == entry.sha256
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "file" / "below"))
    for attempt in ("below a file", "read-only"):
        with pytest.warns(UserWarning, match="^toy is not cached: ") as warned:
            held = kept("toy", "toy", recipe, 0, canonical=canonical)
        assert len(warned) == 1
        columns = {
            split: {"x": rows, "labels": held.labels[split], "factors": held.factors[split]}
            for split, rows in held.splits.items()
        }
        assert_same(entry, columns)
        assert (held.note, held.scale, with_hash(held).sha256) == ("drawn", 255, entry.sha256)
        if attempt == "below a file":
            monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "other"))
            monkeypatch.setattr(Path, "mkdir", refused)
