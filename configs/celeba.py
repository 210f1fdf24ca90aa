"""CelebA, center 140 pixels resized to 64x64; beta-TC-dpVAE, 64-D latent (our choice).

    vaejax data prepare celeb_a --from FOLDER
    vaejax train --config configs/celeba.py --workdir runs/celeba

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
