"""A trained model as functions: codes of x, x of codes, samples and log-densities.

x is what p(x|z) is a density of, (N, *X) floats: `observed` makes it of the raw rows of a data set,
as training and evaluation do.  z is (N, D).  All arrays may be longer than what the device takes at
once.  Nothing is drawn but from a key that is given, and a draw depends on the key and on the
example's position alone: neither on the batch size nor on how many there are beside it.  With a
density that was fitted to the codes (`sourced`) for a prior, all of it is of that density.  These
functions compile and cut into blocks themselves, and are not for use under `jit`: there,
`model.apply(state.variables(), ...)` is.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from vaejax.data.arrays import Dataset, check_split
from vaejax.data.sources import dataset_from, make_transform
from vaejax.data.transforms import scaled
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.models.vae import VAE
from vaejax.probability import distrax
from vaejax.training.state import TrainState
from vaejax.training.state import observed as observed_rows
from vaejax.training.validation import num_at_once, over_split
from vaejax.types import Array

_OBSERVED_AT_ONCE = 4_096
_FIRST = "the first two arguments are a model and its state, as `vaejax.load` gives them"


def observed(
    config: ConfigDict, rows: str | np.ndarray = "test", dataset: Dataset | None = None
) -> np.ndarray:
    """x of raw rows, as the model of `config` sees them in evaluation.  -> (N, *X) float32.

    rows: a split, by name, or raw rows (N, *X) like those of the data set.  `dataset` replaces the
    one the config names.  What an observation draws (`bernoulli`, `dequantized`) depends on an
    example's position alone.  Raises ValueError for an unknown split, other data than those of the
    config's run, and rows of another shape or type.

    >>> vaejax.observed(config, "test").shape
    (297, 8, 8, 1)
    """
    dataset = dataset_from(config, dataset)
    transform, train = make_transform(config, dataset), dataset.splits["train"]
    if isinstance(rows, str):
        check_split(dataset, rows)
        raw: Any = dataset.splits[rows]
    else:
        raw = np.asarray(rows)
        if raw.shape[1:] != dataset.x_shape or raw.dtype != train.dtype or not len(raw):
            raise ValueError(
                f"rows have shape {raw.shape} and type {raw.dtype}; those of {dataset.name!r} are "
                f"(N, {', '.join(map(str, dataset.x_shape))}), {train.dtype}"
            )
    observe = jax.jit(functools.partial(observed_rows, transform))
    return over_split(observe, raw, _OBSERVED_AT_ONCE)


def encode(model: VAE, state: TrainState, x: np.ndarray | Array) -> Any:
    """q(z|x), a distrax distribution with batch (N,) and event (D,).  x: (N, *X).

    `.mean()` is `embed`, `.sample(seed=key)` a draw.  That of an autoencoder without noise has all
    its mass in one point.  Raises ValueError for integers (raw rows), another shape, and a
    posterior without closed form.

    >>> q = vaejax.encode(model, state, vaejax.observed(config, "test"))
    >>> q.batch_shape, q.event_shape
    ((297,), (2,))
    """
    mean, q = _over_x(_encoded, model, state, x)
    if q is None and model.posterior.has_density:
        raise ValueError("this posterior has no closed form of q(z|x); `embed` gives its center")
    if q is None:
        return distrax.Independent(distrax.Deterministic(jnp.asarray(mean)), 1)
    return jax.tree.map(jnp.asarray, q)


def embed(model: VAE, state: TrainState, x: np.ndarray | Array) -> np.ndarray:
    """The mean of q(z|x): a function of x, without a draw.  x: (N, *X) -> (N, D) float32.

    Raises ValueError for integers (raw rows) and another shape.

    >>> z = vaejax.embed(model, state, vaejax.observed(config, "test"))
    >>> z.shape
    (297, 2)
    """
    return _over_x(_encoded, model, state, x)[0]


def decode(model: VAE, state: TrainState, z: np.ndarray | Array) -> np.ndarray:
    """The mean of p(x|z), without observation noise.  z: (..., D) -> (..., *X) float32.

    Raises ValueError for another number of dimensions.

    >>> vaejax.decode(model, state, [[0.0, 0.0], [1.0, 2.0]]).shape
    (2, 8, 8, 1)
    """
    _check_model(model, state)
    z = np.asarray(z)
    if not jnp.issubdtype(z.dtype, np.floating) and not np.issubdtype(z.dtype, np.integer):
        raise ValueError(f"z is of type {z.dtype}; codes are real numbers")
    z = z.astype(np.float32)
    if z.ndim < 1 or z.shape[-1] != model.posterior.latent_dim or not z.size:
        raise ValueError(f"z has shape {z.shape}; codes have {model.posterior.latent_dim} numbers")
    flat = z.reshape(-1, z.shape[-1])
    x = _over_blocks(_decoded, model, state, flat, ("decoder",))
    return x.reshape(*z.shape[:-1], *x.shape[1:])


def sample(model: VAE, state: TrainState, key: Array, num_samples: int = 64) -> np.ndarray:
    """Decoded draws of the prior, without observation noise.  -> (num_samples, *X) float32.

    The i-th is a function of the key and of i: the first ten of a thousand are the ten.  Raises
    ValueError for what is no key (`jax.random.key`), and for a number that is not a whole one from
    1 on.

    >>> vaejax.sample(model, state, jax.random.key(0), 16).shape
    (16, 8, 8, 1)
    """
    _check_key(key)
    drawn, count = functools.partial(_drawn, key=key), _count(num_samples)
    return _over_blocks(drawn, model, state, np.arange(count), ("decoder",))


def log_prob(
    model: VAE,
    state: TrainState,
    x: np.ndarray | Array,
    key: Array,
    num_samples: int = 100,
) -> np.ndarray:
    """A bound on log p(x) by importance sampling from q(z|x) (arXiv 1509.00519, eq. 8).

    x: (N, *X) -> (N,) nats, float64: below log p(x) in expectation, less so with more samples of
    each; with one it is the ELBO of one draw.  Raises ValueError for integers (raw rows), another
    shape, a posterior without density, and a number of samples that is not a whole one from 1 on.

    >>> x = vaejax.observed(config, "test")[:10]
    >>> vaejax.log_prob(model, state, x, jax.random.key(0), num_samples=5).shape
    (10,)
    """
    _check_key(key)
    if not model.posterior.has_density:
        raise ValueError("log p(x) is bounded by draws of q(z|x); this posterior has no density")
    return importance_weighted_bound(
        model,
        state.variables(),
        _checked(model, x),
        num_samples=_count(num_samples),
        transform=scaled(1.0),
        key=key,
    )


def drawn_one(model: VAE, variables: Mapping[str, Any], key: Array, index: Array) -> Array:
    """The sample of a key at a position.  -> (*X)."""
    own = jax.random.fold_in(key, index)
    return nn.apply(VAE.sample, model)(variables, own, 1)[0]


# Compiled once for each model and shape, whoever calls.
@functools.partial(jax.jit, static_argnums=0)
def _encoded(model: VAE, variables: Any, x: Array) -> Any:
    keys = jax.random.split(jax.random.key(0), len(x))  # of a draw that is not used
    code = nn.apply(VAE.encode, model)(variables, x, keys)
    return code.mean, code.q


@functools.partial(jax.jit, static_argnums=0)
def _decoded(model: VAE, variables: Any, z: Array) -> Array:
    return nn.apply(VAE.decode, model)(variables, z)


@functools.partial(jax.jit, static_argnums=0)
def _drawn(model: VAE, variables: Any, indices: Array, key: Array) -> Array:
    return jax.vmap(lambda index: drawn_one(model, variables, key, index))(indices)


def _over_x(function: Callable[..., Any], model: VAE, state: TrainState, x: Any) -> Any:
    return _over_blocks(function, model, state, _checked(model, x), ("encoder",))


def _over_blocks(
    function: Callable[..., Any],
    model: VAE,
    state: TrainState,
    rows: np.ndarray,
    parts: tuple[str, ...],
) -> Any:
    _check_model(model, state)
    variables, x_shape = state.variables(), model.decoder.x_shape  # type: ignore[attr-defined]
    most = num_at_once(model, variables, x_shape, parts)
    return over_split(lambda block, _: function(model, variables, block), rows, most)


def _checked(model: VAE, x: Any) -> np.ndarray:
    """x as float32.  Raises ValueError."""
    if not isinstance(model, VAE):
        raise ValueError(_FIRST)
    x, x_shape = np.asarray(x), model.decoder.x_shape  # type: ignore[attr-defined]
    if not jnp.issubdtype(x.dtype, np.floating):
        raise ValueError(f"x is of type {x.dtype}, not of floats; `observed` makes x of raw rows")
    if x.shape[1:] != tuple(x_shape) or not x.ndim or not len(x):
        shape = ", ".join(map(str, ("N", *x_shape)))
        raise ValueError(f"x has shape {x.shape}; this model has x of ({shape})")
    return x.astype(np.float32)


def _check_model(model: Any, state: Any) -> None:
    if not isinstance(model, VAE) or not isinstance(state, TrainState) or model.scope is not None:
        raise ValueError(_FIRST)


def _check_key(key: Any) -> None:
    is_key = jnp.issubdtype(getattr(key, "dtype", np.dtype(int)), jax.dtypes.prng_key)
    if not is_key or key.shape != ():
        shape = getattr(key, "shape", "")
        raise ValueError(f"{type(key).__name__} {shape} is not one key; jax.random.key(0) is")


def _count(num_samples: Any) -> int:
    try:
        count = operator.index(num_samples)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{num_samples!r} samples asked for; a whole number from 1 on")
    return count
