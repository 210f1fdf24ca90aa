"""The part of the command line that fits densities to codes: flags and nothing else."""

from __future__ import annotations

import argparse
from typing import Any

# Those of the table DENSITIES, which is not imported to print help.
DENSITY_NAMES = ("gaussian", "gmm", "kde", "flow", "maf", "vae")
_EPILOG = """
Any key of the density's config can be overridden, for example
  --config.densities.gmm.num_components=50 --config.codes=mean
"""


def fit_density_command(commands: Any) -> None:
    """Add `fit-density` to the parser's commands."""
    text = "fit a density to the training codes of a run, to sample from"
    fit = commands.add_parser(
        "fit-density",
        help=text,
        description=text,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.set_defaults(command=_fit_density)
    fit.add_argument("--workdir", required=True, metavar="W", help="folder of the run")
    names = f"{', '.join(DENSITY_NAMES[:-1])} or {DENSITY_NAMES[-1]}"
    fit.add_argument("--density", default="", metavar="NAME", help=f"{names} (default: gmm)")
    fit.add_argument(
        "--name", default="", metavar="N", help="what it is called (default: as its density)"
    )
    fit.add_argument("--replace", action="store_true", help="although another one has that name")
    fit.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the latest")
    fit.add_argument("--quiet", action="store_true", help="no progress")


def _fit_density(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.compilation import keep_compiled_programs
    from vaejax.config import overridden
    from vaejax.expost.families import default_density_config, validate_density
    from vaejax.expost.fit import fit_density

    config = overridden(default_density_config(), overrides, validate_density)
    keep_compiled_programs()
    card = fit_density(
        arguments.workdir,
        arguments.density,
        name=arguments.name,
        replace=arguments.replace,
        checkpoint=arguments.checkpoint,
        config=config,
        quiet=arguments.quiet,
        say=print,
    )
    _tell(card, arguments.workdir)
    return 0


def _tell(card: dict[str, Any], workdir: str) -> None:
    """What was fitted, how well, and where it is."""
    counts, found = card["num_codes"], card["log_density"]
    print(f"{card['name']}: {card['density']} of {card['codes']} codes at step {card['step']}")
    notes = {name: value for name, value in card["notes"].items() if name != "selection"}
    if notes:
        print("  " + ", ".join(f"{name} {_text(value)}" for name, value in notes.items()))
    for count, score in card["notes"].get("selection", {}).items():
        print(f"  {count:>4} components: {score:.4f} nats ({card['row']['select']})")
    for part in ("train", "held_out"):
        name = part.replace("_", "-")
        print(f"  log-density of {counts[part]:,} {name} codes: {found[part]:.4f} nats")
    print(f"  {card['seconds']:.1f} s; {workdir}/densities/{card['name']}.npz")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
