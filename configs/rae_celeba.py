"""CelebA, center 140 pixels resized to 64x64; the networks of arXiv 1903.12436, 64-D latent.

    vaejax data prepare celeb_a --from FOLDER
    vaejax train --config configs/rae_celeba.py --workdir runs/rae_celeba
    vaejax train --config configs/rae_celeba.py:vae --workdir runs/rae_celeba_vae

RAE-L2, or what a preset names: vae, cv_vae, wae, rae_gp, rae_l2, rae_sn, rae or ae; weights and
deviations of all three data sets are explained in `vaejax/config/published_rae.py`.

Not as in the authors' code: the learning rate falls along a cosine, where they halve it when
validation stalls; the weights of the last step count, where they keep the best on validation;
the layer that makes the code is not normalized in RAE-SN; a VAE's log-variance is clipped at 10,
where 10 tanh bounds it; the noise in what the encoder of WAE sees is not clipped.  As there, a
CV-VAE has half of the channels, and a VAE batches of 1,000.  70 epochs.

Not trained for this file, so there are no numbers to expect.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_published_rae


def get_config(preset: str = "rae_l2") -> ConfigDict:
    config = default_config()
    config.dataset = "celeb_a"
    return with_published_rae(config, preset)
