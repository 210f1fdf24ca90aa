"""The table of training speed: every architecture, types, scan lengths, against PyTorch.

    .venv/bin/python launch/benchmark.py --against torch --write launch/README.md

Runs on whatever JAX runs on.  Every line is a process of its own, so that no memory or compiled
program is left over from the one before; within it, ours and PyTorch alternate.  The table goes
between the two marks of the file that --write names, and with --json all numbers go into a folder.
Images that are not there are replaced by a stand-in of the same shape, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaejax.benchmark.report import markdown
from vaejax.config import load_config
from vaejax.data.sources import dataset_from

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
CONFIGS = Path(__file__).parents[1] / "configs"
ARCHITECTURES = ("mnist", "svhn", "celeba", "digits", "two_moons")
SHAPES = {"mnist": "(28, 28, 1)", "svhn_cropped": "(32, 32, 3)", "celeb_a": "(64, 64, 3)"}
REPLICATED = ("mnist", "digits", "two_moons")
SWEPT = "mnist"  # what scan lengths are tried on
WHOLE = "digits"  # whose seeds are trained to the end


def main() -> None:
    """Run every line of the table, and print or write it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--against", default="", metavar="PEER", help="torch; default: nothing")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument(
        "--dtypes", nargs="+", default=("float32", "bfloat16"), metavar="TYPE", help="both"
    )
    parser.add_argument(
        "--scan", nargs="*", type=int, default=(1, 5, 20, 100), help="steps per dispatch to try"
    )
    parser.add_argument("--replicas", type=int, default=8, metavar="N", help="0: none")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="train N to the end")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into it")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="all numbers, a file each")
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.replicas) < 0:
        parser.error("--seeds and --replicas are 0 or more")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for label, name, overrides in cases(arguments):
            path = (arguments.json or Path(folder)) / f"{label.replace(' ', '_')}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            print(label, file=sys.stderr)
            result = measured(name, overrides, path, arguments)
            if result is not None:
                results.append((label, result))
    if not results:
        sys.exit("nothing was measured")
    seconds = whole_runs(arguments.seeds) if arguments.seeds else {}
    text = section(results, seconds)
    if arguments.write:
        write_between(arguments.write, text)
    print(text)


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, str, list[str]]]:
    """(label, name of the config, overrides) of every line."""
    for name in arguments.only:
        for dtype in arguments.dtypes:
            more = [f"--config.compute_dtype={dtype}"]
            start = [] if dtype == arguments.dtypes[0] else ["--no-startup"]
            if dtype == arguments.dtypes[0] and name in REPLICATED and arguments.replicas:
                start = ["--replicas", str(arguments.replicas)]
            yield f"{name} {dtype}", name, [*start, *more, *stand_in(name)]
    if SWEPT in arguments.only:
        for length in arguments.scan:
            more = ["--no-startup", f"--config.steps_per_dispatch={length}"]
            yield f"{SWEPT}, {length} per dispatch", SWEPT, [*more, *stand_in(SWEPT)]


def stand_in(name: str) -> list[str]:
    """Overrides that replace images which are not on this machine."""
    config = load_config(str(CONFIGS / f"{name}.py"))
    try:
        dataset_from(config)
    except ValueError:
        shape = f"--config.datasets.stand_in.x_shape={SHAPES[str(config.dataset)]}"
        return ["--config.dataset=stand_in", shape]
    return []


def measured(
    name: str, overrides: list[str], path: Path, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """The result of one `vaejax bench`; None where it failed, which is told and left out."""
    command = [sys.executable, "-m", "vaejax", "bench", "--config", str(CONFIGS / f"{name}.py")]
    command += ["--rounds", str(arguments.rounds), "--json", str(path), *overrides]
    if arguments.against:
        command += ["--against", arguments.against]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        print(f"failed: {shlex.join(command)}", file=sys.stderr)
        return None
    return json.loads(path.read_text())


def whole_runs(count: int) -> dict[str, float]:
    """Seconds of the commands that train `count` seeds; each way fills a cache of its own.

    Where one fails, it is told, and nothing is found.
    """
    train = [sys.executable, "-m", "vaejax", "train", "--config", str(CONFIGS / f"{WHOLE}.py")]
    each = [[f"--config.seed={seed}", "--workdir", f"seed{seed}"] for seed in range(count)]
    ways = {
        "one after another": each,
        "as one program": [["--replicas", f"seed=0:{count}", "--workdir", "all"]],
    }
    seconds = {}
    for way, runs in ways.items():
        print(f"{count} seeds of {WHOLE}, {way}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "VAEJAX_CACHE": f"{folder}/cache"}
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would take precedence
            began = time.perf_counter()
            for arguments in runs:
                command = [*train, *arguments]
                if subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
                    print(f"failed: {shlex.join(command)}", file=sys.stderr)
                    return {}
            seconds[way] = time.perf_counter() - began
    return seconds


def section(results: list[tuple[str, dict[str, Any]]], seconds: dict[str, float]) -> str:
    """The command, the machine and the table as Markdown."""
    command = shlex.join(["python", "launch/benchmark.py", *sys.argv[1:]])
    machine = results[0][1]["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    roofline = {result["roofline"]["dtype"]: result["roofline"] for _, result in results}
    products = ", ".join(
        f"{row['operations_per_second'] / 1e9:,.0f} GFLOP/s in {dtype}"
        for dtype, row in roofline.items()
    )
    where = (
        f"On {machine['num_devices']} x {machine['device']} ({machine['backend']}), "
        f"{machine['cpu']}, {machine['cores']} cores; {versions}.  Square matrix products: "
        f"{products}.  Medians of {results[0][1]['rounds']} alternating rounds (range)."
    )
    startup = [
        f"{label}: {r['startup_seconds']['cold']:.1f} s, {r['startup_seconds']['warm']:.1f} s"
        for label, r in results
        if r["startup_seconds"]
    ]
    replicas = [replica_line(label, r["replicas"]) for label, r in results if "replicas" in r]
    parts = [f"```bash\n{command}\n```", where, markdown(results)]
    if startup:
        parts.append(f"First step of `vaejax train`, cold and warm cache: {'; '.join(startup)}.")
    if replicas:
        what = "Seeds as one program, and how many times as fast as the same runs one by one"
        parts.append(f"{what}: {'; '.join(replicas)}.")
    if seconds:
        way, other = (f"{name} {value:,.0f} s" for name, value in seconds.items())
        alone, together = seconds.values()
        what = f"Commands that train these seeds of {WHOLE} to the end, with empty caches"
        parts.append(f"{what}: {way}, {other}, {alone / together:.2f}x.")
    return "\n\n".join(parts)


def replica_line(label: str, found: dict[str, Any]) -> str:
    """The median speed-up of both ways."""
    ways = found["ways"].items()
    medians = ", ".join(f"{way['ratio']['median']:.2f}x {name}" for name, way in ways)
    return f"{label}: {found['count']} on {found['num_devices']} devices {medians}"


def write_between(path: Path, text: str) -> None:
    """Replace what lies between the two marks of the file; a file without them gets both."""
    before = path.read_text() if path.exists() else ""
    if BEGIN not in before or END not in before:
        before = f"{before.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


if __name__ == "__main__":
    main()
