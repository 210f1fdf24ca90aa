"""Cost functions of codes, weights and Jacobians; no density in them.

They are summed over dimensions per example and averaged over the batch once, as all costs are.
Derivatives are those of the model in evaluation mode (batch norm with its running statistics), so
that no example changes another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.models.vae import VAE
from vaejax.parallel import example_keys, positions
from vaejax.types import Array, Cost, Metrics, Terms

JACOBIAN_ESTIMATORS = ("hutchinson", "exact")


def decoder_l2(weight: float) -> Cost:
    """weight ||theta||^2 of the decoder's kernels, not of biases and norms (arXiv 1903.12436)."""

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        leaves = jax.tree.leaves_with_path(model.variables["params"]["decoder"])
        kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
        return {
            "decoder_l2": weight * sum((jnp.sum(kernel**2) for kernel in kernels), jnp.zeros(()))
        }

    return cost


def code_l1(weight: float) -> Cost:
    """weight E sum_d |z_d|: sparse codes."""

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        return {"code_l1": weight * jnp.abs(terms.code.z).sum(axis=-1).mean()}

    return cost


def gradient_penalty(
    weight: float,
    variant: str = "jacobian",
    estimator: str = "hutchinson",
    probes: int = 1,
    axis_name: str | None = None,
) -> Cost:
    """weight times the mean penalty of `GRADIENT_PENALTIES[variant]` at the codes (B, D)."""

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        keys = example_keys(key, positions(len(terms.code.z), axis_name))
        penalty = GRADIENT_PENALTIES[variant](model, terms, keys, estimator, probes)
        return {"gradient_penalty": weight * penalty.mean()}

    return cost


def contractive(
    weight: float,
    estimator: str = "hutchinson",
    probes: int = 1,
    axis_name: str | None = None,
) -> Cost:
    """weight E ||J_f||_F^2 of the encoder's mean at its input (Rifai et al., 2011, eq. 1)."""

    def cost(model: Any, terms: Terms, key: Array, step: Array) -> Metrics:
        keys = example_keys(key, positions(len(terms.code.z), axis_name))
        norms = squared_jacobian(evaluated(model, VAE.embed), terms.input, keys, estimator, probes)
        return {"contractive": weight * norms.mean()}

    return cost


def evaluated(model: Any, method: Callable[..., Array]) -> Callable[[Array], Array]:
    """A method of a bound model as a function of arrays, in evaluation mode."""
    module, variables = model.unbind()
    return lambda points: module.apply(variables, points, method=method)


def squared_jacobian(
    function: Callable[[Array], Array],
    points: Array,
    keys: Array,
    estimator: str = "hutchinson",
    probes: int = 1,
) -> Array:
    """||J||_F^2 of `function` at every point, examples being independent of each other.

    points: (B, *I), keys: (B,) -> (B,).  "hutchinson" is the mean of ||J v||^2 over `probes` draws
    v ~ N(0, I) each, unbiased, with the variance 2 ||J^T J||_F^2 / probes; "exact" takes as many
    products as there are inputs or outputs, whichever are fewer.
    """
    if estimator == "exact":
        return _exact_squared_jacobian(function, points)

    def tangents(key: Array) -> Array:
        return jax.random.normal(key, (probes, *points.shape[1:]), points.dtype)

    def product(tangent: Array) -> Array:
        return _squares(jax.jvp(function, (points,), (tangent,))[1])

    return jax.vmap(product)(jnp.moveaxis(jax.vmap(tangents)(keys), 1, 0)).mean(axis=0)


def _exact_squared_jacobian(function: Callable[[Array], Array], points: Array) -> Array:
    outputs, pullback = jax.vjp(function, points)
    num_inputs, num_outputs = points[0].size, outputs[0].size

    def column(tangent: Array) -> Array:
        tangents = jnp.broadcast_to(tangent, points.shape)
        return _squares(jax.jvp(function, (points,), (tangents,))[1])

    def row(cotangent: Array) -> Array:
        return _squares(pullback(jnp.broadcast_to(cotangent, outputs.shape))[0])

    if num_inputs <= num_outputs:
        basis = jnp.eye(num_inputs).reshape(num_inputs, *points.shape[1:])
        return jax.lax.map(column, basis).sum(axis=0)
    basis = jnp.eye(num_outputs).reshape(num_outputs, *outputs.shape[1:])
    return jax.lax.map(row, basis).sum(axis=0)


def _squares(values: Array) -> Array:
    return jnp.sum(values.reshape(len(values), -1) ** 2, axis=1)


def _decoder_jacobian(model: Any, terms: Terms, keys: Array, estimator: str, probes: int) -> Array:
    return squared_jacobian(evaluated(model, VAE.decode), terms.code.z, keys, estimator, probes)


def _squared_output(model: Any, terms: Terms, keys: Array, estimator: str, probes: int) -> Array:
    decode = evaluated(model, VAE.decode)
    return _squares(jax.grad(lambda z: jnp.sum(decode(z) ** 2))(terms.code.z))


def _input_gradient(model: Any, terms: Terms, keys: Array, estimator: str, probes: int) -> Array:
    embed, decode = evaluated(model, VAE.embed), evaluated(model, VAE.decode)
    return _squares(jax.grad(lambda x: jnp.sum(decode(embed(x))))(terms.input))


# Three penalties go by one name: (model, terms, keys, estimator, probes) -> (B,).
GRADIENT_PENALTIES = {
    # ||dD/dz||_F^2, as arXiv 1903.12436 writes it.
    "jacobian": _decoder_jacobian,
    # ||d(sum_j D_j^2)/dz||^2, as its authors' code has it (which also averages over z's dimensions).
    "squared_output": _squared_output,
    # ||d(sum_j D_j(E(x)))/dx||^2, as another public implementation has it.
    "input_gradient": _input_gradient,
}
