"""The part of the command line that says what to draw: flags and nothing else."""

from __future__ import annotations

import argparse
from typing import Any


def figure_flags(command: argparse.ArgumentParser) -> None:
    """Add what `figures` can be told."""
    command.add_argument(
        "--figures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="training, reconstructions, samples, latent (these four by default), pockets, "
        "leakage, random_and_low_posterior, neighbors, traversals, factors, interpolations, "
        "decoupling, coupling, architecture, traversal_gif, or all that fit",
    )
    command.add_argument(
        "--pair", metavar="W2", help="a run on the same data, drawn beside this one"
    )


def figure_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as keywords of `write_figures`."""
    return {"names": arguments.figures, "pair": arguments.pair}
