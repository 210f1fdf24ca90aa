"""Whether a denoising autoencoder of MNIST beats principal components, as JSON.

    .venv/bin/python launch/claims_denoising.py claims/chains --seeds 3

As `claims_chains.py`, whose parts it uses.  MNIST must be where `vaejax data list` says that it is.
About 8 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from claims_chains import applied, autoencoder, hashes, over_seeds, verdict, write

import vaejax
from vaejax.data.sources import dataset_from

SPREADS_APART = 2.0  # standard deviations over seeds between two errors that differ
MNIST_SIGMA = 0.5
MNIST_RUNS = {"denoising": "gaussian", "plain": "none"}  # name -> corruption


def main() -> None:
    """Write the claim."""
    parser = argparse.ArgumentParser(description="A claim about denoising images.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    claim = mnist_claim(arguments.folder / "runs", arguments.seeds)
    write(arguments.folder / "a4_mnist.json", claim)


def mnist_claim(folder: Path, num_seeds: int) -> dict[str, Any]:
    """A4 (ii): on images, a denoiser that is learned beats a projection on principal components."""
    errors: dict[str, list[float]] = {"denoising": [], "plain": [], "PCA": [], "noisy": []}
    runs = {name: [mnist_run(folder, name, s) for s in range(num_seeds)] for name in MNIST_RUNS}
    data = dataset_from(runs["plain"][0][2])
    for seed in range(num_seeds):
        train, test = (noisy_pairs(data.splits[split], seed) for split in ("train", "test"))
        for name in MNIST_RUNS:
            found = applied(runs[name][seed], test[1].reshape(-1, 28, 28, 1))
            errors[name].append(float(((found.reshape(-1, 784) - test[0]) ** 2).mean()))
        errors["PCA"].append(pca_error(train, test))
        errors["noisy"].append(float(((test[1] - test[0]) ** 2).mean()))
    each = {name: over_seeds(values) for name, values in errors.items()}
    spread = SPREADS_APART * max(each[name]["sd"] or 0.0 for name in ("denoising", "plain", "PCA"))
    holds = each["denoising"]["mean"] + spread < each["PCA"]["mean"]
    return {
        "claim": "a denoising autoencoder removes more noise than the best PCA projection",
        "source": "Vincent et al. 2008; arXiv 1211.4246",
        "statistic": {
            "name": "squared error per pixel of denoised test images",
            **each["denoising"],
        },
        "threshold": {"below the PCA projection, by this many sd": SPREADS_APART, **each["PCA"]},
        "floor": {"error of the noisy images themselves": each["noisy"]},
        "control": {"what": "the same autoencoder trained without noise; worse", **each["plain"]},
        "seeds": num_seeds,
        "verdict": verdict(holds, each["denoising"]["mean"] + spread < each["plain"]["mean"]),
        "protocol": f"MNIST in [0, 1], Gaussian noise of scale {MNIST_SIGMA}, not clipped; MLP "
        "784-512-256-64-256-512-784, 4,000 steps of 200, Adam with cosine decay; PCA of clean "
        "training images, its number of components chosen on corrupted ones; 10,000 test images",
        "config_sha256": hashes(runs["denoising"]),
    }


def mnist_run(folder: Path, name: str, seed: int) -> Any:
    """An autoencoder of MNIST: (model, state, config)."""
    config = autoencoder(seed, MNIST_RUNS[name], MNIST_SIGMA)
    config.dataset, config.latent_dim, config.likelihood = "mnist", 64, "bernoulli"
    config.encoders.mlp.widths, config.decoders.mlp.widths = (512, 256), (256, 512)
    config.batch_size, config.num_steps = 200, 4_000
    return vaejax.fit(config, folder / f"mnist_{name}_{seed}", quiet=True)


def noisy_pairs(rows: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and the same with noise.  -> (N, 784) each."""
    x = np.asarray(rows, np.float32).reshape(len(rows), -1) / 255
    draw = np.random.Generator(np.random.Philox([seed, len(x)]))
    return x, x + MNIST_SIGMA * draw.standard_normal(x.shape, np.float32)


def pca_error(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Squared error per pixel of the projection that is best on the training pairs."""
    mean = train[0].mean(axis=0)
    vectors = np.linalg.eigh(np.cov((train[0] - mean).T))[1][:, ::-1]

    def gains(x: np.ndarray, noisy: np.ndarray) -> np.ndarray:
        """Error with the first k components, k = 0 .. 784, in components: their errors add up."""
        clean, seen = (x - mean) @ vectors, (noisy - mean) @ vectors
        left, wrong = (clean**2).mean(axis=0), ((seen - clean) ** 2).mean(axis=0)
        return (left.sum() + np.concatenate([[0.0], np.cumsum(wrong - left)])) / x.shape[1]

    return float(gains(*test)[gains(*train).argmin()])


if __name__ == "__main__":
    main()
