"""What regularized autoencoders are said to do, measured on the runs of a table: JSON per claim.

    vaejax table --config configs/table_rae.py --workdir runs/table_rae
    .venv/bin/python launch/claims_rae.py runs/table_rae claims/rae

The claims are those of arXiv 1903.12436 (R, A1), 1711.01558 (C5) and 1903.05789 (C7), on MNIST with
small networks.  Thresholds stand here, before any run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import claims
import numpy as np
from claims import is_clearly_lower, over_seeds, verdict
from claims_models import codes_of, distance, mixture, p_value, squared_error

from vaejax.reporting.opened import OpenedRun, opened

MODELS_BETTER = 7  # of 8 models, for which a mixture beats the N column of the paper's table
GAUSSIAN_TO_MIXTURE = 2.0  # at least, FD of the plain autoencoder
RAE_TO_VAE = 0.75  # at most, FD of RAE + mixture over VAE + N(0, I)
RECONSTRUCTION = 0.8  # at most, squared error of RAE-L2 over that of the VAE
IMPLICIT = 1.5  # at most, FD of AE + mixture over the best RAE + mixture
INTERPOLATION = 1.0  # at most, FD of midpoints, RAE-L2 over VAE
AE_ERROR, AE_NOISE = 14.8, 3.0  # A1: squared error at most; FD from N(0, I) over mixture at least
WAE_ERROR, WAE_P, AE_P = 0.85, 0.05, 0.001  # C5: error over VAE's; p-values of two tests
SECOND_STAGE, NEUTRAL = 0.5, (0.8, 1.2)  # C7: FD over that of N(0, I), learned noise; tuned beta
N = {"VAE": "prior", "WAE": "prior"}  # the paper's N column; else a fitted Gaussian
EIGHT = ("VAE", "CV-VAE", "WAE", "RAE-L2", "RAE-GP", "RAE-SN", "RAE", "AE")
MIXTURE, STANDARD = "gmm-10", "standard_normal"


class Table:
    """table.csv, whose means hide the seeds, by way of table.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (part,) = json.loads((folder / "table.json").read_text())["datasets"].values()
        self.rows = {(r["method"], r["prior"], r["source"]): r for r in part["rows"]}

    def values(self, method: str, source: str, column: str = "FD", prior: str = STANDARD) -> Any:
        """One number per seed."""
        return list(self.rows[method, prior, source]["columns"][column]["values"].values())

    def control(self) -> Any:
        """FD of principal components and a mixture, per seed."""
        (row,) = [row for (_, prior, _), row in self.rows.items() if prior == "control"]
        return list(row["columns"]["FD"]["values"].values())

    def runs(self, method: str, prior: str = STANDARD) -> list[OpenedRun]:
        """Of all seeds."""
        return [opened(run["folder"]) for run in self.rows[method, prior, "prior"]["runs"]]

    def rae(self) -> str:
        """The regularized autoencoder whose mixture is best."""
        names = ("RAE-L2", "RAE-GP", "RAE-SN", "RAE")
        return min(names, key=lambda name: np.mean(self.values(name, MIXTURE)))


def ratio(one: Any, other: Any) -> dict[str, Any]:
    """Of two lists of one number per seed."""
    return over_seeds(np.asarray(one) / np.asarray(other))


def r1(table: Table) -> dict[str, Any]:
    """A mixture fitted to the codes beats the prior, or one Gaussian."""
    better, worse, gains = [], [], {}
    for name in EIGHT:
        before, after = table.values(name, N.get(name, "gaussian")), table.values(name, MIXTURE)
        gains[name] = ratio(before, after)
        better += [name] if is_clearly_lower(after, before) else []
        worse += [name] if is_clearly_lower(before, after) else []
    shuffled, gaussian = [], table.values("RAE-L2", "gaussian")
    for run in table.runs("RAE-L2"):
        order = np.random.default_rng(run.seed)
        codes = order.permuted(codes_of(run), axis=0)  # every dimension by itself
        shuffled.append(distance(run, mixture(codes, 10, run.seed)[0]))
    return {
        "claim": "a mixture of 10 beats prior (VAE, WAE) or Gaussian (others)",
        "statistic": {"clearly better": len(better), "clearly worse": len(worse), "ratio": gains},
        "threshold": f"clearly better for {MODELS_BETTER} of 8, clearly worse for none",
        "control": {
            "RAE-L2, mixture of codes shuffled in each dimension": over_seeds(shuffled),
            "Gaussian": over_seeds(gaussian),
        },
        "verdict": verdict(
            len(better) >= MODELS_BETTER and not worse, not is_clearly_lower(shuffled, gaussian)
        ),
    }


