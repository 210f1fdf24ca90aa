"""Every metric of a trained model by name: a function and a row of METRICS."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vaejax.config import unknown
from vaejax.evaluation.aggregate import aggregate_log_density
from vaejax.evaluation.comparison import some
from vaejax.evaluation.control import PCA_MIXTURE, Control, control_of
from vaejax.evaluation.fine_tuning import few_labels, no_labels
from vaejax.evaluation.laplace import approximate_elbo, no_expansion
from vaejax.evaluation.neighbors import nearest_neighbors, no_held_out
from vaejax.evaluation.pockets import leakage, nearest_neighbor_kl
from vaejax.evaluation.prd import largest_f, prd_curves
from vaejax.evaluation.rows import Row, mean_row, row, share_row
from vaejax.evaluation.samples import (
    frechet_distance,
    frechet_error,
    kernel_distances,
    moments,
    precision_and_recall,
    too_few,
)
from vaejax.evaluation.subject import Subject

Compared = Subject | Control

_ACTIVE = 0.01  # variance of a dimension's mean from which on it is active


def metrics_of(
    subject: Subject, names: Sequence[str], seconds: dict[str, float] | None = None
) -> dict[str, Row]:
    """The rows of all metrics in `names`.  Raises ValueError for one that is unknown.

    `seconds` is filled with the time of each; what several need is in that of the first.
    """
    check_metrics(names)
    found: dict[str, Row] = {}
    for name in fitting(subject, names):
        with timed({} if seconds is None else seconds, name):
            rows = METRICS[name](subject)
            found |= {each: {**row, "metric": name} for each, row in rows.items()}
    return found


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note in `seconds` what passes within."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def fitting(subject: Subject, names: Sequence[str]) -> list[str]:
    """`names`, each once, with those that the model and its data allow in place of "all"."""
    check_metrics(names)
    if "all" in names:
        return [name for name in METRICS if name not in MISFITS or not MISFITS[name](subject)]
    return list(dict.fromkeys(names))


def left_out(subject: Subject, names: Sequence[str]) -> dict[str, str]:
    """Why "all", if it is in `names`, does not mean some of METRICS here, by their names."""
    lacks = {name: lack(subject) for name, lack in MISFITS.items() if "all" in names}
    return {name: lack for name, lack in lacks.items() if lack}


def check_metrics(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is neither in METRICS nor "all"."""
    for name in names:
        if name not in (*METRICS, "all"):
            raise unknown("metric", name, (*METRICS, "all"))


def symmetric_kl(subject: Subject) -> dict[str, Row]:
    """KL(q || p) + KL(p || q) of aggregate posterior and prior, from densities and from draws."""
    p, q = subject.draws
    where = f"{_aggregate(subject)}; {len(p.z)} draws of each"
    parts = {
        "kl_aggregate_to_prior": mean_row(q.log_q - q.log_p, where),
        "kl_prior_to_aggregate": mean_row(p.log_p - p.log_q, where),
    }
    found = {**parts, "symmetric_kl": _sum(list(parts.values()), where)}
    for space in ("z", "z0"):
        one, other = getattr(p, space), getattr(q, space)
        rows = [mean_row(nearest_neighbor_kl(*pair), "") for pair in ((one, other), (other, one))]
        name = {"z": "representation", "z0": "generation"}[space]
        found[f"symmetric_kl_knn[{name}]"] = row(
            sum(each["value"] for each in rows),
            f"nearest neighbors in {name} space; {where}",
        )
    return found


