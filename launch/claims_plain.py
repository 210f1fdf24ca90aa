"""What batch norm and width do for a plain autoencoder of MNIST: a number beside R-5, no threshold.

    .venv/bin/python launch/claims_plain.py claims/rae --table runs/table_rae --seeds 3

The network and steps are those of `configs/table_rae.py`, changed as `VARIANTS` says.  With
`--table`, the one with batch norm is read from there, else it is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import claims
from claims import over_seeds
from claims_models import codes_of, distance, mixture, replicas, squared_error
from ml_collections import ConfigDict

from vaejax.config import config_sha256
from vaejax.reporting.opened import OpenedRun, opened
from vaejax.tables.plan import cells_of, load_table

CONFIGS = Path(__file__).parents[1] / "configs"
METHOD, BATCH_NORM, COMPONENTS = "AE", "batch norm", 10
# Name -> what is changed of the table's autoencoder.
VARIANTS: dict[str, dict[str, Any]] = {
    BATCH_NORM: {},
    "no batch norm": {"batch_norm": False},
    "no batch norm, wide": {"batch_norm": False},
}


def main() -> None:
    """Write the numbers."""
    parser = argparse.ArgumentParser(description="A plain autoencoder without batch norm.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, help="folder of `vaejax table`, which is only read")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="other than those of the table")
    parser.add_argument("--wide", type=int, default=4_096, help="units of the hidden layer")
    parser.add_argument("--wide-seeds", type=int, default=1)
    parser.add_argument("--wide-steps", type=int, default=2_000)
    arguments = parser.parse_args()
    found, facts = {}, {}
    for name in VARIANTS:
        runs = _runs(name, arguments)
        found[name] = _measured(runs)
        steps = {"seeds": len(runs), "steps": runs[0].config.num_steps}
        facts[name] = steps | {"config_sha256": [config_sha256(run.config) for run in runs]}
        print(name, found[name], flush=True)
    ratios = {name: each["FD"]["mean"] / found[BATCH_NORM]["FD"]["mean"]
              for name, each in found.items()}  # fmt: skip
    claims.write(
        arguments.folder,
        "R5_control",
        claim="a plain autoencoder without batch norm, and with one wide layer, beside R-5's",
        source="arXiv 1903.12436",
        statistic=found,
        threshold="none: reported, not gated",
        control="none",
        also={"FD over that with batch norm": ratios, "runs": facts},
        verdict="reported",
        seeds=arguments.seeds,
        protocol=f"MNIST, as configs/table_rae.py but for what the names say; wide: one hidden "
        f"layer of {arguments.wide} on both sides, {arguments.wide_steps} steps; FD of 10,000 "
        f"draws of a mixture of {COMPONENTS} fitted to training codes, in features of a "
        "classifier; squared error on test images",
    )


def _runs(name: str, arguments: argparse.Namespace) -> list[OpenedRun]:
    """Of all seeds."""
    seeds = range(arguments.wide_seeds if "wide" in name else arguments.seeds)
    if name == BATCH_NORM and arguments.table is not None:
        cell = arguments.table / "mnist" / f"{METHOD}-standard_normal"
        return [opened(cell / f"seed={seed}") for seed in seeds]
    config = _config(name, arguments)
    folder = arguments.folder / "runs" / f"plain {name}".replace(", ", " ").replace(" ", "_")
    return replicas(config, {"seed": list(seeds)}, folder)


def _config(name: str, arguments: argparse.Namespace) -> ConfigDict:
    """The table's autoencoder, changed."""
    table = load_table(str(CONFIGS / "table_rae.py"))
    cells = cells_of(table, Path(), CONFIGS)
    (cell,) = [one for one in cells if (one.method, one.prior) == (METHOD, "standard_normal")]
    config = cell.config.copy_and_resolve_references().unlock()
    steps = arguments.wide_steps if "wide" in name else arguments.steps
    config.num_steps = steps or config.num_steps
    for trunk in (config.encoders.mlp, config.decoders.mlp):
        trunk.update(VARIANTS[name])
        if "wide" in name:
            trunk.widths = (arguments.wide,)
    return config


def _measured(runs: list[OpenedRun]) -> dict[str, Any]:
    """FD of a mixture and of N(0, I), and the error, over seeds."""
    draws = [mixture(codes_of(run), COMPONENTS, run.seed)[0] for run in runs]
    return {
        "FD": over_seeds(distance(run, z) for run, z in zip(runs, draws, strict=True)),
        "squared error": over_seeds(squared_error(run) for run in runs),
    }


if __name__ == "__main__":
    main()
