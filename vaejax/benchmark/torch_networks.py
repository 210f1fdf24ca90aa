"""The networks of `vaejax.models.networks` as PyTorch layers, and our parameters in their layout.

Channels come first (B, C, H, W), as is the way there, so a flattened map has another order, and a
dense layer that reads or writes one has its rows or columns permuted.  Nothing here imports torch:
the caller hands `nn`, the module torch.nn, or layers made of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaejax.models.networks import TRUNKS, smallest_map

ENCODERS = ("mlp", "mnist", "svhn", "celeba")
DECODERS = ENCODERS

# PyTorch's name of a layer with parameters -> Flax's.
_KINDS = {
    "Conv2d": "Conv",
    "ConvTranspose2d": "ConvTranspose",
    "Linear": "Dense",
    "BatchNorm2d": "BatchNorm",
}


def encoder_layers(nn: Any, name: str, row: Mapping[str, Any], x_shape: Sequence[int]) -> list[Any]:
    """Layers that map (B, C, H, W), or (B, *X) that is no image, to features (B, F)."""
    if name == "mlp":
        return [nn.Flatten(), *_dense(nn, math.prod(x_shape), row["widths"], row["leaky_slope"])]
    channels = x_shape[-1]
    if name == "mnist":
        height, width = smallest_map(x_shape, *TRUNKS["mnist"])
        convolutions = (_halving(nn, channels, 32), nn.Conv2d(32, 32, 3))
        convolutions += (_halving(nn, 32, 32), nn.Conv2d(32, 32, 3))
        return [
            *_activated(nn, convolutions),
            nn.Flatten(),
            *_dense(nn, 32 * height * width, (256, 256), 0.0),
        ]
    if name == "svhn":
        layers = [_halving(nn, channels, 32), _same(nn, 32, 32)]
        layers += [_halving(nn, 32, 32), _same(nn, 32, 32)]
        layers += [nn.Conv2d(32, 32, 3), _same(nn, 32, 32), nn.Conv2d(32, 32, 3), _same(nn, 32, 32)]
        return [*_activated(nn, layers, norm_epsilon=1e-5), nn.Flatten()]
    widths = (channels, 32, 64, 128, 256, 256)
    layers = [_halving(nn, *pair) for pair in zip(widths, widths[1:], strict=False)]
    return [*_activated(nn, layers, row["leaky_slope"], norm_epsilon=1e-5), nn.Flatten()]


def decoder_layers(
    nn: Any, name: str, row: Mapping[str, Any], x_shape: Sequence[int], latent_dim: int
) -> list[Any]:
    """Layers that map z (B, D) to (B, C, H, W), or to (B, *X) that is no image."""
    channels = x_shape[-1]
    if name == "mlp":
        widths, size = (latent_dim, *row["widths"]), math.prod(x_shape)
        event = (channels, *x_shape[:2]) if len(x_shape) == 3 else tuple(x_shape)
        hidden = _dense(nn, latent_dim, widths[1:], row["leaky_slope"])
        return [*hidden, nn.Linear(widths[-1], size), nn.Unflatten(1, event)]
    depth = 256 if name == "celeba" else 32
    smallest = (depth, *smallest_map(x_shape, *TRUNKS[name]))
    to_map = nn.Unflatten(1, smallest)
    if name == "mnist":
        widths = (256, 256, math.prod(smallest))
        layers = [_growing(nn), _doubling(nn, 32, 32), _growing(nn)]
        first = [*_dense(nn, latent_dim, widths, 0.0), to_map]
        return [*first, *_activated(nn, layers), _doubling(nn, 32, channels)]
    if name == "svhn":
        layers = [_growing(nn), _same(nn, 32, 32), _growing(nn), _same(nn, 32, 32)]
        layers += [_doubling(nn, 32, 32), _same(nn, 32, 32), _doubling(nn, 32, 32)]
        first = [*_dense(nn, latent_dim, (math.prod(smallest),), 0.0), to_map]
        return [*first, *_activated(nn, layers), _same(nn, 32, channels)]
    slope = row["leaky_slope"]
    layers = [*_dense(nn, latent_dim, (math.prod(smallest),), slope), to_map]
    for pair in ((256, 256), (256, 128), (128, 64), (64, 32)):
        layers += [nn.Upsample(scale_factor=2), _same(nn, *pair, padding_mode="replicate")]
        layers += [nn.BatchNorm2d(pair[1], eps=1e-3), _activation(nn, slope)]
    return [*layers, nn.Upsample(scale_factor=2), _same(nn, 32, channels, padding_mode="replicate")]


def conditioner_layers(nn: Any, latent_dim: int, width: int, slope: float) -> list[Any]:
    """D -> width -> width -> D, of a coupling block, with the tanh that bounds it left out."""
    return [*_dense(nn, latent_dim, (width, width), slope), nn.Linear(width, latent_dim)]


def _halving(nn: Any, inputs: int, outputs: int) -> Any:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)


def _same(nn: Any, inputs: int, outputs: int, **more: Any) -> Any:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **more)


def _growing(nn: Any) -> Any:
    return nn.ConvTranspose2d(32, 32, 3)


def _doubling(nn: Any, inputs: int, outputs: int) -> Any:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def _dense(nn: Any, inputs: int, widths: Sequence[int], slope: float) -> list[Any]:
    sizes = (inputs, *widths)
    layers = [nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)]
    return [part for layer in layers for part in (layer, _activation(nn, slope))]


def _activated(
    nn: Any, layers: Sequence[Any], slope: float = 0.0, norm_epsilon: float | None = None
) -> list[Any]:
    """Every convolution with its batch norm, where there is one, and its activation."""
    found = []
    for layer in layers:
        norm = norm_epsilon and nn.BatchNorm2d(layer.out_channels, eps=norm_epsilon)
        found += [layer, *([norm] if norm else []), _activation(nn, slope)]
    return found


def _activation(nn: Any, slope: float) -> Any:
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def converted(
    groups: Sequence[Sequence[Any]], trees: Sequence[Mapping[str, Any]], x: Any
) -> list[list[dict[str, np.ndarray]]]:
    """Our parameters, or anything of the same tree, in the layout of PyTorch's layers.

    groups: lists of layers that follow each other, on the tensor x; trees: the Flax parameters of
    each.  -> for every layer of every group the arrays by their PyTorch names, {} where it has
    none.
    """
    found, before = [], None
    for layers, tree in zip(groups, trees, strict=True):
        counts: Counter[str] = Counter()
        found.append([])
        for position, layer in enumerate(layers):
            kind = type(layer).__name__
            arrays = {}
            if kind in _KINDS:
                name = f"{_KINDS[kind]}_{counts[kind]}"
                counts[kind] += 1
                after = _map_after(layers[position + 1 :])
                arrays = _arrays(kind, tree[name], before, after)
                before = None
            if kind == "Flatten" and x.ndim == 4:
                before = tuple(x.shape[1:])
            found[-1].append(arrays)
            x = layer(x)
    return found


def _map_after(layers: Sequence[Any]) -> tuple[int, ...] | None:
    """(C, H, W) of the map that what comes out now is about to become."""
    for layer in layers:
        kind = type(layer).__name__
        if kind == "Unflatten" and len(layer.unflattened_size) == 3:
            return tuple(layer.unflattened_size)
        if kind in _KINDS:
            return None
    return None


def _arrays(
    kind: str,
    leaves: Mapping[str, Any],
    before: tuple[int, ...] | None,
    after: tuple[int, ...] | None,
) -> dict[str, np.ndarray]:
    bias = np.asarray(leaves["bias"])
    if kind == "BatchNorm2d":
        return {"weight": np.asarray(leaves["scale"]), "bias": bias}
    kernel = np.asarray(leaves["kernel"])
    if kind == "Conv2d":
        return {"weight": kernel.transpose(3, 2, 0, 1), "bias": bias}
    if kind == "ConvTranspose2d":
        # Flax slides the kernel over the dilated input; PyTorch, like the gradient of a
        # convolution, its mirror image.
        return {"weight": kernel[::-1, ::-1].transpose(2, 3, 0, 1), "bias": bias}
    if before is not None:
        kernel = _channels_first(kernel, before)
    if after is not None:
        kernel, bias = _channels_first(kernel.T, after).T, _channels_first(bias, after)
    return {"weight": kernel.T, "bias": bias}


def _channels_first(array: np.ndarray, map_shape: tuple[int, ...]) -> np.ndarray:
    """The first axis from the order (H, W, C) to (C, H, W).  map_shape: (C, H, W)."""
    channels, height, width = map_shape
    rest = array.shape[1:]
    return np.moveaxis(array.reshape(height, width, channels, *rest), 2, 0).reshape(-1, *rest)