def information(subject: Subject) -> dict[str, Row]:
    """What E KL(q(z|x) || p) is made of (arXiv 1802.04942, eq. 2), and the dimensions in use."""
    codes, aggregate = subject.reference, subject.aggregate
    where = f"{_aggregate(subject)}; one draw for each"
    standard = (codes.z - codes.mean) / codes.scale
    log_own = -(0.5 * (standard**2 + np.log(2 * np.pi)) + np.log(codes.scale)).sum(axis=1)
    log_q = np.asarray(aggregate.log_prob(codes.z), np.float64)
    active = int((codes.mean.var(axis=0, ddof=1) > _ACTIVE).sum())
    marginal = [
        aggregate_log_density(*(part[:, d : d + 1] for part in (codes.z, *aggregate)))
        for d in range(codes.z.shape[1])
    ]
    log_product = np.sum(marginal, axis=0, dtype=np.float64)
    limit = f"at most log {len(codes.z)} = {np.log(len(codes.z)):.2f}"
    return {
        "mutual_information": mean_row(log_own - log_q, f"{where}; {limit}"),
        "total_correlation": mean_row(log_q - log_product, where),
        "dimension_kl": mean_row(log_product - subject.log_prior(codes.z), where),
        "active_units": row(
            active,
            f"variance of the mean of q(z|x) > {_ACTIVE}; {_aggregate(subject)}",
            unit=f"of {codes.mean.shape[1]} dimensions",
        ),
    }


def leaks(subject: Subject) -> dict[str, Row]:
    """The leakage score at the subject's thresholds, else at quantiles of the prior's density."""
    _, q = subject.draws
    at = {f"log p0 < {threshold:.10g}": threshold for threshold in subject.protocol.thresholds}
    if not at:
        levels = subject.protocol.quantiles
        at = dict(zip(map("{:g}".format, levels), subject.quantiles(levels), strict=True))
    found = {}
    for name, threshold in at.items():
        where = f"{_aggregate(subject)}; {len(q.z)} draws of it; "
        where += name if subject.protocol.thresholds else f"log p0 below its quantile of {name}"
        # Numbers that a run has for itself are no part of how they were made.
        more = {"threshold": float(threshold), "prior_mass": subject.mass_below(threshold)}
        for suffix, log_det in (("", None), ("_with_log_det", q.log_det)):
            scores = leakage(q.log_q, q.log_base, threshold, log_det)
            leaking = scores.leaks.any()
            for family, values, none in (
                (f"leakage{suffix}", scores.unconditional, 0.0),
                (f"leakage_conditional{suffix}", scores.conditional, None),
            ):
                # Of nothing that leaks the spread says nothing about how much is not seen.
                made = mean_row(values, where) if leaking else row(none, where)
                found[f"{family}[{name}]"] = made | more
            share = share_row(scores.leaks, where, unit="of q(z)")
            found[f"leak_fraction[{name}]"] = share | more
    return found


def frechet(subject: Compared) -> dict[str, Row]:
    """Frechet distances of all sets of samples to training data."""
    compared, found = subject.comparison, {}
    real, fewest = moments(compared.real), compared.fewest
    for name, features in subject.samples.items():
        value = frechet_distance(real, moments(features), fewest)
        error = frechet_error(real, features)
        where = _compared(subject, name, len(features), len(compared.real))
        label = f"frechet[{compared.features.name}, {name}]"
        found[label] = row(value, where, error=error, unit="squared")
    return found