def r2(table: Table) -> dict[str, Any]:
    """A plain autoencoder needs the mixture most."""
    prior, gaussian, fitted = (table.values("AE", s) for s in ("prior", "gaussian", MIXTURE))
    both = ratio(gaussian, fitted)
    return {
        "claim": "AE: N(0, I) far above a fitted Gaussian, that far above the mixture",
        "statistic": {"Gaussian / mixture": both, "N(0, I) / Gaussian": ratio(prior, gaussian)},
        "threshold": f"Gaussian / mixture >= {GAUSSIAN_TO_MIXTURE}, N(0, I) clearly worst",
        "control": "none",
        "verdict": verdict(
            both["mean"] >= GAUSSIAN_TO_MIXTURE and is_clearly_lower(gaussian, prior)
        ),
    }


def r3(table: Table) -> dict[str, Any]:
    """The best RAE beats the VAE."""
    best, control = table.values(table.rae(), MIXTURE), table.control()
    both = ratio(best, table.values("VAE", "prior"))
    return {
        "claim": f"best RAE + mixture ({table.rae()}) beats VAE + N(0, I)",
        "statistic": {"ratio": both, "RAE": over_seeds(best)},
        "threshold": f"ratio <= {RAE_TO_VAE}",
        "control": {"PCA + mixture": over_seeds(control)},
        "verdict": verdict(both["mean"] <= RAE_TO_VAE, is_clearly_lower(best, control)),
    }


def r4(table: Table) -> dict[str, Any]:
    """A RAE reconstructs better than a VAE."""
    errors = {name: [squared_error(run) for run in table.runs(name)] for name in ("RAE-L2", "VAE")}
    both = ratio(*errors.values())
    return {
        "claim": "RAE-L2 reconstructs better than the VAE",
        "statistic": {"ratio": both, **{k: over_seeds(v) for k, v in errors.items()}},
        "threshold": f"ratio of squared errors <= {RECONSTRUCTION}",
        "control": "none",
        "verdict": verdict(both["mean"] <= RECONSTRUCTION),
    }


def r5(table: Table) -> dict[str, Any]:
    """What the network does for itself is much."""
    both = ratio(table.values("AE", MIXTURE), table.values(table.rae(), MIXTURE))
    return {
        "claim": f"AE + mixture is near the best RAE + mixture ({table.rae()})",
        "statistic": {"ratio": both},
        "threshold": f"ratio <= {IMPLICIT}",
        "control": "none here; without batch norm: claims_plain.py",
        "verdict": verdict(both["mean"] <= IMPLICIT),
    }


def r6(table: Table) -> dict[str, Any]:
    """A RAE interpolates as well as a VAE."""
    name = "FD (interp.)"
    rae, vae = (table.values(method, "prior", name) for method in ("RAE-L2", "VAE"))
    pixels = table.values("RAE-L2", "prior", "FD (pixel midpoints)")
    both = ratio(rae, vae)
    return {
        "claim": "decoded midpoints of RAE-L2 are at least as good as those of the VAE",
        "statistic": {"ratio": both, "RAE-L2": over_seeds(rae), "VAE": over_seeds(vae)},
        "threshold": f"ratio <= {INTERPOLATION}",
        "control": {"midpoints of pixels": over_seeds(pixels)},
        "verdict": verdict(both["mean"] <= INTERPOLATION, is_clearly_lower(rae, pixels)),
    }


