"""What a denoising autoencoder of MNIST is good for, measured: one JSON for each claim.

    .venv/bin/python launch/claims_images.py claims/chains --seeds 3

A2 (few labels) and A6 (chains of images), both of the runs of `claims_denoising.py`, which are
trained unless they are in `runs/` of the folder.  Thresholds and protocols stand here, before any
run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import claims
import jax
import numpy as np
from claims import is_clearly_lower, over_seeds, verdict
from claims_denoising import mnist_run
from claims_models import decoded, distance_of, images
from flax import linen as nn

from vaejax.config import config_sha256
from vaejax.evaluation.chains import Noise, markov_paths, noise_of, reconstructed
from vaejax.evaluation.comparison import as_stored
from vaejax.evaluation.fine_tuning import few_labels
from vaejax.evaluation.mixing import mode_changes
from vaejax.evaluation.protocol import Protocol
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.training.validation import over_split

OVER_PIXELS, OVER_RANDOM = 0.08, 0.05  # A2: gains in accuracy, at least, with 100 labels
CHANGES = 2.0  # A6: of the label in 100 steps, at least

STEPS, CHAINS = 200, 4_000  # A6: whose last states are compared with data
LABELED, BURN_IN, AFTER = 500, 100, 100  # A6: chains whose labels are followed, and when
TINY = 0.05  # A6: noise of the control, without draws of pixels, which are noise themselves
TRAINED = "MLP 784-512-256-64-256-512-784, 4,000 steps of 200, Gaussian noise 0.5 on its input"
KERNEL = "denoising"


def main() -> None:
    """Write the claims."""
    parser = argparse.ArgumentParser(description="Claims about denoising autoencoders of images.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chains", type=int, default=CHAINS, help="fewer to try; at least 2,048")
    parser.add_argument("--only", nargs="+", default=list(CLAIMS), choices=list(CLAIMS))
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.seeds):
        mnist_run(arguments.folder / "runs", "denoising", seed)
        runs.append(opened(arguments.folder / "runs" / f"mnist_denoising_{seed}"))
    shared = {"seeds": len(runs), "config_sha256": [config_sha256(run.config) for run in runs]}
    for name in arguments.only:
        claims.write(arguments.folder, name, **CLAIMS[name](runs, arguments.chains), **shared)


def few_labels_claim(runs: list[OpenedRun], num_chains: int) -> dict[str, Any]:
    """A2: an encoder that saw no label makes 100 labels go farther."""
    rows = [few_labels(run.subject(Protocol())) for run in runs]
    accuracies: dict[str, list[float]] = {
        name: [each[f"accuracy[{name}, 100 labels]"]["value"] for each in rows]
        for name in ("fine-tuned", "random start", "pixels")
    }
    found = {name: over_seeds(values) for name, values in accuracies.items()}
    tuned, random, pixels = (each["mean"] for each in found.values())
    return {
        "claim": "with 100 labels, a pre-trained encoder beats pixels and the same network from a "
        "random start",
        "source": "Vincent et al. 2010",
        "statistic": found,
        "threshold": f"fine-tuned >= pixels + {OVER_PIXELS} and >= random start + {OVER_RANDOM}",
        "control": {"random start over pixels; must be less than that": random - pixels},
        "also": {"draws": [{k: row.get("draws") for k, row in each.items()} for each in rows]},
        "verdict": verdict(
            tuned >= pixels + OVER_PIXELS and tuned >= random + OVER_RANDOM,
            random < pixels + OVER_PIXELS,
        ),
        "protocol": f"MNIST, {TRAINED}, all training images without labels; per seed the mean "
        "over 3 draws of 100 labels; accuracy on 10,000 test images; nothing was chosen by it",
    }


def chains_claim(runs: list[OpenedRun], num_chains: int) -> dict[str, Any]:
    """A6 on images: chains lead from noise to digits, and from one digit to others."""
    labels = Labels(runs[0])
    chain, once, codes = (
        [distance_of(run, x) for run, x in zip(runs, sets, strict=True)]
        for sets in zip(*(_from_noise(run, num_chains) for run in runs), strict=True)
    )
    followed = [_label_paths(run, noise_of(run.config), labels) for run in runs]
    changes = over_seeds(_changes(each) for each in followed)
    means = [_label_paths(run, noise_of(run.config), labels, draw=False) for run in runs]
    tiny = []
    for run in runs:
        config = run.config.copy_and_resolve_references().unlock()
        config.corruptions.gaussian.scale = TINY
        tiny.append(_label_paths(run, noise_of(config), labels, draw=False))
    control = over_seeds(_changes(each) for each in tiny)
    holds = is_clearly_lower(chain, once) and is_clearly_lower(chain, codes)
    return {
        "claim": "denoising chains from noise end nearer to data than noise that is decoded at "
        "once, and go from digit to digit",
        "source": "arXiv 1305.6663",
        "statistic": {"FD": over_seeds(chain), "label changes per 100 steps": changes},
        "threshold": {
            "FD": "clearly below both of these",
            "of the noise that chains start from, reconstructed once": over_seeds(once),
            "of decoded N(0, I)": over_seeds(codes),
            "label changes per 100 steps": f">= {CHANGES}",
        },
        "control": {f"label changes per 100 steps with noise {TINY} and no draws": control},
        "also": {
            "share of the most frequent label": over_seeds(
                np.bincount(each[:, -1], minlength=10).max() / len(each) for each in followed
            ),
            "labels that a chain visits": over_seeds(
                np.mean([len(np.unique(one)) for one in each]) for each in followed
            ),
            "label changes without draws": over_seeds(_changes(each) for each in means),
            "accuracy of the labels on test images": labels.accuracy,
        },
        "verdict": verdict(holds and changes["mean"] >= CHANGES, control["mean"] < CHANGES),
        "protocol": f"MNIST, {TRAINED}; {num_chains} chains from uniform noise, {STEPS} steps of "
        "corruption and a draw of p(x|z), the mean of the last one; FD in features of a "
        f"classifier; labels of {LABELED} chains by logistic regression on these features, of "
        f"states reconstructed once, in steps {BURN_IN + 1} to {BURN_IN + AFTER}",
    }


def _from_noise(run: OpenedRun, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Last states of chains, where they began decoded once, and decoded N(0, I).  (C, *X) each."""
    start = _noise_images(run, count)
    given: Any = {"kernel": KERNEL, "noise": noise_of(run.config)}
    paths = markov_paths(
        run.model, run.variables, key=jax.random.key(run.seed), start=start,
        num_steps=STEPS - 1, burn_in=STEPS - 2, **given,
    )  # fmt: skip
    last = markov_paths(
        run.model, run.variables, key=jax.random.key(1_000 + run.seed), start=paths[:, -1],
        num_steps=1, options={"draw": False}, **given,
    )  # fmt: skip
    codes = np.random.Generator(np.random.Philox([run.seed, 1]))
    z = codes.standard_normal((count, run.config.latent_dim), np.float32)
    return last[:, -1], _reconstructed(run, start), decoded(run, z)


