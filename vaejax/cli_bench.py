"""The part of the command line that measures: flags and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def bench_command(commands: Any) -> None:
    """Add `bench` to the parser's commands."""
    text = "measure the speed of training, and of the same in PyTorch"
    bench = commands.add_parser("bench", help=text, description=text, allow_abbrev=False)
    bench.set_defaults(command=_bench)
    bench.add_argument("--config", required=True, metavar="F", help="as of train")
    bench.add_argument("--against", default="", metavar="PEER", help="torch; default: nothing")
    bench.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")
    bench.add_argument(
        "--steps", type=int, default=0, metavar="N", help="of a round; default: of a second"
    )
    bench.add_argument("--devices", type=int, default=1, metavar="N", help="default: 1")
    bench.add_argument(
        "--replicas", type=int, default=0, metavar="N", help="train N seeds as one program, too"
    )
    bench.add_argument("--no-startup", action="store_true", help="start no process of its own")
    bench.add_argument("--json", type=Path, metavar="FILE", help="all numbers")


def _bench(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.config import load_config, overridden

    config = overridden(load_config(arguments.config), overrides)
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise ValueError(f"no folder {arguments.json.parent} for --json")
    import rich

    from vaejax.benchmark.measure import benchmark
    from vaejax.benchmark.report import table, write_json
    from vaejax.parallel import one_device_per_core

    if arguments.replicas > 0:
        one_device_per_core(arguments.replicas)
    result = benchmark(
        config,
        against=arguments.against,
        rounds=arguments.rounds,
        num_steps=arguments.steps,
        num_devices=arguments.devices,
        num_replicas=arguments.replicas,
        startup=not arguments.no_startup,
    )
    if arguments.json:
        write_json(arguments.json, result)
    rich.print(table(result))
    return 0


def estimated(config: Any, arguments: argparse.Namespace) -> int:
    """Print what a run will cost.  Raises ValueError."""
    from vaejax.benchmark.estimate import cost_estimate, estimate_text
    from vaejax.data.sources import dataset_from
    from vaejax.parallel import usable_devices

    devices = usable_devices(config.batch_size, arguments.devices)
    print(estimate_text(cost_estimate(config, dataset_from(config), devices)))
    return 0
