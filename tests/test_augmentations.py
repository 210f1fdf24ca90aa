"""Augmentations: color jitter and affine maps, as torchvision defines them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transforms import assert_mean, colors, keys_of

from vaejax.data.augmentations import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    affine,
    blended,
    color_jitter,
    published,
    shifted_hue,
)

IDENTITY = {"jitter": 0.0, "hue": 0.0, "degrees": 0.0, "translate": 0.0, "scale": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """Compile fast, not well: the programs here run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("shape", [(7, 6, 3), (6, 9, 1)])
def test_augmentations_that_change_nothing(shape):
    x, keys = colors(20, *shape), keys_of(20)
    never = jax.jit(jax.vmap(published(probability=0.0)))(x, keys)
    np.testing.assert_array_equal(never, x)
    always = published(probability=1.0, **IDENTITY)
    np.testing.assert_allclose(jax.jit(jax.vmap(always))(x, keys_of(20)), x, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_are_intensities_and_almost_all_differ(channels):
    x = colors(50, 12, 9, channels)
    out = np.asarray(jax.jit(jax.vmap(published(probability=1.0)))(x, keys_of(50)))
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert (np.abs(out - x).max(axis=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_jitter_and_affine_map_happen_independently(probability):
    count = 3000
    x = np.full((16, 16, 1), 0.4, np.float32)
    x[4:12, 4:12] = 0.6
    stage = published(probability=probability, degrees=180.0, translate=0.25, scale=0.0)
    keys = keys_of(count)
    out = np.asarray(jax.jit(jax.vmap(stage, in_axes=(None, 0)))(x, keys)).reshape(count, -1)
    is_moved = (out == 0).any(axis=1)
    is_jittered = ~np.isin(out, [0, x.min(), x.max()]).all(axis=1)
    for moved, p in ((True, probability), (False, 1 - probability)):
        for jittered, q in ((True, probability), (False, 1 - probability)):
            assert_mean((is_moved == moved) & (is_jittered == jittered), p * q)


def test_jitter_of_a_uniform_gray_image_is_its_brightness_alone():
    stage = published(**{**IDENTITY, "probability": 1.0, "jitter": 0.5, "hue": 0.25})
    x = np.full((3, 2, 3), 0.5, np.float32)
    factors = jax.jit(jax.vmap(stage, in_axes=(None, 0)))(x, keys_of(4000)) / 0.5
    factors = np.asarray(factors, np.float64)
    assert np.ptp(factors, axis=(1, 2, 3)).max() < 1e-5
    factors = factors[:, 0, 0, 0]
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.5
    assert_mean(factors, 1.0)
    assert_mean(np.square(factors - 1), 1 / 12)


@pytest.mark.parametrize("channels", [1, 3])
def test_blends_scale_the_light_the_contrast_and_the_color(channels):
    x = colors(8, 5, channels)
    weights = np.float32([1.0] if channels == 1 else [0.299, 0.587, 0.114])
    gray = (x * weights).sum(axis=-1, keepdims=True)
    others = {BRIGHTNESS: 0 * gray, CONTRAST: 0 * gray + gray.mean(), SATURATION: gray}
    for kind, other in others.items():
        for factor in (0.0, 0.6, 1.0, 1.4):
            expected = np.clip(other + factor * (x - other), 0, 1)
            np.testing.assert_allclose(blended(x, kind, factor), expected, atol=1e-6)


def test_hue_turns_about_the_gray_axis():
    x = colors(8, 5, 3)
    gray = np.broadcast_to(x[..., :1], x.shape)
    np.testing.assert_array_equal(shifted_hue(gray, 0.2), gray)
    np.testing.assert_array_equal(shifted_hue(x[..., :1], 0.2), x[..., :1])
    for turns in (0, 1, 2, -1):  # a third of a turn makes red green, green blue, and blue red
        moved = np.roll(x, turns, axis=-1)
        np.testing.assert_allclose(shifted_hue(x, turns / 3), moved, atol=2e-6)
    np.testing.assert_allclose(shifted_hue(shifted_hue(x, 0.2), -0.2), x, atol=2e-6)
    assert np.abs(shifted_hue(x, 0.05) - x).max() > 0.05


def test_every_order_of_the_jitter_is_the_composition_of_its_four_maps():
    x, factors, shift = colors(6, 5, 3), np.float32([1.4, 1.3, 1.45]), 0.2
    results = set()
    for order in itertools.permutations(range(4)):  # 3 is the hue
        expected = x
        for kind in order:
            is_hue = kind == 3
            expected = (
                shifted_hue(expected, shift) if is_hue else blended(expected, kind, factors[kind])
            )
        blends = jnp.array([kind for kind in order if kind != 3])
        out = color_jitter(x, blends, order.index(3), factors, shift)
        np.testing.assert_allclose(out, expected, atol=2e-6)
        results.add(np.asarray(out).round(4).tobytes())
    assert len(results) > 12  # the order matters


def drawn_arguments(monkeypatch, name, shape, count=4000, **hyper):
    """What `published` hands to the function of that name, (count, number of values)."""

    def recorded(x, *arguments):
        values = jnp.concatenate([jnp.ravel(jnp.asarray(a, x.dtype)) for a in arguments])
        return x.reshape(-1).at[: len(values)].set(values).reshape(x.shape)

    monkeypatch.setattr(f"vaejax.data.augmentations.{name}", recorded)
    stage = jax.jit(jax.vmap(published(probability=1.0, **hyper), in_axes=(None, 0)))
    return np.asarray(stage(jnp.zeros(shape), keys_of(count)), np.float64).reshape(count, -1)


def test_jitter_draws_the_24_orders_evenly_and_its_factors_in_their_ranges(monkeypatch):
    still = {"degrees": 0.0, "translate": 0.0, "scale": 0.0}
    drawn = drawn_arguments(monkeypatch, "color_jitter", (10, 10, 1), **still)
    codes = drawn[:, :4] @ [64, 16, 4, 1]
    names = np.unique(codes)
    assert len(names) == 24
    assert_mean(codes[:, None] == names, 1 / 24)
    half_widths = np.array([0.5, 0.5, 0.5, 0.25])
    u = (drawn[:, 4:8] - [1, 1, 1, 0]) / half_widths
    assert_uniform(u)


def test_affine_maps_are_drawn_in_their_ranges(monkeypatch):
    drawn = drawn_arguments(monkeypatch, "affine", (20, 30, 1), jitter=0.0, hue=0.0)
    assert_uniform(np.stack([np.rad2deg(drawn[:, 0]) / 5, (drawn[:, 3] - 1) / 0.1], axis=1))
    for place, most in ((1, 2), (2, 3)):  # a tenth of each side, in whole pixels
        assert set(np.unique(drawn[:, place])) == set(range(-most, most + 1))
        assert_mean(drawn[:, place], 0.0)
        assert_mean(np.abs(drawn[:, place]) == most, 0.5 / most)


def assert_uniform(u):
    """u: (N, K) is uniform on (-1, 1) in every column, and columns are uncorrelated."""
    assert np.abs(u).max() <= 1 + 1e-5
    assert_mean(u, 0.0)
    assert_mean(u**2, 1 / 3)
    assert_mean(u * np.roll(u, 1, axis=1), 0.0)


def zero_filled(x, down, right):
    """x moved by whole pixels."""
    out, (height, width, _) = np.zeros_like(x), x.shape
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            out[row, column] = x[row - down, column - right]
    return out


@pytest.mark.parametrize("shape", [(6, 6, 1), (7, 7, 3)])
def test_affine_maps_of_known_result(shape):
    x = colors(*shape) + 0.5
    quarter = np.pi / 2
    for shift in ((0, 0), (2, -1), (-3, 4), (0, 7)):
        np.testing.assert_array_equal(affine(x, 0.0, shift, 1.0), zero_filled(x, *shift))
        for turns in (1, 2, 3):  # clockwise, and about the center before the move
            expected = zero_filled(np.rot90(x, -turns), *shift)
            np.testing.assert_array_equal(affine(x, turns * quarter, shift, 1.0), expected)
    wide = colors(5, 8, 3)
    np.testing.assert_array_equal(affine(wide, 0.0, (1, 2), 1.0), zero_filled(wide, 1, 2))


def test_rotation_and_zoom_keep_the_center_and_zoom_repeats_pixels():
    x = colors(9, 9, 3)
    for angle, zoom in ((0.3, 1.0), (-2.0, 0.9), (0.05, 1.1)):
        np.testing.assert_array_equal(affine(x, angle, (0, 0), zoom)[4, 4], x[4, 4])
        np.testing.assert_array_equal(affine(x, angle, (2, -1), zoom)[6, 3], x[4, 4])
    repeated = x[3:6, 3:6].repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(affine(x, 0.0, (0, 0), 3.0), repeated)
    shrunk = np.zeros_like(x)
    shrunk[3:6, 3:6] = x[1::3, 1::3]
    np.testing.assert_array_equal(affine(x, 0.0, (0, 0), 1 / 3), shrunk)


@pytest.mark.parametrize("shape", [(2,), (8, 8), (8, 8, 2)])
def test_only_images_are_augmented(key, shape):
    with pytest.raises(ValueError, match=r"^an example to augment has shape \(.*\); it must be"):
        published()(jnp.zeros(shape), key)
