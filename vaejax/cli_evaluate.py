"""The part of the command line that says what to evaluate: flags and nothing else."""

from __future__ import annotations

import argparse
from typing import Any

# Those of the table METRICS, which is not imported to print help.
METRIC_NAMES = ("symmetric_kl", "information", "leakage", "frechet", "kernel_distance")
METRIC_NAMES += ("precision_recall", "prd", "approximate_elbo", "nearest_neighbors", "few_labels")
# Those of `Protocol`.
SET_NAMES = ("random", "low_posterior", "reconstructions", "interpolations", "pixel_midpoints")
SET_NAMES += ("low_posterior_data", "pca_mixture", "floor")


def evaluation_flags(command: argparse.ArgumentParser) -> None:
    """Add what `evaluate` can be told."""
    command.add_argument(
        "--split", default="test", help="train, validation or test (default: test)"
    )
    command.add_argument(
        "--importance-samples",
        type=int,
        default=1000,
        metavar="S",
        help="draws per example of the importance-weighted bound (default: 1000; 0: none; "
        "21000 in arXiv 1911.10506)",
    )
    command.add_argument(
        "--importance-examples",
        type=int,
        default=500,
        metavar="N",
        help="examples that the bound is taken of, at most (default: 500)",
    )
    command.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"also {', '.join(METRIC_NAMES)}, or all of these",
    )
    _comparison_flags(command)
    command.add_argument(
        "--thresholds",
        nargs="+",
        type=float,
        default=[],
        metavar="T",
        help="of leakage, log p0 in nats (default: by --quantiles)",
    )
    command.add_argument(
        "--quantiles",
        nargs="+",
        type=float,
        metavar="M",
        help="the prior's own mass beyond a threshold of leakage (default: 0.001 0.01 0.1)",
    )


def _comparison_flags(command: argparse.ArgumentParser) -> None:
    """Add what the metrics that compare samples with data can be told."""
    command.add_argument(
        "--sets",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"what these metrics compare with data: {', '.join(SET_NAMES)} (default: all)",
    )
    command.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="images of each set that these metrics compare (default: 20000)",
    )
    command.add_argument(
        "--inception",
        metavar="FILE",
        help="compare images in the features of the FID's Inception-v3, by this file of weights",
    )


def evaluation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as keywords of `evaluate`.  Raises ValueError."""
    from vaejax.evaluation.protocol import Counts, Protocol

    quantiles = arguments.quantiles
    if quantiles is not None and arguments.thresholds:
        raise ValueError("--thresholds and --quantiles say the same; one of them is enough")
    if arguments.sets and not arguments.metrics:
        raise ValueError("--sets says what metrics compare; name those with --metrics")
    return {
        "split": arguments.split,
        "importance_samples": arguments.importance_samples,
        "importance_examples": arguments.importance_examples,
        "thresholds": arguments.thresholds,
        "quantiles": Protocol.quantiles if quantiles is None else quantiles,
        "inception": arguments.inception,
        "metrics": arguments.metrics,
        "sets": arguments.sets,
        "counts": Counts() if arguments.samples is None else Counts(images=arguments.samples),
    }
