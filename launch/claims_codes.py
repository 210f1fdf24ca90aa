"""What penalties on codes and on Jacobians are said to do, measured: one JSON for each claim.

    .venv/bin/python launch/claims_codes.py claims/codes --seeds 3

A3 (sparse, on digits) and A5 (contractive, on 10,000 images of MNIST).  Thresholds and protocols
stand here, before any run.  Runs are kept in `runs/` of the folder, and are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import claims
import jax
import numpy as np
from claims import is_clearly_lower, over_seeds, verdict
from claims_models import codes_of, images, matching, replicas, squared_error, trained
from flax import linen as nn
from ml_collections import ConfigDict

import vaejax
from vaejax.config import config_sha256
from vaejax.data.sources import dataset_from
from vaejax.models.vae import VAE
from vaejax.reporting.opened import OpenedRun
from vaejax.training.validation import over_split

SPARSE, DENSE, NEAR_ZERO = 0.6, 0.1, 1e-3  # A3: shares of codes below NEAR_ZERO of the largest
SPARSE_MATCH = 0.05  # A3: test errors of both, apart at most
CONTRACTED, DENOISED = 0.5, 0.9  # A5: CAE <= 0.5 DAE, and 0.5 DAE <= 0.45 AE: DAE <= 0.9 AE
CONTRACTED_MATCH = 0.1  # A5: test errors of all three, apart from the plain one's at most

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # A3: of L1, ascending; the middle one is matched
L2_RATES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # A3: of |z|^2 / 2, between which it is matched
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # A5: of the Jacobian, likewise
NOISES = (0.1, 0.2, 0.4, 0.8)  # A5: of the denoiser, likewise
FARTHER = 1.05  # A5: the error to reach, in that of the plain autoencoder; its least is below 1
DECODER_L2 = 1e-3  # of all, or smaller codes and a larger decoder would do for either penalty
SPARSE_PROTOCOL = (
    "digits, MLP 64-256-128 (rectified)-256-64; kernels of the decoder have the penalty "
    f"{DECODER_L2:g} |W|^2 in all; Adam with cosine decay, batches of 100, {{}} steps; test split; "
    "grids of rates were chosen on other seeds"
)
POINTS = 500  # A5: test images at which Jacobians are taken


def main() -> None:
    """Write the claims."""
    parser = argparse.ArgumentParser(description="Claims about penalties on codes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4_000, help="of training; fewer to try")
    parser.add_argument("--only", nargs="+", default=list(CLAIMS), choices=list(CLAIMS))
    arguments = parser.parse_args()
    for name in arguments.only:
        found = CLAIMS[name](arguments.folder / "runs", range(arguments.seeds), arguments.steps)
        claims.write(arguments.folder, name, **found, seeds=arguments.seeds)


def autoencoder(regularizer: str, seed: int, num_steps: int, **row: float) -> ConfigDict:
    """A config without noise in the code, with this row of the regularizer."""
    config = vaejax.default_config().unlock()
    config.seed, config.num_steps, config.regularizer = seed, num_steps, regularizer
    config.posterior, config.prior, config.schedule = "deterministic", "standard_normal", "cosine"
    config.regularizers[regularizer].update(row)
    return config


def sparse_claim(folder: Path, seeds: range, num_steps: int) -> dict[str, Any]:
    """A3: L1 makes codes sparse, where L2 with the same error does not."""
    runs = _sparse_runs(folder, seeds, num_steps)

    def error(name: str, rate: float) -> list[float]:
        return [squared_error(run) for run in runs(name, rate)]

    def share(name: str, rate: float) -> list[float]:
        return [_share_of_zeros(codes_of(run, "test")) for run in runs(name, rate)]

    middle = RATES[len(RATES) // 2]
    wanted = float(np.mean(error("sparse", middle)))
    rate = matching(
        lambda rate: float(np.mean(error("rae_l2", rate))), wanted, L2_RATES, SPARSE_MATCH / 2
    )
    shares = {f"L1 {each:g}": over_seeds(share("sparse", each)) for each in RATES}
    ascending = np.diff([each["mean"] for each in shares.values()]) > 0
    ours, other = over_seeds(share("sparse", middle)), over_seeds(share("rae_l2", rate))
    errors = {name: over_seeds(error(*name)) for name in (("sparse", middle), ("rae_l2", rate))}
    apart = abs(errors["rae_l2", rate]["mean"] / wanted - 1)
    none = over_seeds(share("rae_l2", 0.0))
    return {
        "claim": "L1 makes a code sparse, by its rate, where L2 with the same error does not",
        "source": "Ng, CS294A; Olshausen and Field 1996",
        "statistic": {
            "L1": ours,
            "L2": other,
            "errors apart": apart,
            "steps up": int(sum(ascending)),
        },
        "threshold": f"share of codes below {NEAR_ZERO:g} of the largest: L1 >= {SPARSE}, L2 < "
        f"{DENSE}; errors apart <= {SPARSE_MATCH}; ascending over the rates {RATES}",
        "control": {"share without a penalty, below the threshold of L1": none},
        "also": {
            "shares": shares,
            "rates": {"L1": middle, "L2": rate},
            "squared error": {f"{name} {rate:.3g}": each for (name, rate), each in errors.items()},
            "of units that are ever on": _shares_in_use(runs, middle, rate),
        },
        "verdict": verdict(
            ours["mean"] >= SPARSE
            and other["mean"] < DENSE
            and apart <= SPARSE_MATCH
            and bool(ascending.all()),
            none["mean"] < SPARSE,
        ),
        "protocol": SPARSE_PROTOCOL.format(num_steps),
        "config_sha256": config_sha256(runs("sparse", middle)[0].config),
    }


def _sparse_runs(folder: Path, seeds: range, num_steps: int) -> Callable[..., list[OpenedRun]]:
    """(name, rates) -> the runs of all seeds with those; all that are known beforehand at once."""

    @cache
    def runs(name: str, *rates: float) -> list[OpenedRun]:
        key, row = ("weight", "decoder_l2_weight") if name == "sparse" else ("beta", "weight")
        config = _digits(name, num_steps, **{row: DECODER_L2})
        sweep = {f"regularizers.{name}.{key}": rates, "seed": list(seeds)}
        return replicas(config, sweep, folder / name)

    for name, rates in (("sparse", RATES), ("rae_l2", (0.0, *L2_RATES))):
        runs(name, *rates)  # all as one program
    return runs


def _digits(regularizer: str, num_steps: int, **row: float) -> ConfigDict:
    config = autoencoder(regularizer, 0, num_steps, **row)
    config.latent_dim, config.posteriors.deterministic.activation = 128, "relu"
    config.encoders.mlp.widths = config.decoders.mlp.widths = (256,)
    return config


def _share_of_zeros(codes: np.ndarray) -> float:
    """(N, D) -> ()."""
    return float((np.abs(codes) < NEAR_ZERO * np.abs(codes).max()).mean())


def _shares_in_use(
    runs: Callable[..., list[OpenedRun]], l1: float, l2: float
) -> dict[str, dict[str, Any]]:
    """`_share_in_use` of the matched rates, and without a penalty."""
    return {
        f"{name} {each:.3g}": over_seeds(_share_in_use(run) for run in runs(name, each))
        for name, each in (("sparse", l1), ("rae_l2", l2), ("rae_l2", 0.0))
    }


def _share_in_use(run: OpenedRun) -> float:
    """The same of units that are not near zero for all of the test split."""
    codes = codes_of(run, "test")
    limit = NEAR_ZERO * np.abs(codes).max()
    return float((np.abs(codes[:, np.abs(codes).max(axis=0) >= limit]) < limit).mean())


def contractive_claim(folder: Path, seeds: range, num_steps: int) -> dict[str, Any]:
    """A5: a contractive encoder contracts more than a denoiser, and that more than neither."""
    weights, run = _contractive_runs(folder, seeds[0], num_steps)
    measured = {
        name: [_jacobians(run(name, weight, seed)) for seed in seeds]
        for name, weight in weights.items()
    }
    found = {key: {n: [one[key] for one in each] for n, each in measured.items()}
             for key in measured["plain"][0]}  # fmt: skip
    norm, rank, error = (
        {n: over_seeds(v) for n, v in found[key].items()} for key in (NORM, RANK, ERROR)
    )
    apart = max(abs(error[name]["mean"] / error["plain"]["mean"] - 1) for name in weights)
    to_denoising = norm["contractive"]["mean"] / norm["denoising"]["mean"]
    to_plain = norm["denoising"]["mean"] / norm["plain"]["mean"]
    return {
        "claim": "at the same error, the Jacobian of a contractive encoder is smaller than that "
        "of a denoising one, that smaller than a plain one's; and it has fewer directions",
        "source": "Rifai et al. 2011",
        "statistic": {
            "contractive / denoising": to_denoising,
            "denoising / plain": to_plain,
            "participation ratio": rank,
            "errors apart": apart,
        },
        "threshold": f"contractive <= {CONTRACTED} denoising, denoising <= {DENOISED} plain "
        f"({NORM}); participation ratio of the contractive clearly below the plain one's; errors "
        f"apart <= {CONTRACTED_MATCH}",
        "control": "the plain autoencoder is that of both",
        "also": {
            "weights": weights,
            "ratios of norms of codes as they are": {
                f"{one} / {other}": over_seeds(np.divide(found[RAW][one], found[RAW][other]))
                for one, other in (("contractive", "denoising"), ("denoising", "plain"))
            },
            **{key: {n: over_seeds(v) for n, v in each.items()} for key, each in found.items()},
        },
        "verdict": verdict(
            to_denoising <= CONTRACTED
            and to_plain <= DENOISED
            and apart <= CONTRACTED_MATCH
            and is_clearly_lower(found[RANK]["contractive"], found[RANK]["plain"])
        ),
        "protocol": CONTRACTIVE_PROTOCOL.format(num_steps, seeds[0]),
        "config_sha256": config_sha256(run("contractive", weights["contractive"], seeds[0]).config),
    }


NORM = "mean squared norm of the Jacobian / total variance of codes"
RAW = "mean squared norm of the Jacobian of codes as they are"
RANK, ERROR = "participation ratio", "squared error"
CONTRACTIVE_PROTOCOL = (
    "the first 10,000 training images of MNIST, all 10,000 test images; MLP 784-256-64-256-784, "
    "batches of 100, {} steps of Adam with cosine decay; all have "
    f"{DECODER_L2:g} |W|^2 of the decoder; Jacobians of the mean code, exact, at {POINTS} test "
    "images; codes are divided by the root of their total variance, since smaller codes alone "
    f"would lower the norm; weights were chosen on seed {{}} for {FARTHER:g} of the plain error"
)


def _contractive_runs(
    folder: Path, first: int, num_steps: int
) -> tuple[dict[str, float], Callable[[str, float, int], OpenedRun]]:
    """The weight of every kind, and (kind, weight, seed) -> its run."""
    whole = dataset_from(_mnist("plain", 0.0, 0, num_steps))
    splits: dict[str, Any] = {"train": whole.splits["train"][:10_000]}
    splits["test"] = whole.splits["test"][:]
    dataset = vaejax.Dataset("mnist_10k", splits, whole.scale)

    @cache
    def run(name: str, weight: float, seed: int) -> OpenedRun:
        where = folder / f"{name}_{weight:.4g}_{seed}"
        return trained(_mnist(name, weight, seed, num_steps), where, dataset)

    # Weights are found on the first seed, and are the same for all.
    target = FARTHER * squared_error(run("plain", 0.0, first))
    weights = {"plain": 0.0}
    for name, grid in (("contractive", PENALTIES), ("denoising", NOISES)):
        weights[name] = matching(
            lambda weight, name=name: squared_error(run(name, weight, first)), target, grid, 0.03
        )
    return weights, run


def _mnist(name: str, weight: float, seed: int, num_steps: int) -> ConfigDict:
    """Of the plain, the contractive (weight of the penalty) or the denoising (noise) one."""
    if name == "contractive":
        row = {"weight": weight, "decoder_l2_weight": DECODER_L2}
        config = autoencoder("contractive", seed, num_steps, **row)
    else:
        config = autoencoder("rae_l2", seed, num_steps, beta=0.0, weight=DECODER_L2)
    if name == "denoising":
        config.corruption, config.corruptions.gaussian.scale = "gaussian", weight
    config.dataset, config.latent_dim = "mnist", 64
    config.encoders.mlp.widths = config.decoders.mlp.widths = (256,)
    config.likelihoods.gaussian.output = "sigmoid"
    return config


def _jacobians(run: OpenedRun) -> dict[str, float]:
    """Of the mean code at test images; the participation ratio is of squared singular values."""

    def embed(x: Any) -> Any:
        return nn.apply(VAE.embed, run.model)(run.variables, x[None])[0]

    @jax.jit
    def squares(x: Any) -> Any:
        jacobian = jax.vmap(jax.jacrev(embed))(x).reshape(len(x), run.config.latent_dim, -1)
        return jax.numpy.einsum("bdx,bex->bde", jacobian, jacobian)

    x = images(run, "test", POINTS)
    values = np.linalg.eigvalsh(over_split(lambda rows, _: squares(rows), x, 100))
    values = np.maximum(np.asarray(values, np.float64), 0)
    norms, variance = values.sum(axis=1), codes_of(run, "test").astype(np.float64).var(axis=0).sum()
    return {
        NORM: float(norms.mean() / variance),
        RANK: float((norms**2 / (values**2).sum(axis=1)).mean()),
        ERROR: squared_error(run),
        RAW: float(norms.mean()),
        "total variance of codes": float(variance),
    }


CLAIMS: dict[str, Callable[[Path, range, int], dict[str, Any]]] = {
    "A3": sparse_claim,
    "A5": contractive_claim,
}


if __name__ == "__main__":
    main()
