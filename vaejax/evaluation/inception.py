"""The features of the FID: pool3 of the Inception-v3 that TensorFlow published on 2015-12-05.

The network is that of the port for PyTorch (mseitzer/pytorch-fid), whose weights are a file that
the user has: nothing is downloaded.  It was checked against a second implementation with random
weights, never with the real ones, which could not be had where this was written.

Two things differ from torchvision's Inception-v3: an average pool does not count what is padded,
and the last block takes a maximum where all others average.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vaejax.evaluation.features import FeatureMap
from vaejax.evaluation.weights import weights_in
from vaejax.training.validation import over_split
from vaejax.types import Array

_FILE = "pt_inception-2015-12-05-6726825d.pth"  # as published with pytorch-fid
# Its name has the beginning; the whole is in genforce's metrics/inception.py, among others.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_SIDE = 299  # pixels, of what the network was trained on
_EPSILON = 1e-3  # of every batch norm
_AT_ONCE = {"cpu": 25}  # images
_AT_ONCE_ELSEWHERE = 250
# Flax's names of parameters and statistics, and PyTorch's.
_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class Layer(NamedTuple):
    """A convolution, its batch norm and a ReLU; zeros are padded at stride 1 alone."""

    name: str
    channels: int
    height: int = 1
    width: int = 1
    stride: int = 1
    padding: str = "SAME"


# A branch is a sequence of layers, pools by name, and tuples of layers side by side.
Branch = tuple[Layer | str | tuple[Layer, ...], ...]


class NormalizedConvolution(nn.Module):
    """`layer` in evaluation mode.  (B, H, W, C) -> (B, h, w, F)."""

    layer: Layer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, channels, height, width, stride, padding = self.layer
        kernel, strides = (height, width), (stride, stride)
        x = nn.Conv(channels, kernel, strides, padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(True, epsilon=_EPSILON, name="bn")(x))


class Mixed(nn.Module):
    """Branches side by side, their channels one after the other."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([_through(branch, x) for branch in self.branches], axis=-1)


def _through(branch: Branch, x: Array) -> Array:
    for step in branch:
        if isinstance(step, str):
            x = POOLS[step](x)
        elif isinstance(step, Layer):
            x = NormalizedConvolution(step, name=step.name)(x)
        else:
            x = jnp.concatenate([_through((each,), x) for each in step], axis=-1)
    return x


class Inception(nn.Module):
    """Images (B, H, W, C) in [0, 1], gray or RGB -> pool3 (B, 2048)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _through(STEM, network_input(x))
        for name, branches in BLOCKS.items():
            x = Mixed(branches, name=name)(x)
        return x.mean(axis=(1, 2))


def network_input(x: Array, side: int = _SIDE) -> Array:
    """In [-1, 1], with three channels, of 299 pixels.  (B, H, W, C) -> (B, side, side, 3).

    Resized as the port does it: bilinear, between the centers of pixels, edges repeated, and where
    it shrinks no pixels are averaged first.  TensorFlow's graph measures between the corners of
    pixels, so an FID of one is not quite that of the other.
    """
    shape = (len(x), side, side, x.shape[-1])
    x = 2 * jax.image.resize(x, shape, "bilinear", antialias=False) - 1
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


def inception_features(path: str | Path, sha256: str = SHA256) -> FeatureMap:
    """Features by the weights in the file `path`: a .pth of either format of PyTorch, or an .npz.

    sha256: of the file; without it, of the port's published one.  The names in the file are
    PyTorch's, Mixed_5b.branch1x1.conv.weight and so on.  Nothing in it is executed.  Raises
    ValueError for a file that cannot be read, has another SHA-256, or lacks or misshapes a
    parameter; later for what is no image of one or three channels.
    """
    path = Path(path)
    if (found := hash_of(path)) != sha256:
        which = f", as {_FILE} has" if sha256 == SHA256 else ""
        raise ValueError(
            f"{path} is not the file of weights asked for: it has SHA-256 {found[:12]}..., not "
            f"{sha256[:12]}...{which}; `inception_features` takes another hash"
        )
    model = Inception()
    variables = _variables(model, path)
    facts = {"file": path.name, "side": _SIDE, "resized": "bilinear"}
    features_of = functools.partial(_features, jax.jit(_exact(model)), variables)
    return FeatureMap("inception", found, facts, features_of)


def check_images(x_shape: Sequence[int]) -> None:
    """Raises ValueError for the shape of what is no gray or RGB image."""
    if len(x_shape) != 3 or x_shape[-1] not in (1, 3):
        raise ValueError(f"data of shape {tuple(x_shape)}; Inception takes images (H, W, 1 or 3)")


def hash_of(path: Path) -> str:
    """The SHA-256 of a file.  Raises ValueError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _variables(model: Inception, path: Path) -> Any:
    """Flax's parameters and statistics from arrays under PyTorch's names, each looked at."""
    arrays, found = weights_in(path), {}
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, _SIDE, _SIDE, 3)))
    wanted: dict[tuple[str, ...], Any] = dict(flatten_dict(shapes))
    names = {keys: ".".join((*keys[1:-1], _NAMES[keys[-1]])) for keys in wanted}
    if missing := [name for name in names.values() if name not in arrays]:
        raise ValueError(f"{path} lacks {len(missing)} of {len(names)} arrays, first {missing[0]}")
    for keys, name in names.items():
        array, shape = arrays[name], wanted[keys].shape
        axes = (3, 2, 0, 1) if len(shape) == 4 else (0,)  # PyTorch's (F, C, h, w)
        if array.shape != (theirs := tuple(shape[axis] for axis in axes)):
            raise ValueError(f"{path}: {name} has shape {array.shape}; it must be {theirs}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds what is no finite floating-point number")
        found[keys] = np.asarray(array, np.float32).transpose(np.argsort(axes))
    return jax.tree.map(jnp.asarray, unflatten_dict(found))


