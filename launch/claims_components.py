"""How many components a mixture of codes should have, and whether it remembers: JSON per claim.

    .venv/bin/python launch/claims_components.py claims/rae runs/table_rae/mnist/RAE-L2-*/seed=*

R-7 (arXiv 1903.12436), of any trained runs of images, which are only read.  Thresholds stand here,
before any run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import claims
import numpy as np
from claims import is_clearly_lower, over_seeds, verdict
from claims_models import codes_of, decoded, distance, images, mixture

from vaejax.config import config_sha256
from vaejax.evaluation.comparison import as_stored, some
from vaejax.evaluation.neighbors import QUANTILE, nearest_training
from vaejax.reporting.opened import OpenedRun, opened

SIZES = (1, 10, 50, 200)  # components
FLAT = 0.2  # at most: the fall of FD from 50 to 200, in that from 1 to 50
NEAR = 0.9  # at least: distance of samples to training images, in that of decoded held-out codes
HELD_OUT, DECODED = "held-out images", "held-out codes"
SAMPLES = 1_000  # of a set whose nearest training images are found


def main() -> None:
    """Write the claims."""
    parser = argparse.ArgumentParser(description="Claims about mixtures of codes.")
    parser.add_argument("folder", type=Path, help="where the JSON files go")
    parser.add_argument("runs", type=Path, nargs="+", help="one for each seed")
    arguments = parser.parse_args()
    runs = [opened(folder) for folder in arguments.runs]
    measured = [_measured(run) for run in runs]
    shared = {
        "source": "arXiv 1903.12436",
        "seeds": len(runs),
        "config_sha256": [config_sha256(run.config) for run in runs],
        "protocol": f"{runs[0].config.regularizer} on {runs[0].dataset.name}; a mixture of full "
        "covariances by EM, fitted to the codes of 9/10 of the training images; FD of 10,000 "
        "draws in features of a classifier",
    }
    for name, claim in (("distance", fall), ("density", optimum), ("memory", memory)):
        claims.write(arguments.folder, f"R7_{name}", **claim(measured), **shared)


def _measured(run: OpenedRun) -> dict[str, Any]:
    """Of one run: FD, log-densities and distances to training images, by what is drawn."""
    codes, found = codes_of(run), {"FD": {}, "held out": {}, "fitted to": {}}
    drawn = {}
    for size in SIZES:
        z, report = mixture(codes, size, run.seed)
        drawn[f"mixture of {size}"] = z
        found["FD"][size] = distance(run, z)
        found["held out"][size] = report["log_density"]["held_out"]
        found["fitted to"][size] = report["log_density"]["train"]
        print(run.workdir, size, found, round(report["seconds"]), flush=True)
    random = np.random.default_rng(run.seed)
    shuffled = random.permuted(codes, axis=0)  # every dimension by itself
    found["FD"]["10, of shuffled codes"] = distance(run, mixture(shuffled, 10, run.seed)[0])
    drawn["training codes"] = codes[random.permutation(len(codes))[: len(z)]]
    drawn[DECODED] = codes_of(run, "test")
    sets = {name: decoded(run, z[:SAMPLES]) for name, z in drawn.items()}
    test = images(run, "test")
    sets[HELD_OUT] = test[some(len(test), SAMPLES)]
    found["FD"]["training codes"] = distance(run, drawn["training codes"])
    found["nearest"] = {
        name: nearest_training(as_stored(x), run.dataset, run.transform).distance[:, 0]
        for name, x in sets.items()
    }
    return found


def _over_runs(measured: list[dict[str, Any]], what: str) -> dict[str, Any]:
    names = measured[0][what]
    return {str(name): over_seeds(one[what][name] for one in measured) for name in names}


def fall(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """FD falls with the number of components, then flattens."""
    one, ten, fifty, most = ([each["FD"][size] for each in measured] for size in SIZES)
    shuffled = [each["FD"]["10, of shuffled codes"] for each in measured]
    before, after = np.mean(one) - np.mean(fifty), np.mean(fifty) - np.mean(most)
    holds = is_clearly_lower(ten, one) and not is_clearly_lower(ten, fifty)
    return {
        "claim": "FD of a mixture falls with its components, then flattens",
        "statistic": {**_over_runs(measured, "FD"), "fall after 50 / before": after / before},
        "threshold": f"10 clearly below 1; 50 not clearly above 10; fall from 50 to {SIZES[-1]} "
        f"<= {FLAT} of that from 1 to 50",
        "control": {"10 components of shuffled codes, not clearly below 1": over_seeds(shuffled)},
        "verdict": verdict(
            bool(holds and after <= FLAT * before), not is_clearly_lower(shuffled, one)
        ),
    }


def optimum(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """More components than the codes can bear make held-out codes less likely."""
    held, fitted = (_over_runs(measured, what) for what in ("held out", "fitted to"))
    best, control = (
        [max(SIZES, key=lambda size: each[what][size]) for each in measured]
        for what in ("held out", "fitted to")
    )
    return {
        "claim": "the log-density of held-out codes is highest for a number in between",
        "statistic": {**held, "best": best},
        "threshold": f"the best of {SIZES} is neither the first nor the last, in every run",
        "control": {"of the codes it was fitted to; the last is best": fitted},
        "verdict": verdict(
            all(each in SIZES[1:-1] for each in best), not all(e in SIZES[1:-1] for e in control)
        ),
    }


def memory(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples are no nearer to training images than held-out ones, as blurred; copies are."""
    means = {
        name: [float(each["nearest"][name].mean()) for each in measured]
        for name in measured[0]["nearest"]
    }
    ratios = {name: np.divide(each, means[DECODED]) for name, each in means.items()}
    samples = {name: over_seeds(ratios[name]) for name in ratios if name.startswith("mixture")}
    copies = over_seeds(ratios["training codes"])
    return {
        "claim": "draws of a mixture are as far from training images as held-out data",
        "statistic": samples,
        "threshold": f"mean distance to the nearest training image >= {NEAR} of that of decoded "
        "held-out codes, which are as blurred",
        "control": {"training codes themselves; must be nearer": copies},
        "also": {
            "distances (RMSE)": {name: over_seeds(each) for name, each in means.items()},
            **{
                f"share within the nearest {QUANTILE:g} of {what}": {
                    name: over_seeds(_near(each["nearest"], name, of) for each in measured)
                    for name in means
                }
                for what, of in ((HELD_OUT, HELD_OUT), (f"decoded {DECODED}", DECODED))
            },
        },
        "verdict": verdict(
            all(each["mean"] >= NEAR for each in samples.values()), copies["mean"] < NEAR
        ),
    }


def _near(nearest: dict[str, np.ndarray], name: str, of: str) -> float:
    """The share of a set that is as near as the nearest of another."""
    return float((nearest[name] <= np.quantile(nearest[of], QUANTILE)).mean())


if __name__ == "__main__":
    main()
