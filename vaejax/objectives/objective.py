"""Losses from costs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax

from vaejax.types import Array, Batch, Cost, LossFn, Metrics


def loss_of(*costs: Cost) -> LossFn:
    """The sum of named costs as a loss.

    A cost is a function `(model, terms, key, step) -> {name: scalar}`, weighted and averaged over
    the batch; `vaejax.types.Terms` is what it may look at.

    Its metrics are `loss`, the unweighted `elbo`, `reconstruction` and `kl`, and each weighted term
    as `cost/<name>`.  What the posterior itself adds (`code.costs`) is part of the sum.  Raises
    ValueError without costs, for what is no cost, and when two costs share a name.

    >>> def small_codes(model, terms, key, step):
    ...     return {"small_codes": 0.1 * (terms.code.mean**2).sum(axis=-1).mean()}
    >>> loss = vaejax.loss_of(vaejax.reconstruction, vaejax.kl(), small_codes)
    """
    if not costs:
        raise ValueError("a loss of no costs; at least one, as `vaejax.reconstruction`")
    for cost in costs:
        _check_cost(cost)

    def loss(model: Any, batch: Batch, step: Array, train: bool = True) -> tuple[Array, Metrics]:
        terms = model(batch.x, batch.keys, train, batch.corrupted)
        parts = {name: value.mean() for name, value in terms.code.costs.items()}
        for position, cost in enumerate(costs):
            key = jax.random.fold_in(batch.key, position)
            found = cost(model, terms, key, step)
            if not isinstance(found, Mapping):
                raise ValueError(f"{_name(cost)} gives no dict of named scalars: {found!r}")
            for name, value in found.items():
                if name in parts:
                    raise ValueError(f"two costs are named {name!r}")
                parts[name] = value
        total = sum(parts.values(), start=jax.numpy.zeros(()))
        means = {"reconstruction": terms.reconstruction.mean(), "kl": terms.kl.mean()}
        elbo = -(means["reconstruction"] + means["kl"])
        weighted = {f"cost/{name}": value for name, value in parts.items()}
        return total, {"loss": total, "elbo": elbo, **means, **weighted}

    return loss


def _check_cost(cost: Any) -> None:
    """Raises ValueError for what cannot be called as costs are."""
    try:
        inspect.signature(cost).bind("model", "terms", "key", "step")
    except (TypeError, ValueError):
        raise ValueError(
            f"{_name(cost)} is no cost, a function of (model, terms, key, step); what makes one is "
            "called first, as in kl()"
        ) from None


def _name(cost: Any) -> str:
    return str(getattr(cost, "__qualname__", repr(cost)))
