"""What denoising autoencoders and their chains are said to do, measured: one JSON for each claim.

    .venv/bin/python launch/claims_chains.py claims/chains --seeds 3

Thresholds and protocols stand here, before any run.  The points are a ring of eight Gaussians,
whose smoothed density is known.  Runs are kept in `runs/` of the folder, and are not trained again.
About 6 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.stats import norm

import vaejax
from vaejax.config import to_json
from vaejax.evaluation.chains import markov_paths, noise_of, reconstructed
from vaejax.evaluation.mixing import autocorrelation, mode_changes, modes_visited, nearest_modes

COSINE = 0.98  # at least: A4, of the direction of the score
TOTAL_VARIATION, SHARE_VISITING = 0.15, 0.95  # at most, at least: A6, after STEPS steps

RADIUS, SPREAD, NUM_MODES = 2.0, 0.2, 8  # of the ring
SIGMA, TINY = 0.5, 0.05  # noise that is trained with; tiny noise is the control
STEPS, CHAINS, STEP_SIZE = 500, 10_000, 0.5
EDGES = np.linspace(-3.5, 3.5, 21)  # of the histogram, on both axes
LAGS = (1, 10, 50, 100)
TRAINED = "MLP 128-128-16-128-128, 50,000 points, 6,000 steps of 500, Adam with cosine decay"

ANGLES = 2 * np.pi * np.arange(NUM_MODES) / NUM_MODES
CENTERS = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def main() -> None:
    """Write the claims."""
    parser = argparse.ArgumentParser(description="Claims about denoising and its chains.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = {
        name: [ring_run(arguments.folder / "runs", name, seed) for seed in range(arguments.seeds)]
        for name in ("gaussian", "tiny", "plain")
    }
    claims = {"a4_score": score_claim(runs)}
    for kernel, options in {"langevin": {"step_size": STEP_SIZE}, "denoising": {}}.items():
        claims[f"a6_ring_{kernel}"] = ring_claim(runs, kernel, options)
    for name, claim in claims.items():
        write(arguments.folder / f"{name}.json", claim)


def write(path: Path, claim: dict[str, Any]) -> None:
    """With the versions; and its verdict, printed."""
    claim["versions"] = {"vaejax": vaejax.__version__, "jax": jax.__version__}
    path.write_text(json.dumps(claim, indent=2) + "\n")
    print(path.name, claim["verdict"], json.dumps(claim["statistic"]), flush=True)


def over_seeds(values: Any) -> dict[str, Any]:
    """Mean and standard deviation of one number per seed."""
    values = np.asarray(values, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"per_seed": values.tolist(), "mean": float(values.mean()), "sd": spread}


def hashes(runs: list[Any]) -> list[str]:
    """Of the configs of runs."""
    return [hashlib.sha256(to_json(run[2]).encode()).hexdigest() for run in runs]


def verdict(holds: bool, control_fails: bool) -> str:
    """In a word."""
    if not control_fails:
        return "undecided: the control passes, too"
    return "holds" if holds else "fails"


def autoencoder(seed: int, corruption: str, scale: float) -> Any:
    """A config without a code penalty, trained with this corruption."""
    config = vaejax.default_config().unlock()
    config.seed, config.posterior, config.prior = seed, "deterministic", "standard_normal"
    config.regularizer, config.regularizers.beta_h.beta = "beta_h", 0.0
    config.corruption, config.corruptions.gaussian.scale = corruption, scale
    config.schedule = "cosine"
    return config


def ring_points(seed: int, count: int, spread: float = SPREAD) -> np.ndarray:
    """Draws of the ring, smoothed where `spread` says so.  -> (count, 2)."""
    draw = np.random.Generator(np.random.Philox(seed))
    modes = draw.integers(NUM_MODES, size=count)
    return (CENTERS[modes] + spread * draw.normal(size=(count, 2))).astype(np.float32)


def ring_run(folder: Path, name: str, seed: int) -> Any:
    """An autoencoder of the ring: (model, state, config)."""
    data = {"train": ring_points(1_000 + seed, 50_000), "test": ring_points(2_000, 10_000)}
    scale = TINY if name == "tiny" else SIGMA
    config = autoencoder(seed, "none" if name == "plain" else "gaussian", scale)
    config.latent_dim, config.likelihood = 16, "learned_gaussian"
    config.encoders.mlp.widths = config.decoders.mlp.widths = (128, 128)
    config.batch_size, config.num_steps = 500, 6_000
    dataset = vaejax.Dataset("ring", data, scale=1.0)
    return vaejax.fit(config, folder / f"ring_{name}_{seed}", dataset, quiet=True)


def applied(run: Any, x: np.ndarray) -> np.ndarray:
    """r(x) of a run.  (N, *X) -> (N, *X)."""
    model, state, _ = run
    return np.asarray(jax.jit(nn.apply(reconstructed, model))(state.variables(), x))


def score(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gradient of log p_sigma, of the smoothed ring.  (N, 2) -> (N, 2)."""
    variance = SPREAD**2 + sigma**2

    def log_p(x: Any) -> Any:
        return jax.nn.logsumexp(-((x - CENTERS) ** 2).sum(axis=-1) / (2 * variance))

    return np.asarray(jax.vmap(jax.grad(log_p))(jnp.asarray(x)))


