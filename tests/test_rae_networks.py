"""The trunks of arXiv 1903.12436 are those of its code, at every size of an image."""

import jax
import numpy as np
import pytest
from test_networks import abstract_params, drawn, normal, size

from vaejax.config import load_config
from vaejax.models.layers import Layers
from vaejax.models.rae_networks import RAEDecoder, RAEEncoder, borders, padded_sides

LOWERINGS = ("native", "matmul")

# Image -> encoder with its linear code, and decoder: kernels and biases, and two numbers per
# channel of a batch norm.
SIZES = {
    "mnist": (
        (28, 28, 1),
        (16 * (128 + 128 * 256 + 256 * 512 + 512 * 1024) + 3 * 1920) + (4096 + 1) * 16,
        (16 + 1) * 65536 + 16 * (1024 * 512 + 512 * 256 + 256) + 3 * 768 + 1,
    ),
    "cifar10": (
        (32, 32, 3),
        (16 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024) + 3 * 1920) + (4096 + 1) * 128,
        (128 + 1) * 65536 + 16 * (1024 * 512 + 512 * 256 + 256 * 3) + 3 * 768 + 3,
    ),
    "celeba": (
        (64, 64, 3),
        (25 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024) + 3 * 1920) + (16384 + 1) * 64,
        (64 + 1) * 65536 + 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + 3 * 896 + 3,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_configs_have_the_parameters_of_the_published_code(name):
    x_shape, encoder, decoder = SIZES[name]
    params = abstract_params(load_config(f"configs/rae_{name}.py"), x_shape)[1]["params"]
    assert size(params["encoder"]) + size(params["posterior"]) == encoder
    assert size(params["decoder"]) == decoder


@pytest.mark.parametrize(
    ("x_shape", "halvings", "sides"),
    [
        ((28, 28, 1), 4, [32, 32]),
        ((32, 64, 3), 4, [32, 64]),
        ((8, 17, 1), 2, [16, 32]),
        ((64, 33, 1), 5, [64, 64]),
    ],
)
def test_sides_are_filled_up_evenly(x_shape, halvings, sides):
    assert padded_sides(x_shape, halvings) == sides
    for (before, after), side, padded in zip(
        borders(x_shape, halvings), x_shape, sides, strict=False
    ):
        assert before + side + after == padded
        assert after - before in (0, 1)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_an_image_counts_as_itself_in_a_frame_of_zeros(lowering):
    net = RAEEncoder((4, 6), layers=Layers(lowering))
    x = normal(3, 28, 25, 2)
    variables = drawn(net, x)
    framed = np.zeros((3, 32, 32, 2), np.float32)
    framed[:, 2:30, 3:28] = x
    np.testing.assert_allclose(
        net.apply(variables, x), net.apply(variables, framed), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_smaller_image_is_the_middle_of_the_larger_one(lowering):
    z = normal(3, 2)
    made = {"channels": (4, 6, 8), "layers": Layers(lowering)}
    whole, part = (RAEDecoder((*sides, 1), **made) for sides in ((32, 32), (28, 25)))
    variables = drawn(whole, z)
    large, small = whole.apply(variables, z), part.apply(variables, z)
    np.testing.assert_array_equal(small, large[:, 2:30, 3:28])


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("kernel", [4, 5])
def test_the_decoder_is_affine_in_z_where_its_activations_are_on(kernel, lowering):
    """Nothing but dense, doublings with batch norm and ReLU, and a last linear layer."""
    net = RAEDecoder((16, 16, 2), (3, 4, 5), kernel, Layers(lowering))
    a, b = normal(4, 2), normal(4, 2, seed=1)
    variables = drawn(net, a)
    apply = jax.jit(net.apply)

    def bend(bias):
        """Distance of the decoded middle from the middle of the decoded, by their spread."""
        for name in ("BatchNorm_0", "BatchNorm_1"):
            params = variables["params"][name]
            params["bias"] = np.full_like(params["bias"], bias)
        one, other, middle = (np.asarray(apply(variables, z)) for z in (a, b, (a + b) / 2))
        return np.abs(middle - (one + other) / 2).max() / np.std(one - other)

    assert bend(0.0) > 0.1
    assert bend(100.0) < 2e-3


@pytest.mark.parametrize("module", [RAEEncoder, RAEDecoder])
def test_batch_norm_adds_the_published_thousandth_to_the_variance(module):
    """Without biases all layers are homogeneous: four times the sum with 0.003 is half of each."""
    shape = {"x_shape": (16, 16, 1)} if module is RAEDecoder else {}
    net = module(channels=(3, 4), **shape)
    given = normal(2, 3) if shape else normal(2, 16, 16, 1)
    variables = drawn(net, given)
    gains = []
    for variance in (0.0, 3e-3):
        stats = jax.tree.map(
            lambda leaf, v=variance: np.full_like(leaf, v), variables["batch_stats"]
        )
        for norm in stats.values():
            norm["mean"][:] = 0
        params = jax.tree.map(np.copy, variables["params"])
        for layer in params.values():
            layer["bias"][:] = 0
        gains.append(np.asarray(net.apply({"params": params, "batch_stats": stats}, given)))
    layers = len(variables["batch_stats"])
    np.testing.assert_allclose(gains[0], gains[1] * 2**layers, rtol=1e-5)
