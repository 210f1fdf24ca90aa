"""SVHN (cropped); beta-TC-dpVAE, 32-D latent (our choice).

    vaejax data prepare svhn_cropped --from FOLDER
    vaejax train --config configs/svhn.py --workdir runs/svhn

Not trained on the real images yet, so there are no numbers to expect; `configs/tiny.py:svhn` takes
its steps on a stand-in.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "svhn_cropped"
    config.encoder = config.decoder = "svhn"
    config.latent_dim = 32
    config.batch_size = 50
    config.num_steps = 100_000
    config.likelihoods.gaussian.mse_weight = 10.0
    return with_preset(config, preset)
