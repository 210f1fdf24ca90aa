"""Embedded data sets are what they say they are."""

import inspect
import re

import numpy as np
import pytest
from conftest import data_config
from scipy.special import ellipe

from vaejax.config import default_config
from vaejax.data.arrays import Dataset
from vaejax.data.catalog import CATALOG, EMBEDDED
from vaejax.data.shapes import FACTORS, shapes64
from vaejax.data.sources import SOURCES, dataset_from
from vaejax.data.splits import with_hash
from vaejax.data.synthetic import swiss_roll, two_moons


def test_table_config_and_catalog_agree():
    rows = default_config().datasets
    assert set(SOURCES) == set(rows)
    for name, source in SOURCES.items():
        assert set(inspect.signature(source).parameters) == set(rows[name]), name
    assert set(SOURCES) == {*EMBEDDED, *CATALOG, "arrays", "image_folder", "tfds", "stand_in"}


def test_digits_are_those_of_scikit_learn_and_no_image_is_in_both_splits():
    from sklearn.datasets import load_digits

    oracle = load_digits()
    data = dataset_from(data_config("digits"))
    train, test = data.splits["train"], data.splits["test"]
    np.testing.assert_array_equal(np.concatenate([train, test]), oracle.images[..., None])
    np.testing.assert_array_equal(np.concatenate([*data.labels.values()]), oracle.target)
    assert (train.dtype, len(train), len(test)) == (np.uint8, 1500, 297)
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    assert train.max() == data.scale


def test_promised_hash_is_kept_or_one_line_says_which_one_it_is():
    config = data_config("digits")
    sha256 = dataset_from(config).sha256
    config.data_sha256 = sha256
    config.splits.validation = 0.1
    assert dataset_from(config).sha256 == sha256
    config.data_sha256 = sha256[::-1]
    with pytest.raises(ValueError, match=rf"\Adigits: [^\n]*{sha256}[^\n]*{sha256[::-1]}\Z"):
        dataset_from(config)


def test_splits_of_the_config_are_taken_from_train_alone():
    config, whole = data_config("digits"), dataset_from(data_config("digits"))
    config.splits.update({"validation": 0.2, "test": 0.3, "seed": 4})  # digits have a test split
    data = dataset_from(config)
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 1_200,
        "validation": 300,
        "test": 297,
    }
    np.testing.assert_array_equal(data.splits["test"], whole.splits["test"])
    parts = [(row.tobytes(), y) for s in ("train", "validation") for row, y in rows_of(data, s)]
    assert sorted(parts) == sorted((row.tobytes(), y) for row, y in rows_of(whole, "train"))
    config.splits.seed = 5
    assert (dataset_from(config).splits["validation"][:] != data.splits["validation"][:]).any()


def rows_of(data: Dataset, split: str):
    return zip(np.asarray(data.splits[split]), data.labels[split].tolist(), strict=True)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_moons_without_noise_are_half_circles_and_those_of_scikit_learn(size):
    from sklearn.datasets import make_moons

    moons = two_moons(num_train=size, num_test=1, noise=0.0, seed=3)
    points, labels = moons.splits["train"], moons.labels["train"]
    from_center = points - np.array([[0.0, 0.0], [1.0, 0.5]])[labels]
    np.testing.assert_allclose(np.linalg.norm(from_center, axis=1), 1.0, atol=1e-6)
    assert (from_center[:, 1] * np.where(labels, -1, 1) > -1e-6).all()
    pairs = (points, labels), make_moons(size, shuffle=False, noise=None)
    ours, wanted = (x[np.lexsort([x[:, 0], y])] for x, y in pairs)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_moons_noise_has_the_asked_deviation_and_its_own_stream_by_split_and_seed():
    def noise(seed: int, split: str) -> np.ndarray:
        noisy, clean = (two_moons(9_999, 9_999, scale, seed) for scale in (0.05, 0.0))
        return (noisy.splits[split] - clean.splits[split]).ravel() / 0.05

    draws = [noise(0, "train"), noise(0, "test"), noise(1, "train")]
    standard_errors = np.sqrt((1 + np.eye(3)) / draws[0].size)  # of covariances of unit normals
    assert (np.abs(np.cov(draws) - np.eye(3)) < 4 * standard_errors).all()
    np.testing.assert_array_equal(draws[0], noise(0, "train"))


@pytest.mark.parametrize("x_shape", [(8, 8, 1), (28, 28, 1), (64, 48, 3), (2,)])
def test_stand_in_is_smooth_and_differs_between_examples(x_shape):
    data = dataset_from(data_config("stand_in", x_shape=x_shape, num_train=64, num_test=16))
    assert data.x_shape == x_shape
    rows = np.concatenate([data.splits["train"], data.splits["test"]]).astype(float)
    assert len({row.tobytes() for row in rows}) == len(rows)
    for axis in range(1, len(x_shape)):
        assert np.diff(rows, axis=axis).std() < 0.8 * rows.std()


@pytest.mark.parametrize("draw", [two_moons, swiss_roll])
def test_drawn_sets_change_with_the_seed_and_the_split_alone(draw):
    once, again, other = (with_hash(draw(50, 50, 0.1, seed)) for seed in (0, 0, 1))
    assert once.sha256 == again.sha256 != other.sha256
    assert (once.splits["train"] != once.splits["test"]).any(axis=1).all()
    longer = draw(50, 60, 0.1, 0)
    np.testing.assert_array_equal(longer.splits["train"], once.splits["train"])


