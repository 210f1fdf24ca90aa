"""A trunk fits exactly the images that its layers halve exactly, and `make_model` says which."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vaejax.config import default_config
from vaejax.models.convolutions import Conv, ConvTranspose
from vaejax.models.networks import DECODERS, ENCODERS, TRUNKS
from vaejax.models.vae import make_model

# Trunk and, for "conv" and "rae", its number of channels.  Then the sizes that fit: the multiples
# of the first number from the second on.
FITS = {
    ("mnist", None): (4, 16),
    ("mnist_factor", None): (4, 16),
    ("svhn", None): (4, 20),
    ("celeba", None): (32, 32),
    ("conv", 1): (2, 2),
    ("conv", 3): (8, 8),
    ("conv", 5): (32, 32),
    ("conv", 7): (128, 128),
    ("rae", 2): (1, 1),
    ("rae", 5): (1, 1),
}
SIDES = (1, 2, 4, 7, 8, 12, 16, 18, 20, 24, 28, 32, 48, 64, 96, 100, 128)
SHAPES = [(n, n, 1 + n % 4) for n in SIDES] + [(16, 48, 2), (64, 32, 3), (20, 18, 1), (8, 128, 5)]
# One small image for each trunk, neither square nor of one channel.
SMALL = {
    ("mnist", None): (16, 20, 2),
    ("mnist_factor", None): (24, 20, 2),
    ("svhn", None): (20, 24, 2),
    ("celeba", None): (32, 64, 2),
    ("conv", 1): (6, 8, 2),
    ("conv", 3): (8, 16, 2),
    ("rae", 3): (13, 20, 2),
}
KINDS = ("encoder", "decoder")
LAYERS = (nn.Dense, Conv, ConvTranspose)

each_trunk = pytest.mark.parametrize("trunk", FITS, ids=str)


def documented(trunk, x_shape) -> bool:
    """Whether data of `x_shape` fit by the table above."""
    multiple, least = FITS[trunk]
    return len(x_shape) == 3 and all(n % multiple == 0 and n >= least for n in x_shape[:2])


def config_of(trunk, kinds=KINDS):
    """`trunk` on both sides or on one, with an MLP on the other."""
    name, halvings = trunk
    config = default_config().unlock()
    for kind in kinds:
        config[kind] = name
        if halvings:
            config[f"{kind}s"][name].channels = tuple(range(8, 8 + halvings))
    return config


def built(kind, trunk, x_shape):
    """The trunk itself, which checks nothing, and the shape of what it is given."""
    name = trunk[0]
    row = config_of(trunk)[f"{kind}s"][name].to_dict()
    if kind == "encoder":
        return ENCODERS[name](**row), (2, *x_shape)
    return DECODERS[name](x_shape=x_shape, **row), (2, 3)


def layers_fit(kind, trunk, x_shape) -> bool:
    """Whether no layer is empty, every halving is exact and the decoder makes an image of x_shape.

    From the shapes that go in and come out of the layers, not from the rule under test.
    """
    module, given = built(kind, trunk, x_shape)
    faults = []

    def watch(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if isinstance(context.module, LAYERS):
            before, after = args[0].shape[1:-1], output.shape[1:-1]
            halves = isinstance(context.module, Conv) and context.module.strides == (2, 2)
            if output.size == 0 or (halves and before != tuple(2 * side for side in after)):
                faults.append(context.module)
        return output

    def run(key, x):
        with nn.intercept_methods(watch):
            return module.init_with_output(key, x)[0]

    try:
        output = jax.eval_shape(run, jax.random.key(0), jnp.zeros(given))
    except ZeroDivisionError:  # a kernel without an entry has no scale to start from
        return False
    return not faults and (kind == "encoder" or output.shape == (2, *x_shape))


def test_every_trunk_for_images_is_here():
    assert {name for name, _ in FITS} == {*TRUNKS, "conv"} == ENCODERS.keys() - {"mlp"}
    assert {name for name, _ in SMALL} == {*TRUNKS, "conv"} == DECODERS.keys() - {"mlp"}


@each_trunk
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_made_exactly_where_the_layers_fit(kind, trunk):
    config = config_of(trunk, [kind])
    for x_shape in SHAPES:
        fits = documented(trunk, x_shape)
        assert layers_fit(kind, trunk, x_shape) is fits, x_shape
        if fits:
            make_model(config, x_shape)
        else:
            with pytest.raises(ValueError, match=f"^{kind} '{trunk[0]}' fits images") as error:
                make_model(config, x_shape)
            text = str(error.value)
            assert "\n" not in text
            assert len(text) < 300
            assert f"{config.dataset!r} have shape {x_shape}" in text


@each_trunk
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_error_offers_is_true(kind, trunk):
    shapes = [(2,), (28, 28), (4, 4, 4, 1), (7, 8, 1), (12, 18, 3), (44, 36, 1), (160, 48, 3)]
    for x_shape in shapes:
        if documented(trunk, x_shape):
            continue
        with pytest.raises(ValueError, match="fits images") as error:
            make_model(config_of(trunk, [kind]), x_shape)
        text = str(error.value)
        sides = re.findall(r" whose sides are multiples of (\d+) .* from (\d+) on", text)
        assert [tuple(map(int, side)) for side in sides] == [FITS[trunk]] * (trunk[0] != "rae")
        assert text.endswith(("; 'mlp' fits", ", or 'mlp'"))
        make_model(config_of(("mlp", None), [kind]), x_shape)

        offer = rf"'conv' with len\(config\.{kind}s\.conv\.channels\) <= (\d+) fits"
        most = max(map(int, re.findall(offer, text)), default=0)
        for halvings in range(1, most + 1):
            make_model(config_of(("conv", halvings), [kind]), x_shape)
        with pytest.raises(ValueError, match="fits images"):
            make_model(config_of(("conv", most + 1), [kind]), x_shape)


def weights(module, given, seed: int = 0):
    """Variables and an input, all drawn: no bias or statistic is trivial."""
    rng = np.random.default_rng(seed)

    def array(path, leaf):
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
        values = rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)
        return np.abs(values) + 0.1 if path[-1].key in ("var", "scale") else values

    x = rng.normal(size=given).astype(np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(array, variables), x


@pytest.mark.parametrize("trunk", SMALL, ids=str)
def test_the_code_depends_on_every_pixel_of_every_channel(trunk):
    encoder, given = built("encoder", trunk, SMALL[trunk])
    variables, x = weights(encoder, given)

    @jax.jit
    def slope(x):
        return jax.grad(lambda x: jnp.sum(jnp.square(encoder.apply(variables, x))))(x)

    assert np.all(np.any(slope(x) != 0, axis=0))


@pytest.mark.parametrize("trunk", SMALL, ids=str)
def test_every_pixel_of_every_channel_depends_on_the_code(trunk):
    decoder, given = built("decoder", trunk, SMALL[trunk])
    variables, z = weights(decoder, given)
    apply = jax.jit(decoder.apply)
    assert np.all(np.any(apply(variables, z) != apply(variables, -2 * z), axis=0))
