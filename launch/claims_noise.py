"""What learned observation noise and the approximate ELBO are said to do: one JSON for each claim.

    .venv/bin/python launch/claims_noise.py claims/noise --seeds 3

B5 on points of a curved surface, C9 on digits.  Thresholds and protocols stand here, before any
run.  Runs are kept in `runs/` of the folder, and are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import claims
import numpy as np
from claims import over_seeds, verdict
from claims_models import codes_of, decoded, images, replicas, trained

import vaejax
from vaejax.config import config_sha256
from vaejax.evaluation.laplace import expansion, second_order_elbo
from vaejax.evaluation.latent import codes
from vaejax.evaluation.likelihood import importance_weighted_bound
from vaejax.reporting.opened import OpenedRun
from vaejax.training.state import EVALUATE, stream_key
from vaejax.training.validation import make_split_terms

ACTIVE, SCALE = 3, 0.2  # B5: units, exactly; learned scale over that of the noise, off by at most
MOVES = 0.01  # B5: a unit is active whose mean has more variance than this
BETAS = (0.25, 1.0, 4.0)  # C9
LEARNING_RATE = 1e-3  # C9

NOISE, DIM, LATENT = 0.1, 20, 8  # B5
CONFIGS = Path(__file__).parents[1] / "configs"
DRAWS = 1_000  # C9: importance samples


def main() -> None:
    """Write the claims."""
    parser = argparse.ArgumentParser(description="Claims about noise and bounds.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000, help="of training; fewer to try")
    parser.add_argument("--only", nargs="+", default=list(CLAIMS), choices=list(CLAIMS))
    arguments = parser.parse_args()
    for name in arguments.only:
        found = CLAIMS[name](arguments.folder / "runs", range(arguments.seeds), arguments.steps)
        claims.write(arguments.folder, name, **found, seeds=arguments.seeds)


def surface(seed: int) -> vaejax.Dataset:
    """Points on a curved surface of three dimensions in 20, with noise; each signal has sd 1."""
    draw = np.random.Generator(np.random.Philox(seed))
    into, out = draw.normal(size=(ACTIVE, 32)) / ACTIVE**0.5, draw.normal(size=(32, DIM))

    def points(count: int) -> np.ndarray:
        return np.tanh(draw.normal(size=(count, ACTIVE)) @ into) @ out

    clean = {"train": points(20_000), "test": points(5_000)}
    scale = clean["train"].std(axis=0)
    noisy = {
        split: (x / scale + NOISE * draw.normal(size=x.shape)).astype(np.float32)
        for split, x in clean.items()
    }
    return vaejax.Dataset(f"surface_{seed}", noisy, scale=1.0)


def scale_claim(folder: Path, seeds: range, num_steps: int) -> dict[str, Any]:
    """B5: a learned scale finds the noise, and with it the dimensions of the surface."""

    def measured(likelihood: str, seed: int) -> dict[str, float]:
        dataset, config = surface(seed), vaejax.default_config().unlock()
        config.seed, config.num_steps, config.batch_size = seed, num_steps, 200
        config.prior, config.regularizer, config.latent_dim = "standard_normal", "none", LATENT
        config.likelihood, config.schedule = likelihood, "cosine"
        config.likelihoods.gaussian.mse_weight = 0.5  # a scale of 1
        config.encoders.mlp.widths = config.decoders.mlp.widths = (128, 128)
        run = trained(config, folder / f"{likelihood}_{seed}", dataset)
        hashes.append(config_sha256(run.config))
        units.setdefault(likelihood, []).append(_units(run))
        return _noise(run)

    hashes: list[str] = []
    units: dict[str, list[dict[str, list[float]]]] = {}
    each = {
        name: [measured(name, seed) for seed in seeds] for name in ("learned_gaussian", "gaussian")
    }

    def passes(one: dict[str, float]) -> bool:
        return one["active units"] == ACTIVE and abs(one["scale / noise"] - 1) <= SCALE

    learned = each["learned_gaussian"]
    # With a fixed scale, the one that its errors have counts.
    fixed = [{**one, "scale / noise": one["error / noise"]} for one in each["gaussian"]]
    return {
        "claim": "with a learned scale, a VAE of 8 units uses the 3 of the surface, and the scale "
        "is that of the noise",
        "source": "arXiv 1903.05789, theorem 5; arXiv 2006.13202",
        "statistic": {key: over_seeds(one[key] for one in learned) for key in learned[0]},
        "threshold": f"exactly {ACTIVE} active units and a scale within {SCALE} of the noise, in "
        "every run",
        "control": {
            "scale fixed at 1": {key: over_seeds(one[key] for one in fixed) for key in fixed[0]}
        },
        "also": {"units, by the variance of their mean, per seed": units},
        "verdict": verdict(all(map(passes, learned)), not any(map(passes, fixed))),
        "protocol": f"points tanh(U A) B in {DIM} dimensions, U three normal ones, each coordinate "
        f"of sd 1, noise {NOISE}, another surface for each seed; MLP 128-128, {num_steps} steps of "
        f"200, Adam with cosine decay; a unit is active whose mean has a variance over {MOVES} on "
        "test points; errors are of points decoded from a draw of the posterior",
        "config_sha256": hashes,
    }


def _noise(run: OpenedRun) -> dict[str, float]:
    """What a run uses and reaches on its test split."""
    drawn = codes(run.model, run.variables, run.dataset.splits["test"],
                  transform=run.transform, seed=run.seed)  # fmt: skip
    error = decoded(run, np.asarray(drawn.z)) - images(run, "test")
    scale = np.exp(run.variables["params"].get("likelihood", {}).get("log_scale", 0.0))
    variances = codes_of(run, "test").astype(np.float64).var(axis=0)
    return {
        "active units": float((variances > MOVES).sum()),
        "scale / noise": float(scale / NOISE),
        "error / noise": float(np.sqrt((error.astype(np.float64) ** 2).mean()) / NOISE),
    }


def _units(run: OpenedRun) -> dict[str, list[float]]:
    """Variance of its mean, and KL in nats, of every unit on test points."""
    found = codes(run.model, run.variables, run.dataset.splits["test"],
                  transform=run.transform, seed=run.seed)  # fmt: skip
    mean, scale = (np.asarray(each, np.float64) for each in (found.mean, found.scale))
    variances = mean.var(axis=0)
    kl = ((mean**2 + scale**2 - 1) / 2 - np.log(scale)).mean(axis=0)
    order = np.argsort(-variances)
    return {"variance": variances[order].round(4).tolist(), "kl": kl[order].round(4).tolist()}


def bound_claim(folder: Path, seeds: range, num_steps: int) -> dict[str, Any]:
    """C9: the approximate ELBO puts VAEs in the order in which the ELBO puts them."""
    config = vaejax.load_config(str(CONFIGS / "digits.py")).unlock()
    config.num_steps, config.latent_dim = num_steps, LATENT
    config.prior, config.regularizer = "standard_normal", "beta_h"
    config.schedules.cosine.learning_rate = LEARNING_RATE
    sweep = {"seed": list(seeds), "regularizers.beta_h.beta": BETAS}
    runs = replicas(config, sweep, folder / "digits")
    each: dict[str, list[list[float]]] = {}
    for first in range(0, len(runs), len(BETAS)):
        for name, values in _bounds(runs[first : first + len(BETAS)]).items():
            each.setdefault(name, []).append(values)

    def agrees(name: str, truth: str) -> list[bool]:
        orders = zip(each[name], each[truth], strict=True)
        return [bool((np.argsort(a) == np.argsort(b)).all()) for a, b in orders]

    agreed = {truth: agrees(APPROXIMATE, truth) for truth in ("ELBO", WEIGHTED)}
    alone = agrees("log p(x|mean)", "ELBO")
    return {
        "claim": "the approximate ELBO ranks VAEs of beta 1/4, 1 and 4 as the ELBO does",
        "source": "arXiv 2002.00041",
        "statistic": {
            "seeds that agree with the ELBO": sum(agreed["ELBO"]),
            "with the importance-weighted bound": sum(agreed[WEIGHTED]),
        },
        "threshold": "the order of the ELBO, in every seed",
        "control": {"seeds where log p(x|mean) alone has the order of the ELBO": sum(alone)},
        "also": {
            name: {f"beta {beta:g}": over_seeds(values[k] for values in found)
                   for k, beta in enumerate(BETAS)}
            for name, found in each.items()
        },
        "verdict": verdict(all(agreed["ELBO"]), not all(alone)),
        "protocol": f"digits, {LATENT} latent dimensions, else configs/digits.py with {num_steps} "
        f"steps at learning rate {LEARNING_RATE:g}; all {len(_rows(runs[0]))} test images, nats, "
        f"at the mean code; {DRAWS} importance samples",
        "config_sha256": [config_sha256(run.config) for run in runs],
    }  # fmt: skip


APPROXIMATE, WEIGHTED = "approximate ELBO", "importance-weighted bound"


def _rows(run: OpenedRun) -> Any:
    """Raw rows of the test split."""
    return run.dataset.splits["test"]


def _bounds(runs: list[OpenedRun]) -> dict[str, list[float]]:
    """Means over the test split, of every run."""
    found: dict[str, list[float]] = {}
    for run in runs:
        rows, given = _rows(run), {"transform": run.transform}
        terms = make_split_terms(run.model, seed=run.seed, **given)(run.variables, rows)
        given |= {"num_samples": DRAWS, "key": stream_key(run.seed, EVALUATE)}
        weighted = importance_weighted_bound(run.model, run.variables, rows, **given)
        around = expansion(run.model, run.variables, rows, transform=run.transform)
        weight = run.config.likelihoods.gaussian.mse_weight
        error = decoded(run, codes_of(run, "test")) - images(run, "test")
        error = (error.astype(np.float64) ** 2).reshape(len(error), -1)
        constant = 0.5 * error.shape[1] * np.log(np.pi / weight)
        values = {
            "ELBO": terms["elbo"],
            WEIGHTED: weighted,
            APPROXIMATE: second_order_elbo(around)[0],
            "log p(x|mean)": -weight * error.sum(axis=1) - constant,
        }
        for name, value in values.items():
            found.setdefault(name, []).append(float(np.mean(value, dtype=np.float64)))
    return found


CLAIMS: dict[str, Callable[[Path, range, int], dict[str, Any]]] = {
    "B5": scale_claim,
    "C9": bound_claim,
}


if __name__ == "__main__":
    main()