def score_claim(runs: dict[str, list[Any]]) -> dict[str, Any]:
    """A4 (i): a denoiser points along the score of the smoothed density."""
    x = ring_points(3_000, 10_000, (SPREAD**2 + SIGMA**2) ** 0.5)
    truth = score(x, SIGMA)

    def cosines(run: Any) -> np.ndarray:
        found = (applied(run, x) - x) / SIGMA**2
        return (
            (found * truth).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(truth, axis=1)
        )

    def whole(run: Any) -> float:
        found = (applied(run, x) - x) / SIGMA**2
        return float((found * truth).sum() / np.linalg.norm(found) / np.linalg.norm(truth))

    found = over_seeds([cosines(run).mean() for run in runs["gaussian"]])
    control = over_seeds([cosines(run).mean() for run in runs["plain"]])
    return {
        "claim": "(r(x) - x) / sigma^2 has the direction of grad log p_sigma(x)",
        "source": "arXiv 1211.4246, theorem 2",
        "statistic": {"name": "mean cosine", **found},
        "also": {
            "cosine of the whole fields": over_seeds([whole(run) for run in runs["gaussian"]]),
            "share of points with cosine < 0.9": over_seeds(
                [(cosines(run) < 0.9).mean() for run in runs["gaussian"]]
            ),
        },
        "threshold": {"at least": COSINE},
        "control": {"what": "an autoencoder trained without noise; must be below", **control},
        "seeds": len(runs["gaussian"]),
        "verdict": verdict(found["mean"] >= COSINE, control["mean"] < COSINE),
        "protocol": f"ring of {NUM_MODES} Gaussians (radius {RADIUS}, sd {SPREAD}), sigma {SIGMA}; "
        f"mean over {len(x)} corrupted points that were not trained on; {TRAINED}",
        "config_sha256": hashes(runs["gaussian"]),
    }


def probabilities(sigma: float) -> np.ndarray:
    """Of the bins under the smoothed ring.  -> (bins, bins)."""
    scale = (SPREAD**2 + sigma**2) ** 0.5
    on_axes = [np.diff(norm.cdf((EDGES[:, None] - CENTERS[:, d]) / scale), axis=0) for d in (0, 1)]
    return np.einsum("ik,jk->ij", *on_axes) / NUM_MODES


def total_variation(x: np.ndarray, sigma: float) -> float:
    """Between a histogram of states and the smoothed ring; what is outside is one more bin."""
    p = probabilities(sigma)
    q = np.histogram2d(*x.T, bins=(EDGES, EDGES))[0] / len(x)
    return float(0.5 * (np.abs(p - q).sum() + abs(p.sum() - q.sum())))


