"""Both ways to compute a convolution are Flax's convolution: values, derivatives and parameters."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from vaejax.models import convolutions
from vaejax.models.convolutions import Conv, ConvTranspose, conv_pads, transposed_pads

TOLERANCE = 1e-5  # of the largest number of an array; rounding leaves about a tenth of it


class Case(NamedTuple):
    """x: (2, *side, channels); `flax` is the layer of the same name, on the doubled image last."""

    kind: str
    side: tuple[int, int]
    channels: int
    features: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"

    def layer(self, lowering):
        made = {"padding": self.padding, "lowering": lowering}
        if self.kind == "doubled":
            return Conv(self.features, self.kernel, doubled=True, lowering=lowering)
        layer = ConvTranspose if self.kind == "transposed" else Conv
        return layer(self.features, self.kernel, self.strides, **made)

    def applied(self, lowering):
        """(params, x) -> y with images (B, H, W, .) whatever the layer takes."""
        apply = self.layer(lowering).apply
        if lowering == "native":
            return lambda params, x: apply({"params": params}, x)

        def turned(params, x):
            return apply({"params": params}, x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)

        return turned

    def flax(self, params, x):
        if self.kind == "doubled":
            return nn.Conv(self.features, self.kernel, padding="VALID").apply(
                {"params": params}, doubled(x)
            )
        layer = nn.ConvTranspose if self.kind == "transposed" else nn.Conv
        made = layer(self.features, self.kernel, self.strides, padding=self.padding)
        return made.apply({"params": params}, x)

    def arrays(self, seed):
        """Two replicas of (params, x)."""
        rng = np.random.default_rng(seed)
        params = {
            "kernel": (2, *self.kernel, self.channels, self.features),
            "bias": (2, self.features),
        }
        params = {name: rng.normal(size=size).astype("f4") for name, size in params.items()}
        return params, rng.normal(size=(2, 2, *self.side, self.channels)).astype("f4")


def doubled(x):
    """Nearest neighbor, twice as large, and one more repeated pixel on every side."""
    rows, columns = (np.clip(np.arange(-1, 2 * n + 1), 0, 2 * n - 1) // 2 for n in x.shape[1:3])
    return x[:, rows][:, :, columns]


# Few and many channels in turn, so that every form of the product is met: see below.
CASES = [
    Case("plain", (6, 5), 1, 8, (3, 3), padding=((1, 1), (1, 1))),
    Case("plain", (5, 6), 8, 8, (3, 2)),
    Case("plain", (5, 5), 16, 1, (3, 3), padding=((2, 0), (1, 3))),
    Case("plain", (8, 6), 3, 8, (4, 4), (2, 2), ((1, 1), (1, 1))),
    Case("plain", (7, 9), 12, 2, (3, 5), (2, 3), ((2, -1), (1, 3))),
    Case("plain", (9, 6), 1, 9, (2, 4), (3, 1), "VALID"),
    Case("plain", (8, 7), 2, 3, (1, 2), (2, 3)),
    Case("transposed", (4, 3), 20, 1, (4, 4), (2, 2)),
    Case("transposed", (2, 3), 1, 8, (3, 4), padding="VALID"),
    Case("transposed", (3, 4), 1, 5, (4, 5), (2, 1), "VALID"),
    Case("transposed", (3, 2), 6, 6, (3, 3), (1, 2), ((1, 2), (2, 0))),
    Case("transposed", (3, 4), 9, 2, (2, 5), (3, 2)),
    Case("transposed", (4, 3), 12, 2, (3, 3), (2, 2), ((0, 1), (3, 4))),
    Case("plain", (6, 8), 3, 7, (5, 5), (2, 2), ((1, 2), (1, 2))),
    Case("transposed", (3, 4), 9, 4, (5, 5), (2, 2)),
    Case("transposed", (5, 4), 3, 1, (4, 4)),
    Case("transposed", (4, 5), 8, 3, (5, 5)),
    Case("doubled", (3, 4), 1, 6, (3, 3)),
    Case("doubled", (4, 1), 8, 1, (3, 3)),
    Case("doubled", (2, 3), 20, 1, (3, 3)),
]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(str(part) for part in case).replace(" ", "")
)


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """Compile fast, not well: the programs here run a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def scanned(apply):
    def replicas(*arguments):
        return lax.scan(lambda carry, part: (carry, apply(*part)), None, arguments)[1]

    return replicas


def derivatives(apply, arguments, directions, weights):
    """Values, gradients, the tangent, and a gradient through a gradient."""

    def cost(params, x):
        y = apply(params, x)
        return jnp.sum(weights * y * y), y

    def squared_slope(params):
        return jnp.sum(jax.grad(cost, 1, has_aux=True)(params, arguments[1])[0] ** 2)

    grads, y = jax.grad(cost, (0, 1), has_aux=True)(*arguments)
    tangent, second = jax.jvp(apply, arguments, directions)[1], jax.grad(squared_slope)
    return {"y": y, "grad": grads, "tangent": tangent, "second": second(arguments[0])}


