"""The command line: flags, one line for bad input, and nothing else.

Heavy imports happen inside the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vaejax.cli_bench import bench_command, estimated
from vaejax.cli_data import data_commands
from vaejax.cli_density import fit_density_command
from vaejax.cli_errors import OneLineParser, refuse_strangers, show_warning, told
from vaejax.cli_evaluate import evaluation_flags, evaluation_options
from vaejax.cli_export import export_flags, exported
from vaejax.cli_figures import figure_flags, figure_options
from vaejax.cli_replay import replay_command
from vaejax.cli_report import report_command
from vaejax.cli_sample import sample_flags, written_samples
from vaejax.cli_table import table_command

_CONFIG_HELP = """
Any key of the config can be overridden, for example
  --config.prior=decoupled --config.regularizer=beta_tc --config.regularizers.beta_tc.beta=6
"""
_PARTS_HELP = "file.py, executed for the parts of your own that it puts into our tables; repeatable"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.  -> exit status.

    0, 1 (diverged), 2 (bad input, or out of memory) or 130 (Ctrl-C).
    """
    for stream in (sys.stdout, sys.stderr):  # a path may hold what they cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments, overrides = _parser().parse_known_args(argv)
    try:
        refuse_strangers(sys.argv[1:] if argv is None else argv, overrides)
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            _execute_parts(arguments)
            return arguments.command(arguments, overrides)
    except KeyboardInterrupt as stop:
        print(_stopped(arguments, *stop.args) if stop.args else "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our lines, as in `vaejax data list | head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        status = told(error, arguments.called)
        if status is None:
            raise
        return status


def _execute_parts(arguments: argparse.Namespace) -> None:
    for path in getattr(arguments, "parts", []):
        from vaejax.config import executed

        executed(path)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="vaejax",
        description="Variational autoencoders with decoupled priors.",
        allow_abbrev=False,
    )
    given: Any = {"title": "commands", "metavar": "COMMAND", "dest": "called"}
    commands = parser.add_subparsers(required=True, **given)

    train = _command(commands, "train", _train, "train a run, or continue it", _CONFIG_HELP)
    _training_flags(train)
    evaluate = _command(commands, "evaluate", _evaluate, "write evaluation.json of a run")
    evaluation_flags(evaluate)
    sample = _command(commands, "sample", _sample, "draw samples: a PNG and an .npz")
    sample_flags(sample)
    figures = _command(commands, "figures", _figures, "draw the figures of a run")
    figure_flags(figures)
    for command in (evaluate, figures):
        command.add_argument(
            "--other-data", action="store_true", help="although the run was trained on other data"
        )

    export = _command(
        commands, "export", _export, "write decoder and sampler for use without vaejax"
    )
    export_flags(export)
    for command in (evaluate, sample, figures, export):
        command.add_argument(
            "--source",
            default="prior",
            metavar="S",
            help="what codes are drawn from: prior (default), or a density of fit-density",
        )
    fit_density_command(commands)
    replay_command(commands)
    report_command(commands)
    for command in commands.choices.values():  # all those that open a run
        command.add_argument("--parts", action="append", default=[], metavar="F", help=_PARTS_HELP)
    table_command(commands)
    bench_command(commands)
    data_commands(commands)
    return parser


def _training_flags(train: argparse.ArgumentParser) -> None:
    train.add_argument("--devices", type=int, metavar="N", help="default: all that fit the batch")
    train.add_argument("--quiet", action="store_true", help="no progress")
    train.add_argument(
        "--stopped-status",
        type=int,
        default=0,
        metavar="N",
        help="exit status after a SIGTERM, for what starts it again by the status; default: 0",
    )
    train.add_argument(
        "--replicas",
        nargs="+",
        default=[],
        metavar="KEY=VALUES",
        help="a run for every combination, as one program: seed=0:8 schedules.KEY=1e-4,1e-3",
    )
    cost = "say what it will cost, and train nothing"
    train.add_argument("--estimate", action="store_true", help=cost)