def ring_measures(run: Any, kernel: str, options: dict[str, Any], sigma: float) -> dict[str, Any]:
    """Of chains that start in the first mode; the law to reach is smoothed by `sigma`."""
    model, state, config = run
    given: Any = {
        "kernel": kernel,
        "noise": noise_of(config),
        "num_steps": STEPS,
        "options": options,
    }
    start = np.tile(CENTERS[:1], (CHAINS, 1))
    paths = markov_paths(model, state.variables(), key=jax.random.key(5), start=start, **given)
    modes = nearest_modes(paths, CENTERS)
    reach = 2 * (SPREAD**2 + sigma**2) ** 0.5
    inside = np.linalg.norm(paths - CENTERS[modes], axis=-1) < reach
    been = np.array([modes_visited(m[None, i])[0] for m, i in zip(modes, inside, strict=True)])
    first = paths[:, STEPS // 2 :, 0]
    return {
        "total variation": total_variation(paths[:, -1], sigma),
        "share visiting all modes": float((been == NUM_MODES).mean()),
        "mean modes visited": float(been.mean()),
        "mode changes per 100 steps": float(mode_changes(modes).mean() * 100 / (STEPS - 1)),
        "autocorrelation of x_1": dict(
            zip(map(str, LAGS), autocorrelation(first, max(LAGS))[list(LAGS)].tolist(), strict=True)
        ),
    }


def ring_claim(runs: dict[str, list[Any]], kernel: str, options: dict[str, Any]) -> dict[str, Any]:
    """A6: chains from a point reach all modes, and the law that they should have."""

    def measured(name: str, noise: float) -> list[dict[str, Any]]:
        smoothed = noise if kernel == "langevin" else 0.0
        return [ring_measures(run, kernel, options, smoothed) for run in runs[name]]

    found, control = measured("gaussian", SIGMA), measured("tiny", TINY)

    def passes(each: list[dict[str, Any]]) -> bool:
        far = np.mean([one["total variation"] for one in each])
        share = np.mean([one["share visiting all modes"] for one in each])
        return bool(far <= TOTAL_VARIATION and share >= SHARE_VISITING)

    names = ("total variation", "share visiting all modes")
    sigma = SIGMA if kernel == "langevin" else 0.0
    exact = ring_points(7, CHAINS, (SPREAD**2 + sigma**2) ** 0.5)
    law = "the ring smoothed by the noise" if sigma else "the ring"
    return {
        "claim": f"{kernel} chains from one point have the law of {law} after {STEPS} steps, and "
        f"visit all {NUM_MODES} modes",
        "source": "arXiv 1211.4246" if kernel == "langevin" else "arXiv 1305.6663",
        "statistic": {name: over_seeds([one[name] for one in found]) for name in names},
        "threshold": {
            names[0]: {"at most": TOTAL_VARIATION},
            names[1]: {"at least": SHARE_VISITING},
        },
        "floor": {"total variation of exact draws": total_variation(exact, sigma)},
        "also": {"per_seed": found, "denoising without a network": exact_chains()},
        "control": {"what": f"noise of scale {TINY}; must not mix", "per_seed": control},
        "seeds": len(found),
        "verdict": verdict(passes(found), not passes(control)),
        "protocol": f"{CHAINS} chains, {STEPS} steps from a mode's center, options {options}; "
        f"noise {SIGMA}; histogram of the last states, {len(EDGES) - 1}^2 bins from {EDGES[0]} to "
        f"{EDGES[-1]}; a mode is visited within 2 sd of its center; autocorrelation over the "
        f"second half, along x_1; {TRAINED}",
        "config_sha256": hashes(runs["gaussian"]),
    }


def exact_chains() -> dict[str, float]:
    """Total variation of denoising chains that draw from what a network can only approximate.

    From the distribution of x given the corrupted one, which is a mixture; and from the best
    Gaussian with one variance for all, which is what a likelihood of this kind can learn.
    """
    draw = np.random.Generator(np.random.Philox(11))
    x = ring_points(10, CHAINS)
    residual = x - conditional(corrupted(x, draw))[1]
    found, scale = {}, float(np.sqrt((residual**2).mean()))
    for name in ("exact conditional", "best conditional with one variance"):
        x = np.tile(CENTERS[:1], (CHAINS, 1))
        for _ in range(STEPS):
            weights, mean, means, own = conditional(corrupted(x, draw))
            if name == "exact conditional":
                chosen = (weights.cumsum(axis=1) > draw.random((CHAINS, 1))).argmax(axis=1)
                x = means[np.arange(CHAINS), chosen] + own * draw.normal(size=x.shape)
            else:
                x = mean + scale * draw.normal(size=x.shape)
        found[name] = total_variation(x, 0.0)
    return found


def corrupted(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """With the noise that is trained with.  (N, 2) -> (N, 2)."""
    return x + SIGMA * draw.normal(size=x.shape)


def conditional(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Of clean points given corrupted ones (N, 2): weights (N, K), mean (N, 2), and the K parts.

    The parts are Gaussians with means (N, K, 2) and one standard deviation.
    """
    variance = SPREAD**2 + SIGMA**2
    logs = -((x[:, None] - CENTERS) ** 2).sum(axis=-1) / (2 * variance)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    means = CENTERS + SPREAD**2 / variance * (x[:, None] - CENTERS)
    mean = (weights[..., None] * means).sum(axis=1)
    return weights, mean, means, SPREAD * SIGMA / variance**0.5


if __name__ == "__main__":
    main()
