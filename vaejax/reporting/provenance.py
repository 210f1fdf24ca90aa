"""What runs are, how they differ and how to make them again, as HTML."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vaejax.config import choice_text, parts_flag, to_json, value_text
from vaejax.expost import store
from vaejax.expost.families import default_density_config
from vaejax.expost.fit import PRIOR
from vaejax.reporting.opened import OpenedRun
from vaejax.reporting.page import escaped
from vaejax.types import GROUPS

_SAME = "data_sha256"  # of all that may stand on one page


def labels_of(runs: Sequence[OpenedRun]) -> list[str]:
    """A short name for each run, no two alike: what tells it from the others, seed or folder too.

    What all have in common is in the title.
    """
    labels, differing = [run.name for run in runs], _differing([run.config for run in runs])
    same_density = len({run.density for run in runs}) == 1
    if len(runs) > 1 and "regularizer" not in differing and not same_density:
        labels = [run.density for run in runs]
    elif "regularizer" in differing and same_density:
        labels = [run.config.regularizer for run in runs]
    for key, values in differing.items():
        if len(set(labels)) == len(labels):
            return labels
        if key not in ("prior", "regularizer"):
            last = key.rpartition(".")[2]
            labels = [f"{label}, {last} {v}" for label, v in zip(labels, values, strict=True)]
    if len(set(labels)) < len(labels):
        folders = [run.workdir for run in runs]
        labels = [f"{label} ({own_name(folders, k)})" for k, label in enumerate(labels)]
    return labels


def own_name(folders: Sequence[Path], k: int) -> str:
    """What distinguishes the k-th folder from the others, as part of a file name."""
    paths = [folder.resolve() for folder in folders]
    above = Path(os.path.commonpath([path.parent for path in paths]))
    return "-".join(paths[k].relative_to(above).parts)


def title_of(runs: Sequence[OpenedRun]) -> str:
    """Methods and priors in a few words, common ones said once."""
    methods = list(dict.fromkeys(run.config.regularizer for run in runs))
    densities = list(dict.fromkeys(run.density for run in runs))
    if len(methods) == 1 or len(densities) == 1:
        both = " and ".join(densities)
        if len(densities) > 1 and all(name.endswith(" prior") for name in densities):
            both = both.replace(" prior", "") + " priors"
        return f"{' and '.join(methods)} with {both}"
    return ", ".join(dict.fromkeys(run.name for run in runs))


def in_short(runs: Sequence[OpenedRun]) -> str:
    """Data, and how much training, in a sentence: what a reader asks first."""
    dataset, sizes = runs[0].dataset, runs[0].dataset.splits.items()
    data = f"{dataset.name}: {', '.join(f'{len(rows):,} {split}' for split, rows in sizes)}"
    same = {
        f"{run.config.latent_dim} latent dimensions; {int(run.state.step):,} steps of "
        f"{run.config.batch_size} examples"
        for run in runs
    }
    return f"{data}; {same.pop()}." if len(same) == 1 else f"{data}."


def facts(
    labels: Sequence[str],
    runs: Sequence[OpenedRun],
    evaluations: Sequence[Mapping[str, Any]],
) -> str:
    """A table: a row for each fact, a column for each run, one cell where all agree."""
    body = _rows([_facts_of(run) for run in runs])
    differing = _differing([run.config for run in runs])
    if differing:
        lines = [_fact(f"config.{key}", values, code=True) for key, values in differing.items()]
        group = f'<th colspan="{len(runs) + 1}" scope="colgroup">config keys that differ</th>'
        body += f'<tr class="group">{group}</tr>{"".join(lines)}'
    heads = "".join(f'<th scope="col">{escaped(label)}</th>' for label in labels)
    head = f"<thead><tr><td></td>{heads}</tr></thead>" if len(runs) > 1 else ""
    made = _rows([_made_by(*each) for each in zip(runs, evaluations, strict=True)])
    return (
        f'<table class="facts">{head}<tbody>{body}</tbody></table><details><summary>hashes and '
        f'versions</summary><table class="facts">{head}<tbody>{made}</tbody></table></details>'
    )


def _rows(columns: Sequence[Mapping[str, str]]) -> str:
    names = dict.fromkeys(name for column in columns for name in column)
    return "".join(_fact(name, [each.get(name, "\u2013") for each in columns]) for name in names)


def _fact(name: str, values: Sequence[str], code: bool = False) -> str:
    shown = [escaped(text).replace("_", "_<wbr>") for text in (name, *values)]
    head = f"<code>{shown[0]}</code>" if code else shown[0]
    if len(set(values)) == 1:
        cells = f'<td colspan="{len(values)}">{shown[1]}</td>'
    else:
        cells = "".join(f'<td class="differs">{text}</td>' for text in shown[1:])
    return f'<tr><th scope="row">{head}</th>{cells}</tr>'


def _facts_of(run: OpenedRun) -> dict[str, str]:
    config, dataset = run.config, run.dataset
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in dataset.splits.items())
    shape = "\u00d7".join(map(str, dataset.x_shape))
    note = f" ({dataset.note})" if dataset.note else ""
    counts = {group: _size(run.state.params.get(group, {})) for group in GROUPS}
    parts = ", ".join(f"{group} {count:,}" for group, count in counts.items() if count)
    model = [f"{config.latent_dim} latent dimensions"]
    kinds = ("encoder", "posterior", "decoder", "likelihood")
    model += [f"{kind}: {choice_text(config, kind)}" for kind in kinds]
    return {
        "data": f"{dataset.name}{note}, {shape} numbers each; {sizes}",
        "method": choice_text(config, "regularizer"),
        "prior": choice_text(config, "prior"),
        "codes drawn from": "the prior" if run.source == PRIOR else run.density,
        "model": "; ".join(model),
        "parameters": f"{sum(counts.values()):,} ({parts})",
        "training": f"{int(run.state.step):,} of {config.num_steps:,} steps of {config.batch_size} "
        f"examples; {choice_text(config, 'optimizer')}; {choice_text(config, 'schedule')} schedule",
        "seed": str(config.seed),
    }


def _made_by(run: OpenedRun, evaluation: Mapping[str, Any]) -> dict[str, str]:
    versions = dict(evaluation.get("versions", {}))
    commit = str(versions.pop("commit", "\u2013"))
    return {
        "folder": str(run.workdir),
        "data, SHA-256": run.config.data_sha256,
        "config, SHA-256": hashlib.sha256(to_json(run.config).encode()).hexdigest(),
        "evaluated by commit": commit,
        "with": ", ".join(f"{name} {version}" for name, version in versions.items()) or "\u2013",
    }


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _differing(configs: Sequence[ConfigDict]) -> dict[str, list[str]]:
    """Dotted keys whose values differ, and those of each config."""
    flat = [dict(_leaves(config.to_dict())) for config in configs]
    keys = dict.fromkeys(key for each in flat for key in each if key != _SAME)
    rows = {key: [value_text(each.get(key, "\u2013")) for each in flat] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        found += _leaves(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]
    return found


def commands(runs: Sequence[OpenedRun], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The commands that make runs, numbers and page again, from the configs below them."""
    lines = []
    for run, evaluation in zip(runs, evaluations, strict=True):
        config, folder = shlex.quote(f"{run.workdir}/config.json"), shlex.quote(str(run.workdir))
        parts = parts_flag(run.config)
        made = [f"vaejax train{parts} --config {config} --workdir {folder}"]
        if run.source != PRIOR:
            made.append(f"vaejax fit-density{parts} --workdir {folder}{_fitted(run)}")
        lines += [line for line in made if line not in lines]
        if evaluation:
            flags = source_flag(run) + _asked(evaluation)
            lines.append(f"vaejax evaluate{parts} --workdir {folder}{flags}")
    folders = dict.fromkeys(shlex.quote(str(run.workdir)) for run in runs)
    sources = dict.fromkeys(run.source for run in runs)
    flag = "" if list(sources) == [PRIOR] else f" --source {' '.join(map(shlex.quote, sources))}"
    parts = max(parts_flag(run.config) for run in runs)
    lines.append(f"vaejax report {' '.join(folders)}{flag}{parts}")
    return f"<pre><code>{escaped(chr(10).join(lines))}</code></pre>"


