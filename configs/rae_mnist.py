"""MNIST; regularized autoencoders with the networks of arXiv 1903.12436, 16-D latent.

    vaejax data prepare mnist --from FOLDER
    vaejax train --config configs/rae_mnist.py --workdir runs/rae_mnist
    vaejax train --config configs/rae_mnist.py:vae --workdir runs/rae_mnist_vae

RAE-L2, or what a preset names: vae, cv_vae, wae, rae_gp, rae_l2, rae_sn, rae or ae; weights and
deviations of all three data sets are explained in `vaejax/config/published_rae.py`.

Not as in the authors' code: the learning rate falls along a cosine, where they halve it when
validation stalls; the weights of the last step count, where they keep the best on validation;
validation is disjoint from training, where 40,000 images are in both; the squared error is that of
28 x 28 pixels, where the padded image of 32 x 32 counts; RAE-L2 penalizes the decoder's dense layer
too; the layer that makes the code is not normalized in RAE-SN; a VAE's log-variance is clipped
at 10, where 10 tanh bounds it.

100 epochs of 500 steps, for an accelerator: on 2 cores that other programs shared, a step took 14
to 16 s, in 2.2 GiB.  Not trained to the end for this file, so there are no numbers to expect.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_published_rae


def get_config(preset: str = "rae_l2") -> ConfigDict:
    config = default_config()
    config.dataset = "mnist"
    return with_published_rae(config, preset)