def _command(
    commands: Any, name: str, function: Callable[..., int], text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    parser.add_argument("--workdir", required=True, metavar="W", help="folder of the run")
    parser.add_argument(
        "--config",
        metavar="F",
        help="file.py or file.py:preset, which is executed, or config.json; default: the run's",
    )
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the latest")
    return parser


def _train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    config = _resolved_config(arguments, overrides)
    if not 0 <= arguments.stopped_status < 128:
        raise ValueError(f"--stopped-status is {arguments.stopped_status}; it must be in [0, 128)")
    if arguments.estimate and arguments.replicas:
        raise ValueError("--estimate is of one run; leave --replicas out")
    if arguments.estimate:
        return estimated(config, arguments)
    if arguments.replicas:
        return _train_replicas(config, arguments)
    from vaejax.training.loop import fit

    _, state, _ = fit(
        config,
        arguments.workdir,
        num_devices=arguments.devices,
        checkpoint=arguments.checkpoint,
        quiet=arguments.quiet,
    )
    step = int(state.step)
    if step < config.num_steps:
        print(_stopped(arguments, step))
        return arguments.stopped_status
    print(f"{arguments.workdir} is complete: {step} steps")
    return 0


def _train_replicas(config: Any, arguments: argparse.Namespace) -> int:
    from vaejax.parallel import one_device_per_core
    from vaejax.training.replicas import fit_replicas, parsed_sweep

    if arguments.checkpoint is not None:
        raise ValueError("--checkpoint goes back in one run; give its folder as --workdir")
    sweep = parsed_sweep(arguments.replicas, config)
    one_device_per_core(math.prod(map(len, sweep.values())))
    given = {"num_devices": arguments.devices, "quiet": arguments.quiet}
    steps = fit_replicas(config, sweep, arguments.workdir, **given)
    for folder in steps:
        print(folder)
    if min(steps.values()) < config.num_steps:
        print(_stopped(arguments, min(steps.values())))
        return arguments.stopped_status
    return 0


def _stopped(arguments: argparse.Namespace, step: int) -> str:
    same = "the same command" + (" without --checkpoint" if arguments.checkpoint else "")
    return f"stopped and saved at step {step}; {same} goes on"


def _evaluate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    config, data = _run_config(arguments, overrides, arguments.other_data)
    from vaejax.compilation import keep_compiled_programs
    from vaejax.evaluation.evaluate import evaluate
    from vaejax.reporting.summary import summary

    keep_compiled_programs()
    seconds: dict[str, float] = {}
    result = evaluate(
        arguments.workdir,
        data(),
        **evaluation_options(arguments),
        source=arguments.source,
        checkpoint=arguments.checkpoint,
        other_data=arguments.other_data,
        quiet=False,
        seconds=seconds,
    )
    print(summary(result, config, arguments.workdir))
    print("\ntook " + ", ".join(f"{name} {each:.1f} s" for name, each in seconds.items()))
    return 0


def _sample(arguments: argparse.Namespace, overrides: list[str]) -> int:
    _, data = _run_config(arguments, overrides)
    for path in written_samples(arguments, data):
        print(path)
    return 0


def _figures(arguments: argparse.Namespace, overrides: list[str]) -> int:
    _, data = _run_config(arguments, overrides, arguments.other_data)
    from vaejax.compilation import keep_compiled_programs
    from vaejax.reporting.run import write_figures

    keep_compiled_programs()
    given = {"checkpoint": arguments.checkpoint, "other_data": arguments.other_data}
    given["source"] = arguments.source
    for path in write_figures(arguments.workdir, data(), **figure_options(arguments), **given):
        print(path)
    return 0


def _export(arguments: argparse.Namespace, overrides: list[str]) -> int:
    _run_config(arguments, overrides)
    return exported(arguments)


def _resolved_config(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """The config of --config, else of the run, with the overrides applied and validated."""
    from vaejax.config import load_config, overridden, saved_config

    if arguments.config is None:
        config = saved_config(Path(arguments.workdir))
    else:
        config = load_config(arguments.config)
    return overridden(config, overrides)


def _run_config(
    arguments: argparse.Namespace, overrides: list[str], other_data: bool = False
) -> tuple[Any, Callable[[], Any]]:
    """The config of the run, which --config and overrides, where given, must agree with.

    And a function that gives the data that they name, which may have moved or be others: None where
    nothing is given.
    """
    from vaejax.config import check_same_config, saved_config

    workdir = Path(arguments.workdir)
    if arguments.config is None and not overrides:
        return saved_config(workdir), lambda: None
    given = _resolved_config(arguments, overrides)
    check_same_config(workdir, given, other_data)
    return saved_config(workdir), lambda: _dataset(given)


def _dataset(config: Any) -> Any:
    from vaejax.data.sources import dataset_from

    config = config.copy_and_resolve_references()
    config.data_sha256 = ""  # compared with that of the run
    return dataset_from(config)
