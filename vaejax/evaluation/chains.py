"""Sampling by Markov chain from autoencoders that denoise or contract: no density over codes.

With f the encoder (its mean), g the decoder's mean and r = g(f(.)), a kernel moves every chain by
one step.  What a chain draws depends on the root key, the step and the number of the chain: not on
how many run beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from vaejax.config import build, unknown
from vaejax.data.transforms import CORRUPTIONS, Stage
from vaejax.models.vae import VAE
from vaejax.parallel import example_keys
from vaejax.training.validation import num_at_once, over_split
from vaejax.types import Array

# One step of chains: (model, variables, keys (B,), x (B, *X)) -> (B, *X).
Step = Callable[[VAE, Mapping[str, Any], Array, Array], Array]


class Noise(NamedTuple):
    """The corruption that a model was trained with, which its chains are made for."""

    name: str
    draw: Stage | None  # None without one
    scale: float | None = None  # standard deviation; None where the corruption is not Gaussian


class Kernel(NamedTuple):
    """How to make a step, and the options that it takes with their defaults."""

    make: Callable[..., Step]  # (noise, **options), all of them
    options: Mapping[str, Any]


def noise_of(config: ConfigDict) -> Noise:
    """The corruption that `config` trains with."""
    is_gaussian = config.corruption == "gaussian"
    scale = float(config.corruptions.gaussian.scale) if is_gaussian else None
    return Noise(config.corruption, build(CORRUPTIONS, "corruption", config), scale)


def markov_step(kernel: str, noise: Noise, options: Mapping[str, Any] | None = None) -> Step:
    """The step of the kernel of this name.

    Raises ValueError for an unknown kernel or option, one of a wrong type or size, and for a kernel
    that needs another corruption than the model was trained with.
    """
    if kernel not in KERNELS:
        raise unknown("chain", kernel, KERNELS)
    make, defaults = KERNELS[kernel]
    options = options or {}
    for name, value in options.items():
        if name not in defaults:
            raise unknown(f"option of chain {kernel!r}:", name, defaults)
        kinds = (int, float) if isinstance(defaults[name], float) else (type(defaults[name]),)
        if type(value) not in kinds:
            kind = type(defaults[name]).__name__
            raise ValueError(f"chain {kernel!r}: {name} is {value!r}; it must be of type {kind}")
    return make(noise, **{**defaults, **options})


def denoising(noise: Noise, *, draw: bool) -> Step:
    """Corrupt x, encode it, and draw from p(x|z) (arXiv 1305.6663, sec. 2).

    Its law is that of the data where p(x|z) is the distribution of x given the corrupted one, not
    only its mean.  With `draw` False x becomes the mean of p(x|z).  Raises ValueError without a
    corruption.
    """
    corrupt = noise.draw
    if corrupt is None:
        allowed = ", ".join(name for name in CORRUPTIONS if name != "none")
        raise ValueError(
            "chain 'denoising' draws from the corruption that a run was trained with; this one has "
            f"config.corruption={noise.name!r}, not one of {allowed}"
        )

    def step(model: VAE, variables: Mapping[str, Any], keys: Array, x: Array) -> Array:
        corrupt_keys, code_keys, draw_keys = _three_keys(keys)

        def moved(vae: VAE, corrupted: Array) -> Array:
            output = vae.output(vae.encode(corrupted, code_keys).z)
            if not draw:
                return vae.likelihood(output).mean()
            # Each by itself: a distribution over the batch would draw all from one key.
            return jax.vmap(lambda one, key: vae.likelihood(one[None]).sample(seed=key)[0])(
                output, draw_keys
            )

        drawn = nn.apply(moved, model)(variables, jax.vmap(corrupt)(x, corrupt_keys))
        return jnp.asarray(drawn).astype(x.dtype)

    return step


def contractive(noise: Noise, *, scale: float) -> Step:
    """h = f(x); x becomes g(h + J J' e), e ~ N(0, scale^2 I), J = df/dx (arXiv 1206.6434, sec. 3).

    J J' e is a product with the Jacobian after one with its transpose, which is never formed.
    `scale` is per code: where codes are c times as large, J J' is c^2 times.  Raises ValueError
    unless it is positive.
    """
    if not scale > 0:
        raise ValueError(f"chain 'contractive': scale is {scale}; it must be positive")

    def step(model: VAE, variables: Mapping[str, Any], keys: Array, x: Array) -> Array:
        encode = functools.partial(nn.apply(VAE.embed, model), variables)
        h, transposed = jax.vjp(encode, x)
        e = scale * jax.vmap(lambda key: jax.random.normal(key, h.shape[1:]))(keys)
        _, along = jax.jvp(encode, (x,), transposed(e))
        return nn.apply(VAE.decode, model)(variables, h + along)

    return step


def langevin(noise: Noise, *, step_size: float) -> Step:
    """x + eta (r(x) - x) / sigma^2 + sqrt(2 eta) e, e ~ N(0, I), eta = step_size sigma^2.

    Trained with Gaussian noise of scale sigma, (r(x) - x) / sigma^2 is the score of the data
    smoothed by it (arXiv 1211.4246, theorem 2), and the law of the chain is theirs, but for the
    finite step: a Gaussian's variance v becomes v / (1 - eta / (2 v)), at most 1 / (1 - step_size
    / 2) times as much.  Raises ValueError for another noise and a step_size not in (0, 2), beyond
    which the chain can leave.
    """
    sigma = noise.scale
    if sigma is None or not sigma > 0:
        has = f"{noise.name!r}" + ("" if sigma is None else f" of scale {sigma:g}")
        raise ValueError(
            "chain 'langevin' takes the score from a run trained with config.corruption='gaussian' "
            f"of positive scale; this one has {has}"
        )
    if not 0 < step_size < 2:
        raise ValueError(f"chain 'langevin': step_size is {step_size}; it must be in (0, 2)")

    def step(model: VAE, variables: Mapping[str, Any], keys: Array, x: Array) -> Array:
        e = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        toward = nn.apply(reconstructed, model)(variables, x) - x
        return x + step_size * toward + (2 * step_size) ** 0.5 * sigma * e

    return step


def reconstructed(model: VAE, x: Array) -> Array:
    """r(x) = g(f(x)) of a bound model.  (B, *X) -> (B, *X)."""
    return model.decode(model.embed(x))


def markov_paths(
    model: VAE,
    variables: Mapping[str, Any],
    *,
    kernel: str,
    noise: Noise,
    key: Array,
    start: np.ndarray,
    num_steps: int,
    burn_in: int = 0,
    thin: int = 1,
    first: int = 0,
    options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """States of chains after steps burn_in + thin, burn_in + 2 thin, ..., up to num_steps.

    start: (C, *X) -> (C, T, *X).  The chains are numbers `first`, `first` + 1, ... under `key`; as
    many move at once as this backend likes.  Raises ValueError as `markov_step` does, where no step
    is kept, and for chains that diverge.
    """
    if burn_in < 0 or thin < 1 or num_steps < burn_in + thin:
        asked = f"{num_steps} steps with burn_in {burn_in} and thin {thin}"
        raise ValueError(f"{asked} keep no state; burn_in >= 0, thin >= 1, both within the steps")
    start = np.asarray(start, np.float32)
    if not len(start):
        raise ValueError("no chain is asked for; at least 1")
    step = markov_step(kernel, noise, options)
    steps = jnp.arange(burn_in + (num_steps - burn_in) // thin * thin)
    kept = steps[burn_in:].reshape(-1, thin)

    def moved(x: Array, t: Array, indices: Array) -> tuple[Array, None]:
        keys = example_keys(jax.random.fold_in(key, t), indices)
        return step(model, variables, keys, x), None

    @jax.jit
    def paths(x: Array, indices: Array) -> Array:
        def several(x: Array, times: Array) -> tuple[Array, Array]:
            x, _ = jax.lax.scan(lambda x, t: moved(x, t, first + indices), x, times)
            return x, x

        x, _ = several(x, steps[:burn_in])
        return jnp.moveaxis(jax.lax.scan(several, x, kept)[1], 0, 1)

    found = over_split(paths, start, num_at_once(model, variables, start.shape[1:]))
    whole = np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if not whole.all():
        lost = f"{np.sum(~whole)} of {len(whole)} chains"
        raise ValueError(f"{lost} {kernel!r} diverged within {num_steps} steps; smaller options")
    return found


def markov_samples(
    model: VAE, variables: Mapping[str, Any], *, start: np.ndarray, **given: Any
) -> np.ndarray:
    """The states of `markov_paths`, which takes the same, of all chains.

    start: (C, *X) -> (C T, *X), those of the first chain first.
    """
    paths = markov_paths(model, variables, start=start, **given)
    return paths.reshape(-1, *paths.shape[2:])


def _three_keys(keys: Array) -> tuple[Array, ...]:
    """(B,) -> three times (B,)."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, 3)))(keys)


KERNELS: dict[str, Kernel] = {
    "denoising": Kernel(denoising, {"draw": True}),
    "contractive": Kernel(contractive, {"scale": 1.0}),
    "langevin": Kernel(langevin, {"step_size": 0.1}),
}
