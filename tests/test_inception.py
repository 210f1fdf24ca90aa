"""Inception-v3: by hand where it is small, by another implementation where it is whole."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line

from vaejax.evaluation.inception import (
    POOLS,
    Inception,
    Layer,
    NormalizedConvolution,
    inception_features,
    network_input,
)


def convolutions():
    """Every convolution by its name in PyTorch: channels in and out, height, width."""
    found = {
        "Conv2d_1a_3x3": (3, 32, 3, 3),
        "Conv2d_2a_3x3": (32, 32, 3, 3),
        "Conv2d_2b_3x3": (32, 64, 3, 3),
        "Conv2d_3b_1x1": (64, 80, 1, 1),
        "Conv2d_4a_3x3": (80, 192, 3, 3),
    }
    for block, channels, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        found |= {
            f"Mixed_{block}.branch1x1": (channels, 64, 1, 1),
            f"Mixed_{block}.branch5x5_1": (channels, 48, 1, 1),
            f"Mixed_{block}.branch5x5_2": (48, 64, 5, 5),
            f"Mixed_{block}.branch3x3dbl_1": (channels, 64, 1, 1),
            f"Mixed_{block}.branch3x3dbl_2": (64, 96, 3, 3),
            f"Mixed_{block}.branch3x3dbl_3": (96, 96, 3, 3),
            f"Mixed_{block}.branch_pool": (channels, pooled, 1, 1),
        }
    found |= {
        "Mixed_6a.branch3x3": (288, 384, 3, 3),
        "Mixed_6a.branch3x3dbl_1": (288, 64, 1, 1),
        "Mixed_6a.branch3x3dbl_2": (64, 96, 3, 3),
        "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
    }
    for block, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        found |= {
            f"Mixed_{block}.branch1x1": (768, 192, 1, 1),
            f"Mixed_{block}.branch7x7_1": (768, inner, 1, 1),
            f"Mixed_{block}.branch7x7_2": (inner, inner, 1, 7),
            f"Mixed_{block}.branch7x7_3": (inner, 192, 7, 1),
            f"Mixed_{block}.branch7x7dbl_1": (768, inner, 1, 1),
            f"Mixed_{block}.branch7x7dbl_2": (inner, inner, 7, 1),
            f"Mixed_{block}.branch7x7dbl_3": (inner, inner, 1, 7),
            f"Mixed_{block}.branch7x7dbl_4": (inner, inner, 7, 1),
            f"Mixed_{block}.branch7x7dbl_5": (inner, 192, 1, 7),
            f"Mixed_{block}.branch_pool": (768, 192, 1, 1),
        }
    found |= {
        "Mixed_7a.branch3x3_1": (768, 192, 1, 1),
        "Mixed_7a.branch3x3_2": (192, 320, 3, 3),
        "Mixed_7a.branch7x7x3_1": (768, 192, 1, 1),
        "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
    }
    for block, channels in (("7b", 1280), ("7c", 2048)):
        found |= {
            f"Mixed_{block}.branch1x1": (channels, 320, 1, 1),
            f"Mixed_{block}.branch3x3_1": (channels, 384, 1, 1),
            f"Mixed_{block}.branch3x3_2a": (384, 384, 1, 3),
            f"Mixed_{block}.branch3x3_2b": (384, 384, 3, 1),
            f"Mixed_{block}.branch3x3dbl_1": (channels, 448, 1, 1),
            f"Mixed_{block}.branch3x3dbl_2": (448, 384, 3, 3),
            f"Mixed_{block}.branch3x3dbl_3a": (384, 384, 1, 3),
            f"Mixed_{block}.branch3x3dbl_3b": (384, 384, 3, 1),
            f"Mixed_{block}.branch_pool": (channels, 192, 1, 1),
        }
    return found


def random_state(seed):
    """All arrays of the network under PyTorch's names, and one that it does not need."""
    rng, state = np.random.default_rng(seed), {"fc.bias": np.zeros(1008, np.float32)}
    for name, (inputs, outputs, height, width) in convolutions().items():
        fan = inputs * height * width
        kernel = rng.standard_normal((outputs, inputs, height, width), np.float32)
        state[f"{name}.conv.weight"] = kernel * np.float32(0.3 / np.sqrt(fan))
        # Variances so small that the epsilon beside them is seen.
        for leaf, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", 0.1, 0.5),
            ("running_mean", -0.1, 0.1),
            ("running_var", 0.02, 0.1),
        ):
            state[f"{name}.bn.{leaf}"] = rng.uniform(low, high, outputs).astype(np.float32)
    return state


