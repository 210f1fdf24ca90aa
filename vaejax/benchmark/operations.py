"""Useful floating-point operations of a program, counted in its jaxpr.

Counted are the multiplications and additions of matrix products and convolutions, two for each pair
of numbers that meet.  A convolution counts the pairs of an input pixel and a kernel tap that exist:
not the zeros of padding, nor those that dilation puts between pixels.  So the count belongs to the
model: it is the same for a transposed convolution however it is lowered, where what XLA reports
counts patches, dilated zeros and all element-wise operations.  Elementwise work (activations,
random bits, the optimizer) is left out; achieved rates are therefore a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vaejax.benchmark.stepper import make_run
from vaejax.data.arrays import Dataset


def step_operations(config: ConfigDict, dataset: Dataset) -> int:
    """Useful operations of one training step of the global batch, all players, both passes."""
    config = config.copy_and_resolve_references().unlock()
    # The count reads convolutions as such, not what a lowering makes of them.
    config.convolutions = "native"
    run = make_run(config, dataset)
    shape, dtype = dataset.x_shape, dataset.splits["train"].dtype
    rows = jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    batches = (rows,) if run.model.critic is None else (rows, rows)
    return operations(run.train_step(None, {}), run.shapes(), *batches)


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Useful operations of `function` at arguments of these shapes; nothing is computed.

    A branch counts as the dearest of its alternatives.  Raises ValueError for a loop without a
    known number of turns that contains any operation.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, given = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(given, *(v.aval.shape for v in equation.invars))
    if name == "conv_general_dilated":
        shapes = (v.aval.shape for v in (*equation.invars, *equation.outvars))
        return _convolution(given, *shapes)
    inner = [_of_jaxpr(jaxpr) for jaxpr in inner_jaxprs(given.values())]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return given["length"] * sum(inner)
    if name == "while" and sum(inner):
        raise ValueError("operations in a loop without a known number of turns cannot be counted")
    return sum(inner)


def inner_jaxprs(values: Any) -> Iterator[Any]:
    """Jaxprs among the parameters of an equation, closed or not."""
    for value in values:
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _dot(given: dict[str, Any], left: Sequence[int], right: Sequence[int]) -> int:
    (left_sum, _), (left_batch, _) = given["dimension_numbers"]
    summed = math.prod(left[axis] for axis in left_sum)
    shared = math.prod(left[axis] for axis in left_batch)
    free = math.prod(left) // (summed * shared), math.prod(right) // (summed * shared)
    return 2 * shared * summed * math.prod(free)


def _convolution(
    given: dict[str, Any], image: Sequence[int], kernel: Sequence[int], result: Sequence[int]
) -> int:
    numbers = given["dimension_numbers"]
    batch, features, *space = (result[axis] for axis in numbers.out_spec)
    _, inputs, *taps = (kernel[axis] for axis in numbers.rhs_spec)  # inputs: of one group
    sides = [image[axis] for axis in numbers.lhs_spec[2:]]
    steps, pads = given["window_strides"], given["padding"]
    dilations = zip(given["lhs_dilation"], given["rhs_dilation"], strict=True)
    settings = zip(sides, taps, space, steps, pads, dilations, strict=True)
    met = math.prod(_pairs(*setting) for setting in settings)
    # With groups of the batch, `result` has the features of all groups but the batch of one.
    return 2 * batch * features * inputs * met


def _pairs(
    side: int, taps: int, results: int, step: int, pad: Sequence[int], dilation: Sequence[int]
) -> int:
    """Pairs (result, tap) that read a pixel, along one axis: neither padding nor between pixels."""
    between, spread = dilation
    places = (
        result * step + tap * spread - pad[0] for result in range(results) for tap in range(taps)
    )
    return sum(place % between == 0 and 0 <= place // between < side for place in places)