def kernel_distance(subject: Compared) -> dict[str, Row]:
    """Unbiased squared MMD of all sets of samples to training data."""
    compared, found = subject.comparison, {}
    for name, features in subject.samples.items():
        count = min(len(compared.real), len(features))
        size = 1_000 if count >= 2_000 else max(2, count // 10)  # one block has no error
        values = kernel_distances(compared.real, features, size)
        where = f"{len(values)} disjoint blocks of {size}; "
        where += _compared(subject, name, len(features), len(compared.real))
        label = f"kernel_distance[{compared.features.name}, {name}]"
        found[label] = mean_row(values, where, unit="squared MMD")
    return found


def precision_recall(subject: Compared) -> dict[str, Row]:
    """How many samples lie in the support of the data, and the reverse."""
    compared, found, most = subject.comparison, {}, subject.comparison.protocol.counts.pairs
    for name, features in subject.samples.items():
        size = min(most, len(features), len(compared.real))  # both depend on the count
        both = precision_and_recall(compared.real[:size], features[:size])
        for what, inside in zip(("precision", "recall"), both, strict=True):
            where = "balls to the third neighbor, taken as known in the error; "
            where += _compared(subject, name, size, size)
            label = f"{what}[{compared.features.name}, {name}]"
            found[label] = share_row(inside, where, unit="fraction")
    return found


def prd(subject: Compared) -> dict[str, Row]:
    """Recall and precision as the ends of a curve, over clusters of samples and data together."""
    compared, found = subject.comparison, {}
    for name, features in subject.samples.items():
        size = min(len(features), len(compared.real))
        # Any part of either set: they may be in some order.
        samples, real = (each[some(len(each), size)] for each in (features, compared.real))
        curves = prd_curves(samples, real, seed=subject.seed)
        runs, mean = len(curves.recall), [each.mean(axis=0) for each in curves]
        for what, beta, f in (("recall", 8, "F_8"), ("precision", 1 / 8, "F_1/8")):
            value = float(largest_f(mean[0], mean[1], beta))
            spread = float(largest_f(curves.precision, curves.recall, beta).std(ddof=1))
            where = f"{f} of the mean curve of {runs} clusterings into 20; "
            where += _compared(subject, name, size, size)
            label = f"prd_{what}[{compared.features.name}, {name}]"
            found[label] = row(value, where, unit=f, sd_of_clusterings=spread)
    return found


def _no_features(subject: Subject) -> str:
    return subject.comparison.shortage or subject.comparison.lack


def _too_few(subject: Subject) -> str:
    compared = subject.comparison
    if (lack := _no_features(subject)) or compared.num_images >= compared.fewest:
        return lack
    return too_few(compared.num_images, compared.fewest)


def _no_neighbors(subject: Subject) -> str:
    return subject.comparison.shortage or no_held_out(subject)


def _no_density(subject: Subject) -> str:
    return "" if subject.model.posterior.has_density else "q(z|x) has no density"


def _sum(rows: Sequence[Row], protocol: str) -> Row:
    """Of independent means."""
    errors = [each["standard_error"] or 0.0 for each in rows]
    total = sum(each["value"] for each in rows)
    return row(total, protocol, error=float(np.linalg.norm(errors)))


def _aggregate(subject: Subject) -> str:
    return f"q(z) of {len(subject.reference.mean)} training examples, seed {subject.seed}"


def _compared(subject: Compared, name: str, count: int, num_real: int) -> str:
    features = subject.comparison.features
    if name == PCA_MIXTURE:
        name = f"{name} ({control_of(subject.comparison, subject.seed).name})"
    what = f"{name}: {count}, against {num_real} of the train split"
    what += f"; features: {features.name} {features.sha256[:12]}".rstrip()
    return f"{what}; seed {subject.seed}"


# Of samples alone, whoever made them.
OF_SAMPLES: dict[str, Callable[[Compared], dict[str, Row]]] = {
    "frechet": frechet,
    "kernel_distance": kernel_distance,
    "precision_recall": precision_recall,
    "prd": prd,
}
METRICS: dict[str, Callable[[Subject], dict[str, Row]]] = {
    "symmetric_kl": symmetric_kl,
    "information": information,
    "leakage": leaks,
    **OF_SAMPLES,
    "approximate_elbo": approximate_elbo,
    "nearest_neighbors": nearest_neighbors,
    "few_labels": few_labels,
}
# Fields of a protocol, and of its counts, that decide the numbers of a metric.
_OF_SETS = ("images", "reference", "low_fraction", "inception")
USES: dict[str, tuple[str, ...]] = {
    "symmetric_kl": ("reference", "latent"),
    "information": ("reference",),
    "leakage": ("reference", "latent"),
    **dict.fromkeys(OF_SAMPLES, _OF_SETS),
    "precision_recall": (*_OF_SETS, "pairs"),
    "approximate_elbo": ("importance_examples",),
    "nearest_neighbors": (*_OF_SETS[:3], "pairs"),
    "few_labels": (),
}
# What a model or its data lack for a metric, if anything: then "all" leaves it out.
MISFITS: dict[str, Callable[[Subject], str]] = {
    "symmetric_kl": _no_density,
    "information": _no_density,
    "leakage": _no_density,
    **dict.fromkeys(OF_SAMPLES, _no_features),
    "frechet": _too_few,
    "approximate_elbo": no_expansion,
    "nearest_neighbors": _no_neighbors,
    "few_labels": no_labels,
}