def saved(path, state):
    np.savez(path, allow_pickle=False, **state)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_network_has_as_many_parameters_as_its_layers_and_as_is_published():
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    layers = convolutions().values()
    by_hand = sum(i * o * h * w + 4 * o for i, o, h, w in layers)
    assert (len(layers), count) == (94, by_hand)
    # Keras counts 21,802,784 without its top layer, and has no scale in its 94 batch norms.
    assert count == 21_802_784 + sum(outputs for _, outputs, _, _ in layers)


def test_a_convolution_is_normalized_by_running_statistics():
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(1, 3, 2, 2)), rng.normal(size=(1, 2, 4, 2))
    scale, bias, mean, var = np.array([[1.5, 0.5], [0.1, -0.2], [0.3, 0.4], [0.01, 2.0]])
    variables = {
        "params": {"conv": {"kernel": kernel}, "bn": {"scale": scale, "bias": bias}},
        "batch_stats": {"bn": {"mean": mean, "var": var}},
    }
    found = NormalizedConvolution(Layer("", 2, 1, 3)).apply(variables, x)
    padded = np.pad(x[0], ((0, 0), (1, 1), (0, 0)))
    for row, column, channel in np.ndindex(2, 4, 2):
        sum_ = (padded[row, column : column + 3] * kernel[0, :, :, channel]).sum()
        normal = (sum_ - mean[channel]) / np.sqrt(var[channel] + 0.001)
        expected = max(0.0, scale[channel] * normal + bias[channel])
        assert found[0, row, column, channel] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_pools_count_what_is_there():
    x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    average = np.array([[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]])  # of 4, 6 and 9 numbers
    maximum = np.array([[5, 6, 6], [8, 9, 9], [8, 9, 9]])
    np.testing.assert_allclose(POOLS["average"](x)[0, :, :, 0], average, rtol=1e-6)
    np.testing.assert_allclose(-POOLS["maximum"](-x[:, ::-1, ::-1])[0, :, :, 0], 10 - maximum)
    np.testing.assert_array_equal(POOLS["halving"](x), 9)


