"""Speed of fitting Gaussian mixtures, beside scikit-learn on the same codes in the same process.

    .venv/bin/python launch/benchmark_density.py --json rates.json

Both climb from the same start for the same number of iterations, in turn, and end at the same
likelihood, which is checked.  Medians and ranges over the rounds; nothing is compiled in between.
scikit-learn runs with as many threads as it takes by itself, and with one.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vaejax.expost.em import Mixture, expectation_maximization
from vaejax.expost.gaussians import k_means_start

OURS = "vaejax"


def main() -> None:
    """Print seconds per iteration, and the ratios."""
    parser = argparse.ArgumentParser(description="Speed of fitting Gaussian mixtures.")
    sizes = {"codes": 20_000, "dim": 16, "components": 10, "iterations": 20, "rounds": 5}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    z = codes(arguments.codes, arguments.dim, arguments.components)
    start = k_means_start(z, arguments.components, seed=0, floor=1e-6)
    ways = climbs(z, start, arguments.iterations)
    rounds = [{name: timed(way) for name, way in ways.items()} for _ in range(arguments.rounds + 1)]
    bounds = {round(found, 6) for each in rounds for _, found in each.values()}
    if len(bounds) > 1:
        raise RuntimeError(f"mean log-likelihoods differ: {sorted(bounds)}")
    seconds = {name: [each[name][0] for each in rounds[1:]] for name in ways}  # the first compiles
    device = jax.devices()[0].device_kind
    shape = f"{arguments.codes:,} x {arguments.dim}, K = {arguments.components}"
    print(f"{shape}, {arguments.iterations} iterations, one {device}")
    table = {}
    for name, values in seconds.items():
        per_iteration = 1e3 * np.array(values) / arguments.iterations
        ratio = np.array(values) / np.array(seconds[OURS])
        table[name] = {"ms": _spread(per_iteration), "ratio": _spread(ratio)}
        told = "{median:.2f} ({lowest:.2f} to {highest:.2f})"
        each, times = (told.format(**table[name][unit]) for unit in ("ms", "ratio"))
        print(f"  {name:<24} {each} ms per iteration, {times} times that of {OURS}")
    if arguments.json:
        given = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"device": device, **given, "ways": table}, indent=2))


def codes(num_codes: int, dim: int, num_clusters: int) -> np.ndarray:
    """Standardized draws of overlapping clusters.  -> (N, D)."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, num_clusters, num_codes)
    factors = 0.5 * np.eye(dim) + rng.normal(0, 0.1, (num_clusters, dim, dim))
    z = rng.normal(0, 1.0, (num_clusters, dim))[cluster]
    z += np.einsum("nij,nj->ni", factors[cluster], rng.normal(size=z.shape))
    return (z - z.mean(axis=0)) / z.std(axis=0)


def climbs(z: np.ndarray, start: Mixture, iterations: int) -> dict[str, Callable[[], float]]:
    """-> the bound that each way reaches, by name."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    given: dict[str, Any] = {
        "tol": 0.0,
        "max_iter": iterations,
        "weights_init": np.exp(start.log_weights),
        "means_init": start.means,
        "precisions_init": np.linalg.inv(start.covariances),
    }

    def ours() -> float:
        return float(
            expectation_maximization(z, start, tolerance=0.0, max_iterations=iterations).bound
        )

    def theirs() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it was not asked to converge
            return float(GaussianMixture(len(start.means), **given).fit(z).lower_bound_)

    def theirs_alone() -> float:
        with threadpool_limits(1):
            return theirs()

    return {OURS: ours, "scikit-learn": theirs, "scikit-learn, one thread": theirs_alone}


def timed(way: Callable[[], float]) -> tuple[float, float]:
    """-> seconds, and what was found."""
    began = time.perf_counter()
    found = way()
    return time.perf_counter() - began, found


def _spread(values: np.ndarray) -> dict[str, float]:
    ends = {"lowest": float(values.min()), "highest": float(values.max())}
    return {"median": float(np.median(values)), **ends}


if __name__ == "__main__":
    main()
