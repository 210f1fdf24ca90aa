"""Trunks have the published sizes, and each does what its description says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.config import default_config
from vaejax.models.layers import VALID, Layers
from vaejax.models.networks import (
    DECODERS,
    ENCODERS,
    CelebADecoder,
    Critic,
    MLPDecoder,
    MLPEncoder,
)
from vaejax.models.vae import make_model

# Encoder + posterior head, and decoder, as (constant, per latent dimension).  Biases and batch norm
# scales and offsets count, running statistics do not.
COUNTS = {
    "mlp": ((2,), (5_350, 102), (5_352, 50)),
    "mnist": ((28, 28, 1), (232_576, 514), (233_057, 256)),
    "mnist_factor": ((28, 28, 1), (1_281_184, 514), (1_281_185, 256)),
    "svhn": ((32, 32, 3), (73_984, 1_026), (80_451, 512)),
    "celeba": ((64, 64, 3), (1_740_448, 2_050), (980_227, 1_024)),
    "conv": ((8, 8, 1), (197_600, 514), (197_601, 256)),
    "rae": ((28, 28, 1), (11_017_856, 8_194), (10_557_697, 65_536)),
}
# The totals for both parts together; those that the paper's code gives, but for "conv" and "rae".
TOTALS = {
    "mlp": (10_702, 152),
    "mnist": (465_633, 770),
    "mnist_factor": (2_562_369, 770),
    "svhn": (154_435, 1_538),
    "celeba": (2_720_675, 3_074),
    "conv": (395_201, 770),
    "rae": (21_575_553, 73_730),
}
# The kernels by name in stored parameters: a layer that is renamed starts from other values, and a
# checkpoint of before is no longer read.  D stands for the latent dimensions.
KERNELS = {
    "mnist encoder": "Conv_0 4x4x1x32, Conv_1 3x3x32x32, Conv_2 4x4x32x32, Conv_3 3x3x32x32, "
    "Dense_0 512x256, Dense_1 256x256",
    "mnist decoder": "ConvTranspose_0 3x3x32x32, ConvTranspose_1 4x4x32x32, "
    "ConvTranspose_2 3x3x32x32, ConvTranspose_3 4x4x32x1, "
    "Dense_0 Dx256, Dense_1 256x256, Dense_2 256x512",
    "mnist_factor encoder": "Conv_0 4x4x256x256, Conv_1 4x4x1x32, Conv_2 3x3x32x64, "
    "Conv_3 4x4x64x64, Conv_4 3x3x64x256",
    "mnist_factor decoder": "ConvTranspose_0 4x4x256x256, ConvTranspose_1 3x3x256x64, "
    "ConvTranspose_2 4x4x64x64, ConvTranspose_3 3x3x64x32, ConvTranspose_4 4x4x32x1, Dense_0 Dx256",
    "svhn encoder": "Conv_0 4x4x3x32, Conv_1 3x3x32x32, Conv_2 4x4x32x32, Conv_3 3x3x32x32, "
    "Conv_4 3x3x32x32, Conv_5 3x3x32x32, Conv_6 3x3x32x32, Conv_7 3x3x32x32",
    "svhn decoder": "ConvTranspose_0 3x3x32x32, ConvTranspose_1 3x3x32x32, "
    "ConvTranspose_2 4x4x32x32, ConvTranspose_3 4x4x32x32, Conv_0 3x3x32x32, Conv_1 3x3x32x32, "
    "Conv_2 3x3x32x32, Conv_3 3x3x32x3, Dense_0 Dx512",
    "celeba encoder": "Conv_0 4x4x3x32, Conv_1 4x4x32x64, Conv_2 4x4x64x128, Conv_3 4x4x128x256, "
    "Conv_4 4x4x256x256",
    "celeba decoder": "Conv_0 3x3x256x256, Conv_1 3x3x256x128, Conv_2 3x3x128x64, "
    "Conv_3 3x3x64x32, Conv_4 3x3x32x3, Dense_0 Dx1024",
    "rae encoder": "Conv_0 4x4x1x128, Conv_1 4x4x128x256, Conv_2 4x4x256x512, Conv_3 4x4x512x1024",
    "rae decoder": "ConvTranspose_0 4x4x1024x512, ConvTranspose_1 4x4x512x256, "
    "ConvTranspose_2 4x4x256x1, Dense_0 Dx65536",
}


def abstract_params(config, x_shape, critic=None):
    """The model and its parameters as shapes: nothing is computed."""
    model = make_model(config, x_shape, critic)
    x = jax.ShapeDtypeStruct((2, *x_shape), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = jax.eval_shape(lambda *args: model.init(*args, method="touch"), key, x, keys)
    return model, init


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def drawn(module, *inputs, seed: int = 0):
    """Variables with every array drawn: no bias or statistic is trivial, and no `init` runs."""
    rng = np.random.default_rng(seed)

    def array(path, leaf):
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
        values = rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)
        return np.abs(values) + 0.1 if path[-1].key == "var" else values

    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(array, variables)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_counts_cover_every_trunk():
    assert COUNTS.keys() == TOTALS.keys() == ENCODERS.keys() == DECODERS.keys()


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("latent_dim", [2, 7])
def test_encoder_and_decoder_have_the_published_parameter_counts(name, latent_dim):
    x_shape, encoder, decoder = COUNTS[name]
    config = default_config().unlock()
    config.encoder = config.decoder = name
    config.latent_dim = latent_dim
    model, variables = abstract_params(config, x_shape)
    params = variables["params"]
    counts = size(params["encoder"]) + size(params["posterior"]), size(params["decoder"])
    assert counts == (encoder[0] + encoder[1] * latent_dim, decoder[0] + decoder[1] * latent_dim)
    assert sum(counts) == TOTALS[name][0] + TOTALS[name][1] * latent_dim
    z = jax.ShapeDtypeStruct((3, latent_dim), jnp.float32)
    decoded = jax.eval_shape(lambda v, z: model.apply(v, z, method="decode"), variables, z)
    assert decoded.shape == (3, *x_shape)


@pytest.mark.parametrize("trunk", KERNELS)
def test_stored_parameters_keep_their_names_and_shapes(trunk):
    name, kind = trunk.split()
    config = default_config().unlock()
    config.encoder = config.decoder = name
    layers = abstract_params(config, COUNTS[name][0])[1]["params"][kind]
    found = {
        f"{layer} " + "x".join(map(str, leaves["kernel"].shape))
        for layer, leaves in layers.items()
        if "kernel" in leaves
    }
    assert found == set(KERNELS[trunk].replace("Dx", f"{config.latent_dim}x").split(", "))


@pytest.mark.parametrize("latent_dim", [2, 7])
def test_flow_and_critic_have_the_published_parameter_counts(latent_dim):
    config = default_config().unlock()
    config.latent_dim = latent_dim
    critic = config.regularizers.factor
    sizes = critic.critic_width, critic.critic_depth
    params = abstract_params(config, (2,), Critic(*sizes))[1]["params"]
    assert size(params["critic"]) == 1_000 * latent_dim + 4_007_002
    assert size(params["prior"]) == 1_548 * latent_dim + 50_688
    nets = params["prior"]["flow"]
    assert len(nets) == 12
    assert {size(net) for net in nets.values()} == {129 * latent_dim + 4_224}


@pytest.mark.parametrize("module", [MLPEncoder, MLPDecoder])
@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_mlp_is_affine_exactly_when_the_leaky_slope_is_one(module, slope):
    shape = {"x_shape": (2, 3)} if module is MLPDecoder else {}
    net = module(widths=(16, 8), leaky_slope=slope, **shape)
    a, b = normal(5, 4), normal(5, 4, seed=1)
    variables = drawn(net, a)
    apply = jax.jit(net.apply)
    between = apply(variables, 0.3 * a + 0.7 * b)
    line = 0.3 * apply(variables, a) + 0.7 * apply(variables, b)
    assert np.allclose(between, line, atol=1e-5) is (slope == 1.0)


@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_celeba_decoder_is_affine_exactly_when_the_leaky_slope_is_one(slope):
    """In evaluation mode, where batch norm is affine: no other nonlinearity hides anywhere."""
    net = CelebADecoder((64, 64, 1), leaky_slope=slope)
    a, b = normal(2, 1, 2)
    variables = drawn(net, a)
    apply = jax.jit(net.apply)
    between, line = apply(variables, (a + b) / 2), (apply(variables, a) + apply(variables, b)) / 2
    assert np.allclose(between, line, atol=1e-3 * np.std(line)) is (slope == 1.0)


def test_upsampling_is_nearest_with_repeated_edges():
    """Before the convolution: each of its taps alone reads one pixel."""
    x, taps = normal(2, 3, 5, 1), np.eye(9, dtype=np.float32).reshape(3, 3, 1, 9)
    params = {"kernel": taps, "bias": np.zeros(9, np.float32)}
    found = Layers().upsampling(9).apply({"params": params}, x)
    expected = np.empty((2, 6, 10, 9), np.float32)
    for row, column, tap in np.ndindex(expected.shape[1:]):
        row_read, column_read = row + tap // 3, column + tap % 3  # of the edged image
        source = np.clip(row_read - 1, 0, 5) // 2, np.clip(column_read - 1, 0, 9) // 2
        expected[:, row, column, tap] = x[:, source[0], source[1], 0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("transposed", "plain"),
    [
        (Layers().doubling(5), Layers().halving(3)),
        (Layers().growing(5), Layers().conv3(3, VALID)),
    ],
    ids=["doubling", "growing"],
)
def test_transposed_convolution_is_the_adjoint_of_the_plain_one(transposed, plain):
    """<conv(x), y> == <x, transposed(y)>: padding and stride mirror each other."""
    x = normal(2, 8, 8, 5)
    variables = drawn(plain, x)
    variables["params"]["bias"] *= 0
    kernel = variables["params"]["kernel"]
    down = np.asarray(plain.apply(variables, x))
    y = normal(*down.shape, seed=1)
    flipped = {"kernel": kernel[::-1, ::-1].transpose(0, 1, 3, 2), "bias": np.zeros(5)}
    up = transposed.apply({"params": flipped}, y)
    assert up.shape == x.shape
    np.testing.assert_allclose(np.sum(down * y), np.sum(x * up), rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoding_in_evaluation_mode_ignores_the_rest_of_the_batch(name):
    x_shape = COUNTS[name][0]
    encoder = ENCODERS[name](**default_config().encoders[name].to_dict())
    x = normal(3, *x_shape)
    variables = drawn(encoder, x)
    other = x.copy()
    other[1:] = 5 * normal(2, *x_shape, seed=1) + 1

    apply = jax.jit(encoder.apply)
    np.testing.assert_array_equal(apply(variables, x)[0], apply(variables, other)[0])
    assert np.abs(apply(variables, x)[1] - apply(variables, other)[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["svhn", "celeba"])
def test_batch_norm_in_training_uses_the_batch_and_moves_its_statistics(name):
    """One training pass moves mean and variance a tenth of the way to those of the batch."""
    x = normal(4, *COUNTS[name][0])
    encoder = ENCODERS[name]()
    variables = drawn(encoder, x)
    before = variables["batch_stats"]["BatchNorm_0"]

    @jax.jit
    def first_layer(variables, x):
        def is_first(module, method):
            return module.name == "Conv_0"

        output, state = encoder.apply(
            variables,
            x,
            True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=is_first,
        )
        return state["intermediates"]["Conv_0"]["__call__"][0], state["batch_stats"]

    hidden, stats = first_layer(variables, x)
    moved = stats["BatchNorm_0"]
    mean, variance = hidden.mean(axis=(0, 1, 2)), hidden.var(axis=(0, 1, 2))
    np.testing.assert_allclose(moved["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 * before["var"] + 0.1 * variance, rtol=1e-4)


@pytest.mark.parametrize("lowering", ["native", "matmul"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("module", [MLPEncoder, MLPDecoder])
def test_batch_norm_in_an_mlp_is_of_each_feature_over_the_batch(module, train, lowering):
    """Between each hidden dense layer and its activation, and not after the decoder's last."""
    shape = {"x_shape": (2, 3)} if module is MLPDecoder else {}
    net = module(widths=(7, 4), batch_norm=True, layers=Layers(lowering), **shape)
    x = 3 * normal(5, 6) + 1
    variables = drawn(net, x)
    params, stats = variables["params"], variables["batch_stats"]
    expected = x
    for name in ("0", "1"):
        dense, norm = params[f"Dense_{name}"], params[f"BatchNorm_{name}"]
        expected = expected @ dense["kernel"] + dense["bias"]
        held = stats[f"BatchNorm_{name}"]
        mean = expected.mean(0) if train else held["mean"]
        variance = expected.var(0) if train else held["var"]
        expected = (expected - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        expected = np.where(expected > 0, expected, 0.01 * expected)
    if module is MLPDecoder:
        expected = expected @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
    found = net.apply(variables, x, train, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-4, atol=1e-5)
