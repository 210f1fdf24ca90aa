"""The part of the command line that says what to sample: flags and nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OF_CHAINS = ("steps", "start", "denoised", "chain_options")


def sample_flags(command: argparse.ArgumentParser) -> None:
    """Add what `sample` can be told."""
    command.add_argument("--num", type=int, default=64, metavar="N", help="default: 64")
    command.add_argument("--seed", type=int, default=0, help="default: 0")
    command.add_argument(
        "--chain",
        metavar="NAME",
        help="denoising, contractive or langevin: the last states of N Markov chains and a picture "
        "of the way there; default: draws of the prior",
    )
    command.add_argument("--steps", type=int, metavar="T", help="of a chain (default: 200)")
    command.add_argument("--start", metavar="NAME", help="of a chain: noise (default) or data")
    command.add_argument(
        "--denoised",
        action="store_true",
        default=None,
        help="show what the model makes of the states of a chain, not the states",
    )
    command.add_argument(
        "--chain-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="denoising: draw=true (false: means of p(x|z)); contractive: scale=1 of the noise on "
        "codes; langevin: step_size=0.1, in squares of the noise trained with",
    )


def written_samples(arguments: argparse.Namespace, data: Callable[[], Any]) -> list[Path]:
    """Write what the flags say.  -> the paths written.  Raises ValueError."""
    given = {name: getattr(arguments, name) for name in _OF_CHAINS}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.chain is None and given:
        flag = f"--{next(iter(given)).replace('_', '-')}"
        raise ValueError(f"{flag} is of Markov chains; give their kernel as --chain, too")
    if arguments.chain is not None and arguments.source != "prior":
        raise ValueError("a chain draws no codes from a density; leave --source out")
    options = parsed_options(given.pop("chain_options", []))
    from vaejax.compilation import keep_compiled_programs

    keep_compiled_programs()
    what: Any = (arguments.workdir, arguments.num, arguments.seed)
    if arguments.chain is None:
        from vaejax.reporting.run import write_samples

        given = {"source": arguments.source, "checkpoint": arguments.checkpoint}
        return write_samples(*what, **given)
    from vaejax.reporting.chains import write_chains

    if "steps" in given:
        given["num_steps"] = given.pop("steps")
    of_run: dict[str, Any] = {"dataset": data(), "checkpoint": arguments.checkpoint}
    return write_chains(*what, chain=arguments.chain, options=options, **given, **of_run)


def parsed_options(texts: list[str]) -> dict[str, bool | float]:
    """`key=value` as options of a kernel.  Raises ValueError for what is none, and one twice."""
    options: dict[str, bool | float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            parsed = value == "true" if value in ("true", "false") else float(value)
        except ValueError:
            equals = parsed = ""
        if not equals or parsed == "" or name in options:
            raise ValueError(
                f"--chain-options has {text!r}; it takes KEY=NUMBER, KEY=true or KEY=false, "
                "each key once"
            )
        options[name] = parsed
    return options
