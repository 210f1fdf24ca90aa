"""Precision and recall of distributions as a curve (PRD, arXiv 1806.00035).

Two sets of features become two histograms over the clusters of both together.  What a share of one
histogram can explain of the other, at every ratio of the shares, is the curve.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_EDGE = 1e-10  # the angle that stands for 0, where the ratio of precision and recall is none


class Curves(NamedTuple):
    """One curve for every clustering of the same features."""

    precision: np.ndarray  # (R, A)
    recall: np.ndarray  # (R, A)


def prd_curve(
    generated: np.ndarray, real: np.ndarray, num_angles: int = 1_001
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of two histograms at every angle (arXiv 1806.00035, eqs. 6-7).

    generated, real: (..., K), probabilities of the same K states -> (..., A) each.  At the angle
    whose tangent is t the precision is t times the recall, and both are as large as they can be.
    """
    slopes = np.tan(np.linspace(_EDGE, np.pi / 2 - _EDGE, num_angles))
    shared = np.minimum(slopes[:, None] * real[..., None, :], generated[..., None, :])
    precision = np.minimum(shared.sum(axis=-1), 1.0)  # rounding
    return precision, np.minimum(precision / slopes, 1.0)


def prd_curves(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    num_clusters: int = 20,
    num_runs: int = 10,
    seed: int = 0,
) -> Curves:
    """Curves of two sets of features, from `num_runs` clusterings by mini-batch k-means.

    generated, real: (N, F), as many of each, since the larger set would attract the clusters.
    Raises ValueError for sets that differ in shape or have fewer vectors than there are clusters.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    if generated.shape != real.shape or real.ndim != 2 or len(real) < num_clusters:
        shapes = f"{generated.shape} and {real.shape}"
        raise ValueError(f"features have shapes {shapes}; both (N, F) with N >= {num_clusters}")
    both = np.concatenate([generated, real]).astype(np.float64)
    histograms = []
    for run in range(num_runs):
        state = int(np.random.SeedSequence([seed, run]).generate_state(1)[0])
        means = MiniBatchKMeans(num_clusters, n_init=10, random_state=state)
        # By one thread: several add up in another order, and wait long for each other where
        # something else runs as well (10 to 20 times as long, measured).
        with threadpool_limits(1):
            labels = means.fit_predict(both).reshape(2, -1)
        histograms.append([np.bincount(part, minlength=num_clusters) for part in labels])
    counts = np.array(histograms) / len(real)
    return Curves(*prd_curve(counts[:, 0], counts[:, 1]))


def largest_f(precision: np.ndarray, recall: np.ndarray, beta: float) -> np.ndarray:
    """The largest F_beta on a curve: its recall for beta = 8, its precision for 1/8.

    precision, recall: (..., A) -> (...), 0 to 1 (arXiv 1806.00035, sec. 3.3).
    """
    weighted = beta**2 * precision + recall
    scores = (1 + beta**2) * precision * recall / np.where(weighted > 0, weighted, 1.0)
    return scores.max(axis=-1)
