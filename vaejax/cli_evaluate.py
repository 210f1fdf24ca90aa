"""The part of the command line that says what to evaluate: flags and nothing else."""

from __future__ import annotations

import argparse
from typing import Any


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
        help="draws per example of the importance-weighted bound (default: 1000; 0: none)",
    )
    command.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also symmetric_kl, information, leakage, frechet, kernel_distance, "
        "precision_recall, or all of these",
    )
    command.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="images of each set that these metrics compare (default: 20000)",
    )


def evaluation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as keywords of `evaluate`.  Raises ValueError."""
    from vaejax.evaluation.metrics import METRICS
    from vaejax.evaluation.subject import Counts

    return {
        "split": arguments.split,
        "importance_samples": arguments.importance_samples,
        "metrics": list(METRICS) if arguments.metrics == ["all"] else arguments.metrics,
        "counts": Counts() if arguments.samples is None else Counts(images=arguments.samples),
    }
