"""CIFAR-10; beta-TC-dpVAE with the network that the authors use for SVHN, 32-D latent.

    vaejax data prepare cifar10 --from FOLDER
    vaejax train --config configs/cifar10.py --workdir runs/cifar10

Only smoke runs on a JPEG copy were made for this file, so there are no numbers to expect.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "cifar10"
    config.encoder = config.decoder = "svhn"
    config.latent_dim = 32
    config.batch_size = 50
    config.num_steps = 100_000
    config.likelihoods.gaussian.mse_weight = 10.0
    return with_preset(config, preset)
