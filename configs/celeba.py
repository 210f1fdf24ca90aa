"""CelebA from a prepared TFDS directory of 64x64 images; beta-TC-dpVAE, 64-D latent (our choice).

    TFDS_DATA_DIR=... vaejax train --config configs/celeba.py --workdir runs/celeba

Not trained on the real images yet, so there are no numbers to expect; `configs/tiny.py:celeba`
takes its steps on a stand-in.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "celeb_a"
    config.encoder = config.decoder = "celeba"
    config.latent_dim = 64
    config.batch_size = 50
    config.num_steps = 100_000
    config.likelihoods.gaussian.mse_weight = 10.0
    return with_preset(config, preset)
