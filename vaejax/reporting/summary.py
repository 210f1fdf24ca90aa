"""What a run amounts to, as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vaejax.config import parts_flag
from vaejax.expost.fit import PRIOR

# Shown first, in this order; everything else follows in the order of the evaluation.
_MEANINGS = {
    "importance_weighted_nll": "upper bound of -log p(x)",
    "elbo": "lower bound of log p(x)",
    "reconstruction": "-log p(x|z)",
    "kl": "KL(q(z|x) || p(z))",
}
# Where q(z|x) has no density.
_OF_CODES = {"elbo": "log p(x|z) + log p(z), no bound", "kl": "-log p(z)"}
_LOOK_AT = {
    "training": "both curves flatten; held out stays near training (a growing gap is overfitting)",
    "reconstructions": "each keeps what makes its original that one, not only its class",
    "samples": "none stands out from the data, and all kinds of data occur",
    "latent": "codes fill the shaded prior without holes (pockets) or strays (leaks), and the\n"
    "contours hold about 50, 90 and 99 % of them",
}
_COLLAPSED = 0.1  # nats per latent dimension


def summary(evaluation: Mapping[str, Any], config: ConfigDict, workdir: str | Path) -> str:
    """What was trained, its numbers, warnings, and which figures to look at for what.

    evaluation: the content of `evaluation.json`; whatever it lacks is left out.
    """
    metrics = evaluation.get("metrics", {})
    warnings = [f"warning: {line}" for line in cautions(evaluation, config)]
    left_out = [f"left out: {line}" for line in omissions(evaluation)]
    blocks = [_run(evaluation, config), _table(metrics, config), left_out, warnings]
    blocks.append(_figures(config, Path(workdir), evaluation.get("source", PRIOR)))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _run(evaluation: Mapping[str, Any], config: Any) -> list[str]:
    row = config.regularizers[config.regularizer]
    settings = ", ".join(f"{name.rstrip('_')} {value}" for name, value in row.items())
    method = f"{config.regularizer}{f' ({settings})' if settings else ''}, {config.prior} prior"
    note = evaluation.get("data", {}).get("note", "")
    if (source := evaluation.get("source", PRIOR)) != PRIOR:
        method += f"; codes drawn from {source}, fitted afterwards"
    lines = [
        f"data       {config.dataset}{f' ({note})' if note else ''}",
        f"method     {method}",
        f"model      {config.latent_dim} latent dimensions, {config.posterior} posterior, "
        f"{config.encoder} encoder, {config.decoder} decoder, {config.likelihood} likelihood",
        f"training   {evaluation.get('step', config.num_steps):,} steps of {config.batch_size} "
        f"examples, seed {config.seed}",
    ]
    if "split" in evaluation:
        count = evaluation.get("num_examples")
        examples = "" if count is None else f", {count:,} examples"
        lines.append(f"evaluated  {evaluation['split']} split{examples}")
    return lines


def _table(metrics: Mapping[str, Any], config: Any) -> list[str]:
    names = [name for name in _MEANINGS if name in metrics]
    names += [name for name in metrics if name not in _MEANINGS]
    if not names:
        return ["no metrics were evaluated"]
    meanings = {**_MEANINGS, **(_OF_CODES if config.posterior == "deterministic" else {})}
    rows = [("metric", "value", "+/-", "", "")]
    for name in names:
        metric = metrics[name]
        value, error = _number(metric.get("value")), _number(metric.get("standard_error"))
        rows.append((name, value, error, metric.get("unit", ""), meanings.get(name, "")))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for name, value, error, unit, meaning in rows:
        numbers = f"{value:>{widths[1]}}  {error:>{widths[2]}}"
        lines.append(f"{name:<{widths[0]}}  {numbers}  {unit:<{widths[3]}}  {meaning}")
    lines.append("(+/- is one standard error; the JSON file says how each number was made)")
    return [line.rstrip() for line in lines]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.3f}" if 1e-3 <= abs(value) < 1e7 or value == 0 else f"{value:.3g}"


def cautions(evaluation: Mapping[str, Any], config: Any) -> list[str]:
    """Why the numbers of `evaluation.json` may mean less than they seem to; [] if for nothing."""
    metrics, lines = evaluation.get("metrics", {}), []
    values = {name: metric.get("value") for name, metric in metrics.items()}
    values = {name: value for name, value in values.items() if value is not None}
    step, kl = evaluation.get("step", config.num_steps), values.get("kl", math.inf)
    if step < config.num_steps:
        lines.append(f"not finished, step {step:,} of {config.num_steps:,}")
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        lines.append(f"not finite: {', '.join(bad)}")
    if is_collapsed(config, metrics):
        lines.append(
            f"KL is {_number(kl)} nats over {config.latent_dim} dimensions: the posterior "
            "collapsed to the prior, and sample metrics mean nothing"
        )
    return lines


def omissions(evaluation: Mapping[str, Any]) -> list[str]:
    """Metrics that do not fit this model and its data, each with the reason."""
    return [f"{name} ({why})" for name, why in evaluation.get("left_out", {}).items()]


def is_collapsed(config: Any, metrics: Mapping[str, Any]) -> bool:
    """Whether the posterior is so near the prior that metrics of samples mean nothing."""
    kl = metrics.get("kl", {}).get("value")
    # Without a density q(z|x), "kl" is -log p(z), which says nothing about a collapse.
    has_density = config.posterior != "deterministic"
    return has_density and kl is not None and kl < _COLLAPSED * config.latent_dim


def _figures(config: Any, workdir: Path, source: str) -> list[str]:
    end, flag = (".png", "") if source == PRIOR else (f"_{source}.png", f" --source {source}")
    stems = [stem for stem in _LOOK_AT if stem != "latent" or config.latent_dim == 2]
    folder = workdir / "figures"
    missing = [stem for stem in stems if not (folder / f"{stem}{end}").is_file()]
    command = f"vaejax figures --workdir {workdir}{flag}{parts_flag(config)}"
    hint = f" (drawn by: {command})" if missing else ""
    lines, width = [f"look at, in {folder}{hint}"], max(map(len, stems)) + len(end)
    for stem in stems:
        first, *more = _LOOK_AT[stem].split("\n")
        lines.append(f"  {stem + end:<{width}}  {first}")
        lines += [f"  {'':<{width}}  {line}" for line in more]
    return lines
