"""Two moons, 10,000 points."""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "two_moons"
    config.num_steps = 20_000
    config.likelihoods.gaussian.mse_weight = 100.0  # less collapses the posterior
    config.regularizers.beta_b.capacity = 4.0  # nats that two dimensions can use
    config.regularizers.beta_b.capacity_steps = 10_000
    config.regularizers.factor.critic_width = 128
    return with_preset(config, preset)