def _exact(model: Inception) -> Callable[[Any, Array], Array]:
    """The program, its products in float32 on every device: a GPU or a TPU may round them."""

    def program(variables: Mapping[str, Any], x: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            return nn.apply(Inception.__call__, model)(variables, x)

    return program


def _features(program: Callable[..., Array], variables: Any, x: np.ndarray) -> np.ndarray:
    """(N, H, W, C) in [0, 1] -> (N, 2048)."""
    x = np.asarray(x, np.float32)
    check_images(x.shape[1:])
    most = _AT_ONCE.get(jax.default_backend(), _AT_ONCE_ELSEWHERE)
    return over_split(lambda block, _: program(variables, block), x, most)


def _halving(name: str, channels: int) -> Layer:
    return Layer(name, channels, 3, 3, 2, "VALID")


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, 5, 5)),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, 3, 3),
            Layer("branch3x3dbl_3", 96, 3, 3),
        ),
        ("average", Layer("branch_pool", pooled)),
    )


def _c(inner: int) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", inner),
            Layer("branch7x7_2", inner, 1, 7),
            Layer("branch7x7_3", 192, 7, 1),
        ),
        (
            Layer("branch7x7dbl_1", inner),
            Layer("branch7x7dbl_2", inner, 7, 1),
            Layer("branch7x7dbl_3", inner, 1, 7),
            Layer("branch7x7dbl_4", inner, 7, 1),
            Layer("branch7x7dbl_5", 192, 1, 7),
        ),
        ("average", Layer("branch_pool", 192)),
    )


def _e(pool: str) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 320),),
        (
            Layer("branch3x3_1", 384),
            (Layer("branch3x3_2a", 384, 1, 3), Layer("branch3x3_2b", 384, 3, 1)),
        ),
        (
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, 3, 3),
            (Layer("branch3x3dbl_3a", 384, 1, 3), Layer("branch3x3dbl_3b", 384, 3, 1)),
        ),
        (pool, Layer("branch_pool", 192)),
    )


_WINDOW = (3, 3)
POOLS: dict[str, Callable[[Array], Array]] = {
    "average": functools.partial(
        nn.avg_pool, window_shape=_WINDOW, padding="SAME", count_include_pad=False
    ),
    "maximum": functools.partial(nn.max_pool, window_shape=_WINDOW, padding="SAME"),
    "halving": functools.partial(nn.max_pool, window_shape=_WINDOW, strides=(2, 2)),
}
STEM: Branch = (
    _halving("Conv2d_1a_3x3", 32),
    Layer("Conv2d_2a_3x3", 32, 3, 3, padding="VALID"),
    Layer("Conv2d_2b_3x3", 64, 3, 3),
    "halving",
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, 3, 3, padding="VALID"),
    "halving",
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": (
        (_halving("branch3x3", 384),),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, 3, 3),
            _halving("branch3x3dbl_3", 96),
        ),
        ("halving",),
    ),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": (
        (Layer("branch3x3_1", 192), _halving("branch3x3_2", 320)),
        (
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, 1, 7),
            Layer("branch7x7x3_3", 192, 7, 1),
            _halving("branch7x7x3_4", 192),
        ),
        ("halving",),
    ),
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("maximum"),
}