def _fitted(run: OpenedRun) -> str:
    """The flags of `vaejax fit-density`."""
    card = store.read(run.workdir, run.source)[1]
    made = {key: card[key] for key in ("codes", "held_out", "seed")}
    made |= {f"densities.{card['density']}.{key}": value for key, value in card["row"].items()}
    default = dict(_leaves(default_density_config().to_dict()))
    flags = f" --density {shlex.quote(card['density'])} --name {shlex.quote(run.source)}"
    for key, value in made.items():
        value = tuple(value) if isinstance(value, list) else value
        if key not in default:
            raise store.unreadable(run.workdir, run.source, f"it has an unknown {key!r}")
        if default[key] != value:
            flags += f" --config.{key}={shlex.quote(str(value))}"
    return flags


def source_flag(run: OpenedRun) -> str:
    """The flag that names where codes are drawn from, if it is not the prior."""
    return "" if run.source == PRIOR else f" --source {shlex.quote(run.source)}"


def _asked(evaluation: Mapping[str, Any]) -> str:
    """The flags of `vaejax evaluate`, of those that differ from one number to another."""
    protocol = evaluation.get("protocol", {})
    flags = ""
    for name in ("importance_samples", "importance_examples", "metrics", "thresholds", "sets"):
        value = protocol.get(name, [])
        texts = [shlex.quote(str(each)) for each in (value if isinstance(value, list) else [value])]
        if value != []:
            flags += f" --{name.replace('_', '-')} {' '.join(texts)}"
    images = protocol.get("counts", {}).get("images")
    return flags + (f" --samples {shlex.quote(str(images))}" if images else "")


def config_texts(labels: Sequence[str], runs: Sequence[OpenedRun]) -> str:
    """The config of each run as JSON, folded."""
    found = []
    for label, run in zip(labels, runs, strict=True):
        summary = f"<summary>config.json of {escaped(label)}</summary>"
        text = f"<pre><code>{escaped(to_json(run.config))}</code></pre>"
        found.append(f"<details>{summary}{text}</details>")
    return "".join(found)
