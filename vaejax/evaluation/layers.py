"""The layers of a model as they are built, with their sizes: for tables and drawings of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.evaluation.subject import Subject
from vaejax.expost.density import Density
from vaejax.models.flows import CouplingFlow, coupling_masks
from vaejax.models.vae import VAE


class LayerTable(NamedTuple):
    """The layers of encoder and decoder in the order in which they act."""

    part: np.ndarray  # (n,) "encoder", "posterior" or "decoder"
    layer: np.ndarray  # (n,) its kind and what distinguishes it, e.g. "Conv 4x4, stride 2"
    shape: np.ndarray  # (n, 3) of its output per example, height, width, channels; 0 where flat
    parameters: np.ndarray  # (n,) how many it has
    input_shape: np.ndarray  # of x, () to (3,)
    latent_dim: np.ndarray  # ()


class Coupling(NamedTuple):
    """The flow between the two latent spaces."""

    masks: np.ndarray  # (K, D) bool, what passes through each block
    widths: np.ndarray  # (n,) of the layers of a scale or shift network, from D to D
    bounded: np.ndarray  # (2,) bool, whether scale and shift go through tanh
    parameters: np.ndarray  # () of the whole flow


class Decoupling(NamedTuple):
    """Which way training and sampling go."""

    layers: LayerTable
    is_decoupled: np.ndarray  # () bool, whether generation space is another than representation
    num_blocks: np.ndarray  # () of the coupling flow between them, 0 where it is none
    is_fitted: np.ndarray  # () bool, whether p(z) was fitted to codes after training


def decoupling_of(subject: Subject) -> Decoupling:
    """Of a trained model: are its spaces two?"""
    codes, flow = subject.held_out, coupling_of(subject.model, subject.variables)
    return Decoupling(
        layer_table(subject.model, subject.variables, subject.dataset.x_shape),
        np.array(not np.allclose(codes.z, codes.z0)),
        np.array(0 if flow is None else len(flow.masks)),
        np.array(isinstance(subject.model.prior, Density)),
    )


def layer_table(model: VAE, variables: Any, x_shape: tuple[int, ...]) -> LayerTable:
    """Traced, not computed, for one example; layers without parameters do not show."""
    rows: list[tuple[str, str, tuple[int, ...], int]] = []

    def noted(call: Callable[..., Any], args: Any, more: Any, context: Any) -> Any:
        output, module = call(*args, **more), context.module
        own = module.variables.get("params", {})
        is_layer = own and not any(isinstance(value, dict) for value in own.values())
        if is_layer and context.method_name == "__call__":
            count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own))
            rows.append((module.path[0], _name(module, own), _shape(module, output), count))
        return output

    def both(vae: VAE, x: Any, key: Any) -> Any:
        return vae.decode(vae.encode(x, key).mean)

    x, key = jax.ShapeDtypeStruct((1, *x_shape), jnp.float32), jax.random.key(0)[None]
    with nn.intercept_methods(noted):
        jax.eval_shape(nn.apply(both, model), variables, x, key)
    parts, names, shapes, counts = zip(*rows, strict=True)
    dim = jax.eval_shape(nn.apply(VAE.embed, model), variables, x).shape[-1]
    sizes = np.array(shapes), np.array(counts)
    return LayerTable(np.array(parts), np.array(names), *sizes, np.array(x_shape), np.array(dim))


def coupling_of(model: VAE, variables: Any) -> Coupling | None:
    """The coupling flow of the prior, where it has one."""
    flow = getattr(model.prior, "flow", None)
    if not isinstance(flow, CouplingFlow):
        return None
    params = variables["params"]["prior"]
    net = params["flow"]["scales_0"]
    widths = [net["Dense_0"]["kernel"].shape[0]]
    widths += [net[f"Dense_{k}"]["kernel"].shape[1] for k in range(len(net))]
    masks = coupling_masks(flow.mask, flow.latent_dim, flow.num_blocks, flow.mask_percent)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    bounded = np.array([True, flow.t_activation == "tanh"])
    return Coupling(np.stack(masks), np.array(widths), bounded, np.array(count))


def _name(module: Any, own: Any) -> str:
    kind = {"ConvTranspose": "Transposed conv", "Dense": "Dense", "BatchNorm": "Batch norm"}
    name = kind.get(type(module).__name__, type(module).__name__)
    if len(own.get("kernel", jnp.zeros(0)).shape) == 4:
        height, width = own["kernel"].shape[:2]
        name += f" {height}x{width}"
        if (stride := max(module.strides)) > 1:
            name += f", stride {stride}"
        if getattr(module, "doubled", False):
            name += ", upsampled x2"
    return name


def _shape(module: Any, output: Any) -> tuple[int, ...]:
    """Height, width and channels, whatever the lowering's order; (0, 0, F) of a flat output."""
    if len(output.shape) < 4:
        return (0, 0, output.shape[-1])
    is_batch_last = getattr(module, "lowering", "") == "matmul" or getattr(module, "axis", -1) == 0
    channels, height, width = output.shape[:3] if is_batch_last else np.roll(output.shape[1:], 1)
    return int(height), int(width), int(channels)
