"""`vaejax train` as one of several processes, which train one model on all of their devices.

    python launch/distributed.py --coordinator HOST:PORT --processes N --process I train ...

Every process is started with the same arguments but its own --process, from 0 on; SLURM, Open MPI
and Cloud TPU tell JAX all three.  Process 0, which must be reachable at HOST:PORT, writes the run.
Exit status: that of `vaejax train`; 134 (aborted) where another process was lost or failed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, TextIO

_LOST = "was lost or failed, so this one ends too"
_GOES_ON = "the same command on all goes on from the last checkpoint"
# What JAX's runtime, in C++, says when it ends a process because of another one, and a stack.
_ENDING = re.compile(r"^[EF]\d{4} .*(coordination_service\w*\.cc|distributed service detected)")
_COMMUNICATION = ("gloo", "nccl", "connection", "unavailable", "deadline", "heartbeat", "barrier")


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status, after all processes that are left have come to their ends."""
    options = _options(argv)
    _shorten_last_words()
    import jax

    from vaejax.cli import main as vaejax

    # Training handles signals, so that all processes stop after the same step; JAX's own handler
    # would tell only those who ask it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            cluster_detection_method="deactivate" if options.coordinator else None,
            heartbeat_timeout_seconds=options.patience,
            shutdown_timeout_seconds=options.patience,
        )
    except ValueError as error:
        given = "no cluster that JAX knows; give --coordinator, --processes and --process"
        _refuse(f"{given} ({' '.join(str(error).split())[:160]})")
    arguments = [*options.arguments]
    if jax.process_index() > 0:
        arguments.append("--quiet")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        status = vaejax(arguments)
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
        if not any(word in str(error).lower() for word in _COMMUNICATION):
            raise
        reason = re.sub(r"\s*\[[^\]]*\]", "", " ".join(str(error).split()))[:160]
        _say(f"another process {_LOST}; {_GOES_ON} ({reason})")
        return 134
    return status


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    summary, usage, rest = (__doc__ or "").split("\n\n", 2)
    parser = _Parser(
        usage=usage.strip(),
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process", type=int, metavar="I", help="which one this is")
    help_ = "seconds without a sign of life after which a process is lost (default: 30)"
    parser.add_argument("--patience", type=int, default=30, metavar="S", help=help_)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="train ...")
    options = parser.parse_args(argv)
    place = options.coordinator, options.processes, options.process
    given = [value is not None for value in place]
    if any(given) != all(given):
        _refuse("--coordinator, --processes and --process go together, or none of them is given")
    if all(given) and options.processes < 1:
        _refuse(f"--processes is {options.processes}; it must be positive")
    if all(given) and not 0 <= options.process < options.processes:
        _refuse(f"--process is {options.process}; it must be from 0 to {options.processes - 1}")
    if all(given) and not re.fullmatch(r".+:\d+", options.coordinator):
        _refuse(f"--coordinator is {options.coordinator!r}, not HOST:PORT")
    if all(given):
        _check_port(int(options.coordinator.rpartition(":")[2]), listens=options.process == 0)
    if options.patience < 1:
        _refuse(f"--patience is {options.patience}; it must be positive")
    if options.arguments[:1] != ["train"]:
        _refuse(f"{' '.join(options.arguments[:1]) or 'nothing'} is not train, the one command")
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse(message)


def _check_port(port: int, listens: bool) -> None:
    """Refuse one that JAX would wait for without end, or end at without a word."""
    if not 0 < port < 2**16:
        _refuse(f"--coordinator has port {port}; it must be from 1 to {2**16 - 1}")
    if listens:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            _refuse(f"process 0 cannot listen at port {port} ({error.strerror}); take another")


def _refuse(reason: str) -> NoReturn:
    _say(f"{reason}; see --help")
    sys.exit(2)


def _say(text: str, file: TextIO | None = None) -> None:
    print(f"distributed: error: {text}", file=file or sys.stderr, flush=True)


def _shorten_last_words() -> None:
    """Let what JAX's runtime prints when it aborts this process be one line.

    A small process of its own passes on what this one writes to standard error, to its end.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with open(reader, errors="replace") as lines:
            _pass_on(lines, sys.stderr)
        os._exit(0)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    # The old one may know itself as a file, in which one can seek.
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _pass_on(lines: TextIO, out: TextIO) -> None:
    last_words: list[str] = []
    for line in lines:
        if last_words or _ENDING.match(line):
            last_words.append(line)
        else:
            out.write(line)
            out.flush()
    text = "".join(last_words)
    if "distributed service detected fatal errors" in text:
        lost = re.search(r"stopped sending heartbeats\):\s+([\d,\s]+)\n", text)
        which = f"process {' '.join(lost[1].split())}" if lost else "another process"
        _say(f"{which} {_LOST}; {_GOES_ON}", out)
    else:
        out.write(text)
    out.flush()


if __name__ == "__main__":
    try:
        _status = main()
    except Exception:
        traceback.print_exc()
        _status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)  # without the wait for the others that JAX has at exit
