"""digits"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "digits"
    config.encoders.mlp.widths = (256, 128)
    config.decoders.mlp.widths = (128, 256)
    config.likelihoods.gaussian.mse_weight = 20.0
    config.regularizers.beta_b.capacity = 6.0
    config.regularizers.beta_b.capacity_steps = 5_000
    config.regularizers.factor.critic_width = 128
    return with_preset(config, preset)
