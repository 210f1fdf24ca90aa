"""Rates of evaluation, beside the obvious way and beside what the machine can do.

    .venv/bin/python launch/benchmark_evaluation.py --config configs/mnist.py --json rates.json

All ways alternate within one process; medians over the rounds, nothing compiled in between.
Decodes and encodes are compared with a matrix product, by the FLOPs of their networks; densities
with one exponential per pair; of these rooflines the best round counts.  "simple" is one
call on everything; for decodes, on 50 examples times 20 samples.  The data are noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaejax.config import load_config, overridden
from vaejax.data.transforms import scaled
from vaejax.evaluation.aggregate import aggregate_log_density
from vaejax.evaluation.latent import make_codes
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.models.vae import VAE, initial_variables, make_model

SHAPES = {"mnist": (28, 28, 1), "digits": (8, 8, 1), "svhn": (32, 32, 3), "celeba": (64, 64, 3)}


class Way(NamedTuple):
    """`rate()` runs once and says how many per second; each takes `cost` units of its roofline."""

    rate: Callable[[], float]
    cost: float = 0.0
    roofline: str = ""


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description="Rates of evaluation.")
    parser.add_argument("--config", default="configs/mnist.py")
    sizes = {"rounds": 5, "samples": 500, "rows": 3_000, "components": 60_000, "points": 1_000}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--json", type=Path)
    arguments, overrides = parser.parse_known_args()
    config = overridden(load_config(arguments.config), overrides)
    ways = rooflines() | network_ways(config, arguments) | density_ways(config, arguments)
    rounds = [{name: way.rate() for name, way in ways.items()} for _ in range(arguments.rounds + 1)]
    rates = {name: [values[name] for values in rounds[1:]] for name in ways}  # the first compiles
    device, table = jax.devices()[0].device_kind, {}
    print(f"{config.dataset}, latent_dim {config.latent_dim}, one {device}; per second")
    for name, way in ways.items():
        median, roofline = float(np.median(rates[name])), max(rates.get(way.roofline, [1.0]))
        share = median * way.cost / roofline
        table[name] = {"median": median, "best": max(rates[name]), "share": share}
        of = f"{share:8.0%} of {way.roofline}" if way.roofline else ""
        print(f"  {name:<18} {median:>16,.0f} (best {max(rates[name]):,.0f}){of}")
    if arguments.json:
        given = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"device": device, **given, "rates": table}, indent=2))


def timed(function: Callable[..., Any], count: float, *arguments: Any) -> Callable[[], float]:
    """-> how many of `count` things per second `function` does."""

    def rate() -> float:
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return count / (time.perf_counter() - began)

    return rate


def rooflines() -> dict[str, Way]:
    """FLOPs of matrix products and exponentials."""
    square, many = jnp.ones((1024, 1024)), jnp.linspace(-5.0, 0.0, 2**20).reshape(64, -1)
    products = jax.jit(lambda a: jax.lax.fori_loop(0, 10, lambda _, b: a @ b / 1024, a))
    exponentials = jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda _, y: jnp.exp(-y), x))
    return {
        "matmul FLOP": Way(timed(products, 10 * 2 * 1024**3, square)),
        "exp": Way(timed(exponentials, 30 * 2**20, many)),
    }


def network_ways(config: Any, arguments: Any) -> dict[str, Way]:
    """Decodes of the importance-weighted bound, and encodes of a split."""
    shape = SHAPES[config.dataset]
    model = make_model(config, shape)
    params, stats = initial_variables(model, jax.random.key(0), shape)
    variables = {"params": params, "batch_stats": stats}
    rows = np.random.default_rng(0).integers(0, 256, (arguments.rows, *shape)).astype(np.uint8)
    x, keys = jnp.zeros((50, *shape)), jax.random.split(jax.random.key(0), 50)
    features = nn.apply(VAE.features, model)(variables, x)

    def decodes() -> float:
        said: list[tuple[int, float]] = []
        given = {"num_samples": arguments.samples, "transform": scaled(255.0)}
        given["key"] = jax.random.key(0)
        given["progress"] = lambda done: said.append((done, time.perf_counter()))
        importance_weighted_bound(model, variables, rows[:100], **given)
        (first, began), (last, ended) = said[0], said[-1]  # all is compiled before the first
        return (last - first) * arguments.samples / (ended - began)

    def log_weight(vae: VAE, x: Any, features: Any, keys: Any) -> Any:
        z, log_q, *_ = vae.posterior(features, keys)
        log_likelihood = vae.likelihood(vae.output(z)).log_prob(x)
        return log_likelihood + vae.prior.log_prob(z) - log_q

    @jax.jit
    def simple(variables: Any, keys: Any) -> Any:
        weight, fold = nn.apply(log_weight, model), jax.vmap(jax.random.fold_in, (0, None))
        return jax.vmap(lambda s: weight(variables, x, features, fold(keys, s)))(jnp.arange(20))

    def flops(method: Callable[..., Any], *given: Any) -> float:
        run: Any = jax.jit(lambda *given: nn.apply(method, model)(*given)[0]).lower(*given)
        return run.cost_analysis()["flops"] / len(x)  # as XLA counts before it optimizes

    per_decode = flops(log_weight, variables, x, features, keys)
    per_encode = flops(VAE.encode, variables, x, keys)
    encode = {"transform": scaled(255.0), "seed": 0}
    whole = make_codes(model, **encode, batch_size=len(rows))
    rates = {
        "decodes": (decodes, per_decode),
        "decodes, simple": (timed(simple, 1000, variables, keys), per_decode),
        "encodes": (timed(make_codes(model, **encode), len(rows), variables, rows), per_encode),
        "encodes, simple": (timed(whole, len(rows), variables, rows), per_encode),
    }
    return {name: Way(*rate, "matmul FLOP") for name, rate in rates.items()}


def density_ways(config: Any, arguments: Any) -> dict[str, Way]:
    """Pairs of a point and a component."""
    size = (arguments.components, config.latent_dim)
    mean = np.random.default_rng(0).normal(size=size).astype(np.float32)
    points, scale = mean[: arguments.points], np.full_like(mean, 0.1)

    @jax.jit
    def simple(points: Any, mean: Any, scale: Any) -> Any:
        standard = (points[:, None] - mean) / scale
        terms = -0.5 * (standard**2).sum(axis=-1) - jnp.log(scale).sum(axis=-1)
        return jax.nn.logsumexp(terms, axis=1)

    run = timed(aggregate_log_density, len(points) * len(mean), points, mean, scale)
    few = timed(simple, len(points[::20]) * len(mean), points[::20], mean, scale)
    return {"pairs": Way(run, 1.0, "exp"), "pairs, simple": Way(few, 1.0, "exp")}


if __name__ == "__main__":
    main()