def test_images_are_resized_between_the_centers_of_pixels():
    (a, b), (c, d) = image = np.array([[0.0, 1.0], [10.0, 31.0]])
    found = network_input(jnp.asarray(image, jnp.float32)[None, :, :, None], 5)[0]
    for row, column, channel in np.ndindex(5, 5, 3):
        u, v = (np.clip((k + 0.5) * 2 / 5 - 0.5, 0, 1) for k in (row, column))
        expected = (1 - u) * ((1 - v) * a + v * b) + u * ((1 - v) * c + v * d)
        assert found[row, column, channel] == pytest.approx(2 * expected - 1, rel=1e-5)
    # Smaller, it takes the pixels next to a center and averages no others first.
    line = jnp.array([0.0, 1.0, 2.0, 6.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    found = network_input(jnp.broadcast_to(line, (9, 9))[None, :, :, None], 3)
    np.testing.assert_allclose(found[0, 0, :, 0], [1, 7, 13], rtol=1e-6)


def network_of_torch(state, images):
    """The same features by PyTorch's own functions.  (N, H, W, C) in [0, 1] -> (N, 2048)."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def conv(x, name, stride=1, padding="same"):
        given = [torch.from_numpy(state[f"{name}.bn.{leaf}"]) for leaf in STATISTICS]
        x = functional.conv2d(
            x, torch.from_numpy(state[f"{name}.conv.weight"]), stride=stride, padding=padding
        )
        return functional.relu(functional.batch_norm(x, *given, eps=0.001))

    def chain(x, *names):
        for name in names:
            x = conv(x, name)
        return x

    def average(x):
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

    def inner(x, m):
        return [
            chain(x, f"{m}.branch3x3_1"),
            chain(x, f"{m}.branch3x3dbl_1", f"{m}.branch3x3dbl_2"),
        ]

    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) * 2 - 1
    x = conv(conv(x, "Conv2d_1a_3x3", 2, 0), "Conv2d_2a_3x3", 1, 0)
    x = functional.max_pool2d(conv(x, "Conv2d_2b_3x3"), 3, 2)
    x = functional.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", 1, 0), 3, 2)
    for m in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        double = [f"{m}.branch3x3dbl_{k}" for k in (1, 2, 3)]
        five = f"{m}.branch5x5_1", f"{m}.branch5x5_2"
        branches = [chain(x, f"{m}.branch1x1"), chain(x, *five), chain(x, *double)]
        x = torch.cat([*branches, conv(average(x), f"{m}.branch_pool")], 1)
    m = "Mixed_6a"
    double = chain(x, f"{m}.branch3x3dbl_1", f"{m}.branch3x3dbl_2")
    branches = [conv(x, f"{m}.branch3x3", 2, 0), conv(double, f"{m}.branch3x3dbl_3", 2, 0)]
    x = torch.cat([*branches, functional.max_pool2d(x, 3, 2)], 1)
    for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = [f"{m}.branch7x7_{k}" for k in (1, 2, 3)]
        double = [f"{m}.branch7x7dbl_{k}" for k in (1, 2, 3, 4, 5)]
        branches = [chain(x, f"{m}.branch1x1"), chain(x, *seven), chain(x, *double)]
        x = torch.cat([*branches, conv(average(x), f"{m}.branch_pool")], 1)
    m = "Mixed_7a"
    seven = chain(x, *(f"{m}.branch7x7x3_{k}" for k in (1, 2, 3)))
    branches = [conv(conv(x, f"{m}.branch3x3_1"), f"{m}.branch3x3_2", 2, 0)]
    branches += [conv(seven, f"{m}.branch7x7x3_4", 2, 0), functional.max_pool2d(x, 3, 2)]
    x = torch.cat(branches, 1)
    for m, pool in (("Mixed_7b", average), ("Mixed_7c", None)):
        one, two = inner(x, m)
        branches = [conv(x, f"{m}.branch1x1")]
        branches += [conv(one, f"{m}.branch3x3_2{k}") for k in "ab"]
        branches += [conv(two, f"{m}.branch3x3dbl_3{k}") for k in "ab"]
        pooled = pool(x) if pool else functional.max_pool2d(x, 3, stride=1, padding=1)
        x = torch.cat([*branches, conv(pooled, f"{m}.branch_pool")], 1)
    return x.mean(dim=(2, 3)).numpy()


STATISTICS = ("running_mean", "running_var", "weight", "bias")


def test_the_network_is_that_of_another_implementation(tmp_path):
    state = random_state(0)
    images = np.random.default_rng(1).random((2, 9, 7, 3), np.float32)
    expected = network_of_torch(state, images)
    found = inception_features(*saved(tmp_path / "weights.npz", state)).features_of(images)
    apart, scale = np.abs(expected[0] - expected[1]).mean(), expected.mean()
    assert apart > 0.01 * scale  # far more than rounding
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5 * scale)


def test_a_parameter_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    state, name = random_state(0), "Mixed_6b.branch7x7_2.conv.weight"
    given = saved(tmp_path / "weights.npz", {"little": np.zeros(1)})
    broken = {**state, name: np.where(np.arange(7) == 3, np.nan, state[name])}
    rest = {key: array for key, array in state.items() if key != name}
    for arrays, said in [
        (rest, f"weights.npz lacks 1 of 470 arrays, first {name}"),
        (
            rest | {name: state[name].swapaxes(2, 3)},
            r"\(128, 128, 7, 1\); it must be .*128, 1, 7\)",
        ),
        (broken, f"{name} holds what is no finite floating-point number"),
        (rest | {name: np.ones((128, 128, 1, 7), int)}, f"{name} holds what is no finite"),
    ]:
        monkeypatch.setattr("vaejax.evaluation.inception.weights_in", lambda _, a=arrays: a)
        with one_line(said):
            inception_features(*given)
    monkeypatch.setattr("vaejax.evaluation.inception.weights_in", lambda _: state)
    for shape in [(2, 2), (2, 9, 9, 4)]:
        with one_line(r"data of shape \(.*\); Inception takes images \(H, W, 1 or 3\)"):
            inception_features(*given).features_of(np.zeros(shape))