def _noise_images(run: OpenedRun, count: int) -> np.ndarray:
    """Uniform, where chains begin.  -> (count, *X)."""
    draw = np.random.Generator(np.random.Philox([run.seed, 0]))
    return draw.random((count, *run.dataset.x_shape), np.float32)


def _reconstructed(run: OpenedRun, x: np.ndarray) -> np.ndarray:
    """r(x).  (N, *X) -> (N, *X)."""
    function = jax.jit(nn.apply(reconstructed, run.model))
    return over_split(lambda rows, _: function(run.variables, rows), x, 1_000)


class Labels:
    """Images to labels, by logistic regression on the features that the table compares in."""

    def __init__(self, run: OpenedRun) -> None:
        from sklearn.linear_model import LogisticRegression

        self.features_of = run.subject().comparison.features_of
        known = run.dataset.labels
        self.model = LogisticRegression(max_iter=2_000)
        self.model.fit(self._features(images(run, "train", 10_000)), known["train"][:10_000])
        found = self(images(run, "test"))
        self.accuracy = float((found == known["test"]).mean())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, *X) -> (N,)."""
        return self.model.predict(self._features(x))

    def _features(self, x: np.ndarray) -> np.ndarray:
        return over_split(lambda rows, _: self.features_of(rows), as_stored(x), 500)


def _label_paths(run: OpenedRun, noise: Noise, labels: Labels, draw: bool = True) -> np.ndarray:
    """What chains are taken for, in every step that is followed.  -> (C, T)."""
    paths = markov_paths(
        run.model, run.variables, key=jax.random.key(2_000 + run.seed),
        start=_noise_images(run, LABELED), num_steps=BURN_IN + AFTER, burn_in=BURN_IN,
        kernel=KERNEL, noise=noise, options={"draw": draw},
    )  # fmt: skip
    seen = _reconstructed(run, paths.reshape(-1, *paths.shape[2:]))
    return labels(seen).reshape(paths.shape[:2])


def _changes(paths: np.ndarray) -> float:
    """Of the label in 100 steps.  (C, T) -> ()."""
    return float(mode_changes(paths).mean() * 100 / (paths.shape[1] - 1))


CLAIMS: dict[str, Callable[[list[OpenedRun], int], dict[str, Any]]] = {
    "A2": few_labels_claim,
    "A6_images": chains_claim,
}


if __name__ == "__main__":
    main()
