"""Any variational config as its deterministic counterpart."""

from __future__ import annotations

from ml_collections import ConfigDict

from vaejax.config.defaults import default_config
from vaejax.config.lookup import unknown

RAES = ("rae", "rae_l2", "rae_gp", "rae_sn")


def raeify(config: ConfigDict, regularizer: str = "rae_l2") -> ConfigDict:
    """`config` with codes without noise and penalties of the decoder instead (arXiv 1903.12436).

    Data, networks, likelihood and optimization stay.  The prior becomes N(0, I), whose -log p(z) is
    the code's norm: a learned one would let the codes shrink to a point.  The default weights of
    `regularizer` are multiplied by w of a Gaussian likelihood, as the squared error is.  Samples
    come from a density fitted to the codes after training.  Raises ValueError for a regularizer
    that is none of a deterministic autoencoder.
    """
    if regularizer not in RAES:
        raise unknown("regularizer of a deterministic autoencoder", regularizer, RAES)
    changed = config.copy_and_resolve_references().unlock()
    changed.posterior, changed.prior = "deterministic", "standard_normal"
    changed.regularizer = regularizer
    w = changed.likelihoods.gaussian.mse_weight if changed.likelihood == "gaussian" else 1.0
    row = default_config().regularizers[regularizer]
    for key in ("beta", "weight"):
        if key in row:
            changed.regularizers[regularizer][key] = w * row[key]
    return changed.lock()
