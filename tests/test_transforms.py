"""Raw rows to x: every draw belongs to its example, and every stage is the map that it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.data.arrays import normalized
from vaejax.data.augmentations import AUGMENTATIONS, published
from vaejax.data.transforms import (
    CORRUPTIONS,
    OBSERVATIONS,
    dequantized,
    intensities,
    scaled,
    threshold,
    transform_of,
)

BYTES = np.arange(256, dtype=np.uint8)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def colors(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def assert_mean(samples, expected):
    """The mean over the first axis, and over all, is `expected` within 4 standard errors."""
    samples = np.asarray(samples, np.float64).reshape(len(samples), -1)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    z = (samples.mean(axis=0) - np.ravel(expected)) / error
    assert np.abs(z).max() <= 4
    assert abs(z.sum()) <= 4 * np.sqrt(z.size)


def all_transforms():
    """Every observation, augmentation and corruption once, and all random stages at once."""
    for name, observation in OBSERVATIONS.items():
        yield name, transform_of(observation(255.0))
    for table, place in ((AUGMENTATIONS, "augment"), (CORRUPTIONS, "corrupt")):
        for name, stage in table.items():
            yield f"{place}: {name}", transform_of(intensities(255.0), **{place: stage()})
    stages = {"augment": published(), "corrupt": CORRUPTIONS["masking"]()}
    yield "all", transform_of(OBSERVATIONS["bernoulli"](255.0), **stages)


TRANSFORMS = dict(all_transforms())


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if "none" not in name])
def test_an_example_is_the_same_alone_in_any_batch_and_on_any_number_of_devices(name):
    rows = images(16, 7, 6, 3)
    transform = TRANSFORMS[name]

    def both(rows, keys):
        return *transform.train(rows, keys), transform.evaluate(rows, keys)

    jitted, equal = jax.jit(both), functools.partial(np.testing.assert_allclose, atol=1e-6)
    with jax.debug_key_reuse(False):  # training and evaluation share their keys in this test
        reference = jax.device_get(jitted(rows, keys_of(16)))
        for index in (0, 5, 15):
            alone = jitted(rows[index : index + 1], keys_of(16)[index : index + 1])
            jax.tree.map(lambda a, b, index=index: equal(a[0], b[index]), alone, reference)
        shards = jax.pmap(both)(rows.reshape(8, 2, 7, 6, 3), keys_of(16).reshape(8, 2))
        jax.tree.map(lambda a, b: equal(a.reshape(b.shape), b), shards, reference)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_equal_rows_draw_apart_where_keys_differ_and_only_where_a_stage_draws(name):
    rows = np.broadcast_to(images(7, 6, 3), (64, 7, 6, 3))
    transform = TRANSFORMS[name]
    x, seen = jax.jit(transform.train)(rows, keys_of(64))
    evaluated = jax.jit(transform.evaluate)(rows, keys_of(64))
    stage = name.split(": ")[-1]
    is_fixed = stage in ("scaled", "threshold", "none")
    # An augmentation leaves a quarter of the rows as they are.
    allowed = {1} if is_fixed else range(32, 60) if stage == "published" else {64}
    assert len(np.unique(seen, axis=0)) in allowed
    has_corruption = name == "all" or (name.startswith("corrupt") and stage != "none")
    assert np.array_equal(seen, x) != has_corruption
    assert len(np.unique(evaluated, axis=0)) == (64 if transform.is_random else 1)
    again = jax.jit(transform.evaluate)(rows, keys_of(64, seed=1))
    assert np.array_equal(again, evaluated) != transform.is_random


def test_training_without_augmentation_is_evaluation_and_corruption_leaves_x_alone():
    rows = images(9, 5, 4, 3)
    for observation in OBSERVATIONS.values():
        plain = transform_of(observation(255.0)).evaluate(rows, keys_of(9))
        for corruption in CORRUPTIONS.values():
            transform = transform_of(observation(255.0), corrupt=corruption())
            x, seen = transform.train(rows, keys_of(9))
            np.testing.assert_array_equal(x, plain)
            assert (seen is x) == (corruption() is None)


def test_scaled_is_raw_over_scale_to_the_bit_and_consumes_no_keys():
    for scale, rows in ((255.0, BYTES[:, None]), (16.0, BYTES[:17, None]), (1.7, colors(9, 2))):
        keys = keys_of(len(rows))
        transform = scaled(scale)
        expected = normalized(rows, scale)
        jitted = jax.jit(transform.evaluate)(rows, keys), jax.jit(transform.train)(rows, keys)[1]
        for x in (*transform.train(rows, keys), transform.evaluate(rows, keys), *jitted):
            assert x.dtype == jnp.float32
            np.testing.assert_array_equal(x, expected)
        jax.vmap(jax.random.bits)(keys)  # the checker of key reuse, on in all tests, has no say


def test_keys_that_were_drawn_from_cannot_be_used_again():
    for observation in (OBSERVATIONS["bernoulli"], OBSERVATIONS["dequantized"]):
        keys = keys_of(4)
        transform_of(observation(255.0)).evaluate(BYTES[:4, None], keys)
        with pytest.raises(Exception, match="consumed"):
            jax.vmap(jax.random.bits)(keys)


def test_binarization_has_the_intensity_as_its_mean():
    rows = np.broadcast_to(BYTES[::15], (4000, 18))
    x = np.asarray(transform_of(OBSERVATIONS["bernoulli"](255.0)).evaluate(rows, keys_of(4000)))
    assert set(np.unique(x)) == {0.0, 1.0}
    assert_mean(x[:, 1:-1], BYTES[::15][1:-1] / 255)
    np.testing.assert_array_equal(x[:, [0, -1]], [[0, 1]] * 4000)
    products = (x[:, 1:-2] - x[:, 1:-2].mean(axis=0)) * (x[:, 2:-1] - x[:, 2:-1].mean(axis=0))
    assert_mean(products, 0.0)  # coordinates draw apart


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_thresholding_twice_is_thresholding_once(level):
    x = transform_of(threshold(255.0, level=level)).evaluate(BYTES[:, None], keys_of(256))
    np.testing.assert_array_equal(x[:, 0], (255 * level < BYTES).astype(np.float32))
    again = transform_of(threshold(1.0, level=level)).evaluate(x, keys_of(256))
    np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize("scale", [1.0, 16.0, 255.0, 65535.0])
def test_dequantized_values_stay_in_their_level_even_at_its_ends(scale, monkeypatch):
    raw = np.unique(np.linspace(0, scale, 256).round()).astype(np.float32)
    transform = transform_of(dequantized(scale))
    x = np.asarray(transform.evaluate(np.broadcast_to(raw, (2000, len(raw))), keys_of(2000)))
    u = x.astype(np.float64) * (scale + 1) - raw
    assert_mean(u, 0.5)
    if scale < 256:  # beyond, the ends that are left out are wide enough to be seen
        assert_mean(np.square(u - 0.5), 1 / 12)
    seen = [x]
    for end in (0.0, 1 - 2.0**-23):  # the least and the greatest that the generator yields

        def uniform(key, shape, minval=0.0, maxval=1.0, end=end):
            return jnp.full(shape, minval + end * (maxval - minval), jnp.float32)

        monkeypatch.setattr(jax.random, "uniform", uniform)
        seen.append(np.asarray(transform.evaluate(raw[None], keys_of(1))))
    for values in seen:
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() < 1
        for precise in (values, values.astype(np.float64)):
            level = np.floor(precise * precise.dtype.type(scale + 1))
            np.testing.assert_array_equal(level, np.broadcast_to(raw, level.shape))


def test_stages_come_in_their_order_with_a_key_each():
    rows, half = np.full((4000, 1), 255, np.uint8), lambda x, key: x / 2
    transform = transform_of(OBSERVATIONS["bernoulli"](255.0), half, lambda x, key: x - 3)
    x, seen = transform.train(rows, keys_of(4000))
    assert_mean(x, 0.5)  # augmented, then binarized
    np.testing.assert_array_equal(seen, x - 3)
    np.testing.assert_array_equal(transform.evaluate(rows, keys_of(4000)), 1)

    between = transform_of(dequantized(255.0), augment=lambda x, key: 0.3 * x)
    x, _ = between.train(np.full((4000, 1), 9, np.uint8), keys_of(4000))
    assert_mean(x * 256, 3.5)  # 2.7 is rounded before u is added
    np.testing.assert_array_equal(np.floor(x * 256), 3)

    def noise(x, key):
        return jax.random.uniform(key, x.shape)

    own = intensities(1.0)._replace(draw=lambda x, key: x + 2 * noise(x, key), is_random=True)
    x, seen = transform_of(own, augment=noise, corrupt=noise).train(rows, keys_of(4000))
    augmented = transform_of(intensities(1.0), augment=noise).train(rows, keys_of(4000))[0]
    drawn = (x - augmented) / 2
    for one, other in ((augmented, seen), (augmented, drawn), (drawn, seen)):
        assert_mean((one - 0.5) * (other - 0.5), 0.0)


def corrupted(name, x, **hyper):
    transform = transform_of(intensities(1.0), corrupt=CORRUPTIONS[name](**hyper))
    return np.asarray(transform.train(x, keys_of(len(x)))[1])


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.6, 1.0])
def test_corrupted_coordinates_are_as_frequent_as_said_and_others_untouched(fraction):
    x = colors(3000, 4, 2) * 0.8 + 0.1
    for name, values in (("masking", (0.0,)), ("salt_and_pepper", (0.0, 1.0))):
        out = corrupted(name, x, fraction=fraction)
        changed = out != x
        assert np.isin(out[changed], values).all()
        if fraction in (0.0, 1.0):
            assert changed.mean() == fraction
        else:
            assert_mean(changed, fraction)
            products = (changed[1:] - fraction) * (changed[:-1] - fraction)
            assert_mean(products, 0.0)  # of one example and the next
            assert_mean((changed[..., 0] - fraction) * (changed[..., 1] - fraction), 0.0)
            for value in values:
                assert_mean(out == value, fraction / len(values))


def test_gaussian_noise_has_its_scale_and_is_not_clipped():
    x = np.broadcast_to(np.float32([0.0, 0.5, 1.0]), (4000, 3))
    noise = corrupted("gaussian", x, scale=0.3).astype(np.float64) - x
    assert_mean(noise, 0.0)
    assert_mean(noise**2, 0.09)
    assert_mean(noise[1:] * noise[:-1], 0.0)
    np.testing.assert_array_equal(corrupted("gaussian", x, scale=0.0), x)


@pytest.mark.parametrize(
    ("build", "hyper", "message"),
    [
        (threshold, {"scale": 1.0, "level": 1.0}, "level is 1.0; it must be at least 0"),
        (scaled, {"scale": 0.0}, "scale is 0.0; it must be positive"),
        (scaled, {"scale": float("nan")}, "scale is nan; it must be positive"),
        (published, {"probability": 1.5}, "probability is 1.5; it must be from 0 to 1"),
        (published, {"jitter": -0.1}, "jitter is -0.1; it must be from 0 to 1"),
        (published, {"hue": 0.6}, "hue is 0.6; it must be from 0 to 0.5"),
        (published, {"degrees": 200.0}, "degrees is 200.0; it must be from 0 to 180"),
        (published, {"translate": 1.1}, "translate is 1.1; it must be from 0 to 1"),
        (published, {"scale": 1.0}, "scale is 1.0; it must be at least 0 and below 1"),
        (CORRUPTIONS["gaussian"], {"scale": -1.0}, "scale is -1.0; it must be at least 0"),
        (CORRUPTIONS["masking"], {"fraction": 2.0}, "fraction is 2.0; it must be from 0 to 1"),
        (CORRUPTIONS["salt_and_pepper"], {"fraction": -1.0}, "fraction is -1.0; it must be"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused_in_one_line(build, hyper, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        build(**hyper)
