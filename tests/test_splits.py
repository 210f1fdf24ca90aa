"""A division loses, copies and repeats nothing; an order and a hash depend on the content alone."""

import dataclasses
import itertools

import numpy as np
import pytest
from conftest import one_line
from toy_entry import blocks_of

from vaejax.data import arrays, cache
from vaejax.data.arrays import Dataset, Part, hashed
from vaejax.data.splits import canonical_order, divided, order_keys, rows_sha256, with_hash

X = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 1)).astype(np.uint8)
LABELS = np.arange(40) % 7
FACTORS = np.stack([np.arange(40) // 8, np.arange(40) % 8], 1)
WHOLE = Dataset("toy", {"train": X}, 255.0, {"train": LABELS}, {"train": FACTORS}, "drawn")


def divide(dataset: Dataset = WHOLE, validation=0.2, test=0.1, seed=0) -> Dataset:
    return divided(dataset, validation=validation, test=test, seed=seed)


def positions(dataset: Dataset) -> dict[str, np.ndarray]:
    """Where the examples of each split were in X, which has no two alike."""
    places = {row.tobytes(): place for place, row in enumerate(X)}
    return {
        split: np.array([places[row.tobytes()] for row in np.asarray(rows)])
        for split, rows in dataset.splits.items()
    }


def test_splits_are_disjoint_cover_the_whole_and_take_labels_and_factors_along():
    data = divide()
    found = positions(data)
    assert {split: len(rows) for split, rows in found.items()} == {
        "train": 28,
        "validation": 8,
        "test": 4,
    }
    assert sorted(np.concatenate([*found.values()])) == list(range(40))
    for split, places in found.items():
        np.testing.assert_array_equal(data.labels[split], LABELS[places])
        np.testing.assert_array_equal(data.factors[split], FACTORS[places])
    assert (data.name, data.scale, data.note) == ("toy", 255.0, "drawn")


def test_a_division_is_a_function_of_size_fractions_and_seed():
    def same(one: Dataset, other: Dataset) -> bool:
        pairs = zip(positions(one).values(), positions(other).values(), strict=True)
        return all(np.array_equal(*pair) for pair in pairs)

    assert same(divide(), divide(hashed(WHOLE, "other")))
    assert not same(divide(), divide(seed=1))
    backwards = dataclasses.replace(WHOLE, splits={"train": X[::-1]})
    for split, rows in divide(backwards).splits.items():
        np.testing.assert_array_equal(rows, X[::-1][positions(divide())[split]])
    # The test split of every published run: a change belongs into Changes, with the reason.
    assert positions(divide())["test"].tolist() == [38, 23, 26, 6]


def test_neighbors_in_a_split_are_no_more_alike_than_others():
    numbers = np.arange(10_000)[:, None]
    data = divide(Dataset("numbers", {"train": numbers}, 1.0), validation=0, test=0.5)
    for rows in data.splits.values():
        neighbors = np.corrcoef(rows[:-1, 0], rows[1:, 0])[0, 1]
        assert abs(neighbors) < 4 / np.sqrt(len(rows))


def test_every_example_is_in_the_test_split_of_some_seeds_and_equally_often():
    numbers, num_seeds = np.arange(40)[:, None], 400
    whole = Dataset("numbers", {"train": numbers}, 1.0)
    tests = [divide(whole, seed=seed).splits["test"][:, 0] for seed in range(num_seeds)]
    counts = np.bincount(np.concatenate(tests), minlength=40)
    standard_error = np.sqrt(num_seeds * 0.1 * 0.9)  # in with probability 1 / 10
    assert np.abs(counts - num_seeds * 0.1).max() < 4 * standard_error


@pytest.mark.parametrize("given", [("test",), ("validation",), ("validation", "test")])
def test_splits_that_are_there_are_kept_and_so_are_their_labels(given):
    there = {split: X[:3] + 1 for split in given}
    labels = {"train": LABELS, **{split: LABELS[:3] for split in given}}
    data = divide(dataclasses.replace(WHOLE, splits={"train": X, **there}, labels=labels))
    assert data.splits.keys() == {"train", "validation", "test"}
    for split in given:
        assert data.splits[split] is there[split]
        assert data.labels[split] is labels[split]
        assert split not in data.factors
    assert len(data.splits["train"]) == 40 - 8 * ("validation" not in given) - 4 * (
        "test" not in given
    )


def test_nothing_to_take_gives_the_same_data_set_and_twice_is_once():
    assert divide(validation=0, test=0) is WHOLE
    data = divide()
    assert divide(data, 0.5, 0.5, seed=3) is data
    only = divide(test=0)
    assert only.splits.keys() == {"train", "validation"}
    assert len(only.splits["train"]) == 32


def test_a_division_of_a_division_is_of_what_was_left():
    first = divide(test=0)
    both = divide(first, test=0.25, seed=5)
    assert both.splits["validation"] is first.splits["validation"]
    left = positions(first)["train"]
    found = positions(both)
    assert sorted([*found["train"], *found["test"]]) == sorted(left)
    assert len(found["test"]) == 8
    for split, places in found.items():
        np.testing.assert_array_equal(both.labels[split], LABELS[places])


@pytest.mark.parametrize(
    ("size", "fractions"), [(1, (0.1, 0.1)), (2, (0.1, 0.1)), (10, (0.5, 0.5)), (4, (0.9, 0.2))]
)
def test_too_few_examples_get_one_line(size, fractions):
    few = Dataset("few", {"train": X[:size]}, 255.0)
    with one_line(f"few: {size} examples cannot give .*leave some"):
        divide(few, *fractions)
    assert len(divide(Dataset("few", {"train": X[:3]}, 255.0), 0.01, 0.01).splits["test"]) == 1


def test_a_mapped_file_is_not_read_by_a_division(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = hashed(dataclasses.replace(WHOLE, splits={"train": mapped}), "known")
    monkeypatch.setattr(np.memmap, "__getitem__", None)
    parts = divide(divide(data, test=0))
    assert parts.sha256 == "known"
    for rows in parts.splits.values():
        while isinstance(rows, Part):
            rows = rows.whole
        assert rows is mapped
    monkeypatch.undo()
    for split, places in positions(divide(data)).items():
        np.testing.assert_array_equal(divide(data).splits[split], X[places])


def sha256(rows=X, scale: float = 255.0, **splits) -> str:
    return with_hash(Dataset("any", {"train": rows, **splits}, scale)).sha256


def test_the_hash_does_not_depend_on_name_labels_or_where_the_rows_lie(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    spread = np.zeros((80, 3, 2, 2), np.uint8)
    spread[::2, ..., 1:] = X
    same = {
        "mapped": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "strided": spread[::2, ..., 1:],
        "transposed": np.asfortranarray(X),
        "backwards": X[::-1].copy()[::-1],
        "part": Part(X[::-1], np.arange(40)[::-1]),
    }
    for size in (1, 50, 2**24):
        monkeypatch.setattr(arrays, "_BYTES", size)
        for how, rows in same.items():
            assert rows_sha256(rows) == rows_sha256(X), how
            assert sha256(rows) == sha256(), how
    assert with_hash(WHOLE).sha256 == sha256()
    assert sha256(X, validation=X, test=X) == sha256(X, test=X, validation=X)


def test_the_hash_depends_on_every_byte_the_order_shape_dtype_split_and_scale():
    found = {sha256()}
    for place in range(X.size):
        changed = X.copy()
        changed.reshape(-1)[place] ^= 1
        found.add(sha256(changed))
    others = [X[::-1], X[:-1], X.reshape(40, 6), X.reshape(20, 6, 2, 1), X.view(np.int8)]
    others += [X.astype(np.float32), X.astype(np.float64)]
    found |= {sha256(rows) for rows in others} | {sha256(scale=1.0)}
    found |= {sha256(test=X), sha256(validation=X), sha256(test=X[:3]), sha256(X[:20], test=X[20:])}
    assert len(found) == 1 + X.size + len(others) + 5
    assert sha256(scale=255) == sha256(scale=255.0)


def test_the_hash_is_that_of_every_version():
    # The content of published runs: a change belongs into Changes, with the reason.
    rows = np.arange(12, dtype=np.uint8).reshape(6, 2)
    published = "80f2de1992e43a70cfaa85dfc5b40822f62581889ce45bbda207d3f6b9623791"
    assert sha256(rows, test=rows[:1]) == published


def test_a_changed_data_set_forgets_its_hash_and_a_divided_one_keeps_that_of_the_whole():
    data = with_hash(WHOLE)
    assert with_hash(data) is data
    assert dataclasses.replace(data, splits={"train": X[::-1]}).sha256 == ""
    assert dataclasses.replace(data).sha256 == ""
    with pytest.raises((ValueError, TypeError), match="sha256"):  # the latter from Python 3.13 on
        dataclasses.replace(data, sha256="mine")
    assert divide(data).sha256 == with_hash(divide(data)).sha256 == data.sha256
    assert with_hash(divide(WHOLE)).sha256 not in ("", data.sha256)
    assert WHOLE.sha256 == ""  # as it was


def columns_of(kinds: tuple[str, ...], order: np.ndarray) -> dict[str, np.ndarray]:
    # Pairs of equal images, which only labels or factors tell apart.
    whole = {"x": np.repeat(X[:20], 2, axis=0), "labels": LABELS - 3, "factors": FACTORS}
    return {kind: whole[kind][order] for kind in kinds}


@pytest.mark.parametrize("kinds", [("x",), ("x", "labels"), ("x", "labels", "factors")])
def test_any_permutation_of_the_same_examples_is_the_same_entry(tmp_path, monkeypatch, kinds):
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path))
    draws, files = np.random.default_rng(0), []
    for key in "abcd":
        columns = columns_of(kinds, draws.permutation(40))
        blocks = blocks_of(columns, *sorted(draws.integers(0, 40, 3)))
        entry = cache.write(key, "toy", {"train": blocks}, scale=1, note="", canonical=True)
        folder = cache.cache_folder() / key
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
        assert examples(kinds, entry) == sorted(examples_of(columns_of(kinds, np.arange(40))))
    assert files[0] == files[1] == files[2] == files[3]
    in_order = entry.factors.get("train", np.zeros((0, 2), int)).tolist()
    assert in_order == (FACTORS.tolist() if "factors" in kinds else [])


def examples(kinds: tuple[str, ...], entry: Dataset) -> list:
    found = {"x": entry.splits["train"]}
    found |= {kind: getattr(entry, kind)["train"] for kind in kinds[1:]}
    return sorted(examples_of(found))


def examples_of(columns: dict[str, np.ndarray]) -> list:
    rows = zip(*columns.values(), strict=True)
    return [tuple(value.tobytes() for value in row) for row in rows]


def test_factors_order_lexicographically_the_first_counting_most():
    table = np.array(list(itertools.product([-2, 0, 7], [1, 300], range(3))))
    shuffled = table[np.random.default_rng(1).permutation(len(table))]
    keys = order_keys({"x": X[: len(table)], "factors": shuffled})
    np.testing.assert_array_equal(shuffled[canonical_order(keys)], table)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, ">i8"])
def test_the_order_does_not_depend_on_how_labels_are_stored(dtype):
    stored = order_keys({"x": X, "labels": LABELS.astype(dtype)})
    np.testing.assert_array_equal(stored, order_keys({"x": X, "labels": LABELS}))
    np.testing.assert_array_equal(
        order_keys({"x": X}), order_keys({"x": np.asfortranarray(X), "labels": 0 * LABELS})
    )