def assert_close(found, expected, tolerance=TOLERANCE):
    """Within `tolerance` of the largest number of each array."""
    paths, tree = jax.tree.flatten_with_path(expected)
    for (path, right), left in zip(paths, tree.flatten_up_to(found), strict=True):
        assert left.shape == right.shape
        error, size = np.abs(np.asarray(left) - right).max(), np.abs(right).max()
        assert error <= tolerance * size, f"{jax.tree_util.keystr(path)}: {error / size}"


@pytest.mark.long
@every_case
def test_derivatives_over_replicas_are_those_of_flax(case):
    """Mapped or in a loop; gradients, tangents and a gradient through a gradient."""
    given = case.arrays(0), case.arrays(1)
    replicas = [jax.tree.map(lambda leaf, i=i: leaf[i], given) for i in range(2)]
    shape = jax.eval_shape(case.flax, *replicas[0][0]).shape
    weights = np.random.default_rng(2).normal(size=(2, *shape)).astype("f4")
    one, other = (jax.vmap, scanned)[:: 1 if CASES.index(case) % 2 else -1]

    @jax.jit
    def computed(*given):
        ways = one(case.applied("native")), other(case.applied("matmul"))
        return [derivatives(way, *given) for way in ways]

    flax = jax.jit(lambda *given: derivatives(case.flax, *given))
    expected = [flax(*one, w) for one, w in zip(replicas, weights, strict=True)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
    assert_close(computed(*given, weights), [expected, expected])


@every_case
def test_values_are_those_of_flax_and_both_modes_of_derivatives_agree(case):
    """<jvp(v), w> == <v, vjp(w)>."""
    arguments, directions = (jax.tree.map(lambda a: a[0], case.arrays(seed)) for seed in range(2))

    @jax.jit
    def computed(arguments, directions):
        native, flax = case.applied("native")(*arguments), case.flax(*arguments)
        y, forward = jax.jvp(case.applied("matmul"), arguments, directions)
        weights = jnp.sin(y)
        reverse = jax.vjp(case.applied("matmul"), *arguments)[1](weights)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), reverse, directions)
        sums = jnp.sum(forward * weights), sum(jax.tree.leaves(products))
        return (y, native), flax, sums, jnp.sqrt(jnp.sum(forward**2) * jnp.sum(weights**2))

    found, expected, (one, other), size = computed(arguments, directions)
    assert_close(found, (expected, expected))
    assert abs(one - other) <= TOLERANCE * size


def test_cases_meet_every_form_of_the_product(monkeypatch):
    """Copies of the input, of the output, and one along each axis, for every kind of layer."""
    chosen = convolutions._patch_taps
    met = set()

    def noted(m, n, channels, features):
        taps = chosen(m, n, channels, features)
        if m > 1 and n > 1:
            met.add((case.kind, {(m, n): "patches", (m, 1): "both", (1, 1): "columns"}[taps]))
        return taps

    monkeypatch.setattr(convolutions, "_patch_taps", noted)
    for case in CASES:
        params, x = jax.tree.map(lambda leaf: leaf[0], case.arrays(0))
        jax.eval_shape(case.applied("matmul"), params, x)
    kinds = ("plain", "transposed", "doubled")
    assert met == set(itertools.product(kinds, ("patches", "both", "columns")))


def pads_in_lax(function, x_shape, kernel_shape):
    """The padding of the one convolution that `function` traces to."""
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x_shape, kernel_shape))
    equations = jax.make_jaxpr(function)(*shapes).eqns
    return next(
        e.params["padding"] for e in equations if e.primitive.name == "conv_general_dilated"
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_padding_is_that_of_lax(padding):
    """Kernels shorter and longer than the stride, sides that are multiples of it and not."""
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    for kernel, strides in itertools.product([(1, 4), (2, 5), (3, 3)], [(1, 2), (2, 3), (3, 4)]):
        for size in [(6, 5), (7, 8)]:
            given = (1, *size, 1), (*kernel, 1, 1)
            plain = pads_in_lax(
                lambda x, k, s=strides: lax.conv_general_dilated(x, k, s, padding, **numbers),
                *given,
            )
            transposed = pads_in_lax(
                lambda x, k, s=strides: lax.conv_transpose(x, k, s, padding, **numbers), *given
            )
            assert tuple(map(tuple, conv_pads(size, kernel, strides, padding))) == plain
            assert tuple(map(tuple, transposed_pads(kernel, strides, padding))) == transposed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_that_leaves_a_trunk_is_moved_bit_for_bit(dtype, channels):
    image = np.random.default_rng(0).normal(size=(5, 4, 6, channels))
    image = jnp.asarray(image * 10.0 ** np.arange(-3, 2)[:, None, None, None], dtype)
    entered = image.transpose(3, 1, 2, 0)
    np.testing.assert_array_equal(convolutions.batch_first(entered), image)
    np.testing.assert_array_equal(jax.jit(convolutions.batch_first)(entered), image)
