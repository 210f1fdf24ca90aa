"""What a recipe may know of the run, and what all of them check."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import optax

from vaejax.config import fails
from vaejax.objectives.costs import reconstruction, weighted
from vaejax.objectives.objective import loss_of
from vaejax.types import GENERATIVE, Cost, Player


class Setting(NamedTuple):
    """What a recipe may know of the run."""

    tx: optax.GradientTransformation
    num_examples: int
    batch_size: int  # global
    elbo_weight: float = 1.0  # batch_size for "published_sum": reconstruction and KL batch-summed
    axis_name: str | None = None

    def generative(self, *costs: Cost) -> Player:
        """The player that owns the autoencoder: weighted reconstruction plus `costs`."""
        loss = loss_of(weighted(reconstruction, self.elbo_weight), *costs)
        return Player(GENERATIVE, loss, self.tx)


def check_rate(model: Any, beta: Any = 1.0) -> None:
    """Whether beta times the KL can be lowered: raises ValueError, or warns, where it should not.

    Without noise, codes that shrink to a point raise a learned density there for ever.
    """
    if fails(beta == 0):
        return
    if not model.posterior.has_density and model.prior.is_learned:
        raise ValueError(
            "codes without noise under a learned prior can shrink to a point, where -log p(z) "
            "falls for ever; take prior 'standard_normal', posterior 'fixed_scale' or "
            "'diagonal_gaussian', or fit a density to the codes after training"
        )
    if model.likelihood.learns_scale and fails(beta != 1):
        warnings.warn(
            f"beta {beta:g} beside a learned observation noise: both weigh reconstruction against "
            "KL, and the noise will undo the choice of beta",
            stacklevel=2,
        )
