"""MNIST."""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "mnist"
    config.encoder = config.decoder = "mnist"
    config.num_steps = 100_000
    config.likelihoods.gaussian.mse_weight = 10.0
    config.regularizers.beta_b.capacity = 8.0
    config.regularizers.beta_b.capacity_steps = 50_000
    return with_preset(config, preset)