def test_swiss_roll_is_that_of_scikit_learn_from_the_same_coordinates():
    from sklearn.datasets import make_swiss_roll

    class Drawn(np.random.RandomState):  # hands over our coordinates in place of its own
        def uniform(self, size):
            return units[:, next(columns)]

    size, columns = 2_000, iter(range(2))
    roll = swiss_roll(size, 5, 0.0, 3)
    x, y, z = roll.splits["train"].T.astype(np.float64)
    units = np.stack([(np.hypot(x, z) / (1.5 * np.pi) - 1) / 2, y / 21], axis=1)
    theirs, _ = make_swiss_roll(size, random_state=Drawn(0))
    np.testing.assert_allclose(roll.splits["train"], theirs, atol=1e-4)
    steps = (np.arange(size) + 0.5)[:, None] / size
    assert (np.abs(np.sort(units, axis=0) - steps) < 2 / np.sqrt(size)).all()  # both are uniform
    assert np.abs(np.corrcoef(units.T)[0, 1]) < 4 / np.sqrt(size)
    np.testing.assert_array_equal(roll.labels["train"], np.floor(10 * units[:, 0]))
    np.testing.assert_array_equal(roll.factors["train"], np.floor(100 * units))


def test_swiss_roll_noise_has_the_asked_deviation():
    noisy, clean = (swiss_roll(9_999, 1, scale, 0).splits["train"] for scale in (0.3, 0.0))
    draws = (noisy - clean).T / 0.3
    standard_errors = np.sqrt((1 + np.eye(3)) / draws.shape[1])
    assert (np.abs(np.cov(draws) - np.eye(3)) < 4 * standard_errors).all()


@pytest.fixture(scope="module")
def shapes() -> np.ndarray:
    """Pictures by their factors, (*FACTORS, 64, 64)."""
    data = shapes64()
    sizes = [len(values) for values in FACTORS.values()]
    np.testing.assert_array_equal(data.factors["train"], [*np.ndindex(*sizes)])
    np.testing.assert_array_equal(data.labels["train"], data.factors["train"][:, 0])
    return data.splits["train"].reshape(*sizes, 64, 64)


def test_every_picture_of_shapes64_is_unique_and_leaves_the_border_black(shapes):
    pictures = shapes.reshape(-1, 64 * 64)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    inside = np.pad(np.zeros((62, 62), bool), 1, constant_values=True)
    assert not shapes[..., inside].any()
    assert (pictures.max(axis=1) == 255).all()


def test_a_step_of_a_position_of_shapes64_shifts_the_picture_by_four_pixels(shapes):
    right, down = shapes[:, :, :, 1:], shapes[:, :, :, :, 1:]
    np.testing.assert_array_equal(right[..., 4:], shapes[:, :, :, :-1, ..., :-4])
    np.testing.assert_array_equal(down[..., 4:, :], shapes[:, :, :, :, :-1, ..., :-4, :])


def test_scale_orders_the_area_of_shapes64_as_its_square(shapes):
    areas = shapes[:, :, :, 3, 3].sum(axis=(-2, -1)) / 255  # (shape, scale, orientation)
    assert (np.diff(areas, axis=1) > 0).all()
    ratio = areas / np.square(FACTORS["scale"])[None, :, None]
    exact = [1.6**2, np.pi * 0.6, 3 * np.sqrt(3) * 0.55**2]  # of square, ellipse, triangle
    np.testing.assert_allclose(
        ratio, np.broadcast_to(np.c_[exact][:, None], ratio.shape), rtol=0.03
    )


def test_soft_edges_of_shapes64_are_one_pixel_wide(shapes):
    soft = ((shapes > 0) & (shapes < 255))[:, :, :, 3, 3].sum(axis=(-2, -1))
    around = [8 * 0.8, 4 * ellipe(1 - 0.6**2), 6 * np.sqrt(3) * 0.55]  # of scale 1
    width = soft / np.multiply.outer(around, FACTORS["scale"])[..., None]
    np.testing.assert_allclose(width.mean(axis=(1, 2)), 1, atol=0.05)


def test_orientation_of_shapes64_turns_the_picture_clockwise_and_never_repeats(shapes):
    middle = shapes[:, -1, :, 3, 3].astype(float)
    rows, columns = np.mgrid[:64, :64]
    for shape, pictures in enumerate(middle):
        distinct = [np.abs(a - b).sum() / 255 for i, a in enumerate(pictures) for b in pictures[:i]]
        assert min(distinct) > 10, FACTORS["shape"][shape]  # pixels that change entirely
        mass = pictures.sum(axis=(1, 2))
        center = [(pictures * axis).sum(axis=(1, 2)) / mass for axis in (rows, columns)]
        np.testing.assert_allclose(
            center, np.broadcast_to(np.mean(center, 1)[:, None], (2, 10)), atol=0.05
        )
    v, u = rows - 29.5, columns - 29.5  # of the ellipse, upright at first
    ellipse = middle[1] / middle[1].sum(axis=(1, 2), keepdims=True)
    spread = [(ellipse * axes).sum(axis=(1, 2)) for axes in (u * u - v * v, 2 * u * v)]
    turned = np.unwrap(np.arctan2(-spread[1], -spread[0])) / 2
    np.testing.assert_allclose(turned - turned[0], FACTORS["orientation"], atol=0.02)


BAD = [
    ("two_moons", "noise", -0.1),
    ("two_moons", "num_train", 0),
    ("two_moons", "seed", -1),
    ("swiss_roll", "noise", float("nan")),
    ("swiss_roll", "noise", float("inf")),
    ("swiss_roll", "num_test", 0),
    ("swiss_roll", "seed", -1),
    ("stand_in", "x_shape", ()),
]


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_bad_hyper_parameters_get_one_line(name, key, value):
    match = re.escape(f"{name}: ") + rf"[^\n]*{re.escape(f'{key} is {value}')}[^\n]*\Z"
    with pytest.raises(ValueError, match=match):
        dataset_from(data_config(name, **{key: value}))
