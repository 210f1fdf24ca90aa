"""CIFAR-10; regularized autoencoders with the networks of arXiv 1903.12436, 128-D latent.

    vaejax data prepare cifar10 --from FOLDER
    vaejax train --config configs/rae_cifar10.py --workdir runs/rae_cifar10
    vaejax train --config configs/rae_cifar10.py:vae --workdir runs/rae_cifar10_vae

RAE-L2, or what a preset names: vae, cv_vae, wae, rae_gp, rae_l2, rae_sn, rae or ae; weights and
deviations of all three data sets are explained in `vaejax/config/published_rae.py`.

Not as in the authors' code: the learning rate falls along a cosine, where they halve it when
validation stalls; the weights of the last step count, where they keep the best on validation;
validation is disjoint from training, where 30,000 images are in both; RAE-L2 penalizes the
decoder's dense layer too; the layer that makes the code is not normalized in RAE-SN; a VAE's
log-variance is clipped at 10, where 10 tanh bounds it; the weight of RAE-GP is that for CelebA,
because their file says 0.  100 epochs; 70 by the presets cv_vae, wae and rae_gp.

Not trained for this file, so there are no numbers to expect.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_published_rae


def get_config(preset: str = "rae_l2") -> ConfigDict:
    config = default_config()
    config.dataset = "cifar10"
    return with_published_rae(config, preset)