def a1(table: Table) -> dict[str, Any]:
    """A plain autoencoder reconstructs, and knows no prior."""
    error = over_seeds(squared_error(run) for run in table.runs("AE"))
    noise = ratio(table.values("AE", "prior"), table.values("AE", MIXTURE))
    return {
        "claim": "an autoencoder beats principal components, and decodes N(0, I) to nothing",
        "statistic": {"squared error": error, "FD of N(0, I) / of mixture": noise},
        "threshold": f"error <= {AE_ERROR}, 0.7 of 16 components'; ratio >= {AE_NOISE}",
        "control": "none",
        "verdict": verdict(error["mean"] <= AE_ERROR and noise["mean"] >= AE_NOISE),
    }


def c5(table: Table) -> dict[str, Any]:
    """A WAE's codes are N(0, I), and it reconstructs better than a VAE."""
    runs = {name: table.runs(name) for name in ("WAE", "VAE", "AE")}
    error = ratio(*([squared_error(run) for run in runs[name]] for name in ("WAE", "VAE")))
    p = {
        name: [p_value(codes_of(run, "test", 1_000), run.seed) for run in runs[name]]
        for name in ("WAE", "AE")
    }
    return {
        "claim": "WAE: codes like N(0, I), and a lower error than the VAE (d = 16)",
        "statistic": {"error / VAE's": error, "p": over_seeds(p["WAE"])},
        "threshold": f"error ratio <= {WAE_ERROR}; every p >= {WAE_P} (unbiased MMD, 1,000 codes)",
        "control": {"p of AE": over_seeds(p["AE"])},
        "verdict": verdict(
            error["mean"] <= WAE_ERROR and min(p["WAE"]) >= WAE_P, max(p["AE"]) <= AE_P
        ),
    }


def c7(table: Table) -> dict[str, Any]:
    """A second stage helps where the observation noise is learned, and not where beta is tuned."""
    learned, tuned = (
        ratio(table.values(name, "vae"), table.values(name, "prior")) for name in ("2s-VAE", "VAE")
    )
    low, high = NEUTRAL
    return {
        "claim": "a second-stage VAE: FD over that of N(0, I)",
        "statistic": {"learned noise": learned, "beta 0.312": tuned},
        "threshold": f"learned noise <= {SECOND_STAGE}; tuned beta in [{low}, {high}]",
        "control": "the second is the control of the first",
        "verdict": verdict(learned["mean"] <= SECOND_STAGE and low <= tuned["mean"] <= high),
    }


def joint(table: Table) -> dict[str, Any]:
    """A flow trained with the model against one fitted after it."""
    names = [m for m, prior, source in table.rows if (prior, source) == ("decoupled", "prior")]
    both = {
        name: (table.values(name, "prior", prior="decoupled"), table.values(name, "flow"))
        for name in names
    }
    found = {name: ratio(*pair) for name, pair in both.items()}
    better = [name for name, (one, other) in both.items() if is_clearly_lower(one, other)]
    worse = [name for name, (one, other) in both.items() if is_clearly_lower(other, one)]
    return {
        "claim": "a decoupled prior, trained along, beats a flow fitted afterwards",
        "statistic": {"better": len(better), "worse": len(worse), "FD ratio": found},
        "threshold": f"clearly better for all {len(names)}",
        "control": "none",
        "verdict": verdict(len(better) == len(names)),
    }


CLAIMS: dict[str, Callable[[Table], dict[str, Any]]] = {
    "A1": a1, "C5": c5, "C7": c7, "R1": r1, "R2": r2, "R3": r3, "R4": r4, "R5": r5, "R6": r6,
    "joint_flow": joint,
}  # fmt: skip


def main() -> None:
    """Write the claims."""
    parser = argparse.ArgumentParser(description="Claims about regularized autoencoders.")
    parser.add_argument("table", type=Path, help="folder of `vaejax table`")
    parser.add_argument("folder", type=Path, help="where the JSON files go")
    parser.add_argument("--only", nargs="+", default=list(CLAIMS), choices=list(CLAIMS))
    arguments = parser.parse_args()
    table = Table(arguments.table)
    for name in arguments.only:
        claims.write(arguments.folder, name, **CLAIMS[name](table))
    print(claims.table(arguments.folder))


if __name__ == "__main__":
    main()
