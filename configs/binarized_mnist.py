"""Binarized MNIST, dynamic (drawn anew in every step) or static; dpVAE, 32-D latent.

    vaejax train --config configs/binarized_mnist.py --workdir runs/dynamic
    vaejax train --config configs/binarized_mnist.py:static --workdir runs/static

Dynamic needs `mnist` and leaves 10,000 of its images for validation; static needs
`binarized_mnist`, which has as many.  Not trained to the end for this file: no numbers to expect.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, unknown


def get_config(binarization: str = "dynamic") -> ConfigDict:
    if binarization not in ("dynamic", "static"):
        raise unknown("binarization", binarization, ("dynamic", "static"))
    config = default_config()
    config.dataset, config.observation = "binarized_mnist", "scaled"
    if binarization == "dynamic":
        config.dataset, config.observation = "mnist", "bernoulli"
        config.splits.validation = 1 / 6
    config.encoder = config.decoder = "mnist"
    config.likelihood = "bernoulli"
    config.regularizer = "none"
    config.latent_dim = 32
    config.num_steps = 100_000
    return config
