"""The numbers of a benchmark as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaejax.benchmark.estimate import quantity
from vaejax.training.workdir import write_text


def lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a benchmark says, as (name, value) pairs.  result: of `benchmark`."""
    ours, machine = result["ours"], result["machine"]
    compilation, start = result["compilation"], result["startup_seconds"]
    roofline = result["roofline"]
    groups = result["parameters"]
    found = [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores"),
        ("device", f"{machine['num_devices']} x {machine['device']} ({machine['backend']})"),
        ("parameters", f"{sum(groups.values()):,}"),
        ("step", _ms(ours["seconds_per_step"])),
        ("steps/s", _spread(ours["steps_per_second"])),
        ("examples/s", _spread(ours["examples_per_second"])),
        ("operations per step", quantity(result["operations_per_step"], "FLOP")),
        ("achieved", quantity(ours["operations_per_second"], "FLOP/s")),
        (
            f"matrix products, {roofline['dtype']}",
            quantity(roofline["operations_per_second"], "FLOP/s"),
        ),
        ("share of that", f"{100 * ours['share_of_roofline']:.1f} %"),
        ("lowering, compilation", _compilation(compilation)),
        ("memory of the program", quantity(compilation["memory"]["total"], "B")),
        *((f"peak of the {k}", quantity(v, "B")) for k, v in result["peak_memory"].items()),
        *((f"first step, {kind} cache", f"{seconds:.1f} s") for kind, seconds in start.items()),
    ]
    if "torch" in result:
        peer = result["torch"]
        kinds = (name for name in peer if name not in ("fastest", "ratio"))
        version = machine["versions"]["torch"]
        found += [
            *((f"PyTorch {version}, {k}", _ms(peer[k]["seconds_per_step"])) for k in kinds),
            (f"speed-up over {peer['fastest']}", _spread(peer["ratio"], "x")),
        ]
    if "replicas" in result:
        replicas = result["replicas"]
        what = f"{replicas['count']} replicas on {replicas['num_devices']} devices"
        found += [(f"{what} {k}", _replicas(way)) for k, way in replicas["ways"].items()]
    return found


def _replicas(way: Mapping[str, Any]) -> str:
    step, ratio = _ms(way["seconds_per_step"]), _spread(way["ratio"], "x")
    return f"{step}; {ratio} as fast as alone"


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write `path`, whose folder must exist, in one piece."""
    write_text(path, json.dumps(result, indent=2) + "\n")


def table(result: Mapping[str, Any]) -> Any:
    """A rich table for the terminal."""
    from rich.table import Table

    card = result["config"]
    title = f"{card['regularizer']} x {card['prior']} on {card['dataset']}"
    title += f", batches of {card['batch_size']}; medians of {result['rounds']} rounds (range)"
    made = Table("", "value", title=title, title_justify="left", show_header=False)
    for name, value in lines(result):
        made.add_row(name, value)
    return made


def markdown(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """One line of a Markdown table for every (label, result)."""
    header = ("config", "batch", "type", "ms per step", "examples/s", "GFLOP per step", "GFLOP/s")
    header += ("share of matrix products", "memory", "compile", "PyTorch, ms", "speed-up")
    rows = [header, ("---",) * len(header)]
    rows += [(label, *_cells(result)) for label, result in results]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    ours, card, compilation = result["ours"], result["config"], result["compilation"]
    peer = result.get("torch")
    against = ("", "")
    if peer:
        against = _ms(peer[peer["fastest"]]["seconds_per_step"], ""), _spread(peer["ratio"], "x")
    return (
        str(card["batch_size"]),
        card["compute_dtype"],
        _ms(ours["seconds_per_step"], ""),
        f"{ours['examples_per_second']['median']:,.0f}",
        f"{result['operations_per_step'] / 1e9:.3g}",
        f"{ours['operations_per_second'] / 1e9:.3g}",
        f"{100 * ours['share_of_roofline']:.1f} %",
        quantity(compilation["memory"]["total"], "B"),
        f"{compilation['lower_seconds'] + compilation['compile_seconds']:.1f} s",
        *against,
    )


def _compilation(compilation: Mapping[str, Any]) -> str:
    return f"{compilation['lower_seconds']:.1f} s, {compilation['compile_seconds']:.1f} s"


def _ms(spread: Mapping[str, float], unit: str = " ms") -> str:
    return _spread({name: 1e3 * value for name, value in spread.items()}, unit)


def _spread(spread: Mapping[str, float], unit: str = "") -> str:
    median, low, high = (_short(spread[name]) for name in ("median", "min", "max"))
    return f"{median}{unit} ({low} .. {high})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
