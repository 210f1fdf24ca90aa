r"""Your own images: arrays, a folder, or what TFDS prepared; beta-TC-dpVAE, 16-D latent.

    vaejax train --config configs/own_images.py --workdir runs/own \
        --config.dataset=image_folder --config.datasets.image_folder.path=pictures \
        --config.datasets.image_folder.size=64

The default network halves the sides three times: any sides that are multiples of 8 fit.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "arrays"
    config.encoder = config.decoder = "conv"
    config.latent_dim = 16
    config.batch_size = 64
    config.likelihoods.gaussian.mse_weight = 10.0
    return with_preset(config, preset)
