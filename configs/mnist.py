"""MNIST; beta-TC-dpVAE with the authors' network, 2-D latent.

    vaejax data prepare mnist --from FOLDER
    vaejax train --config configs/mnist.py --workdir runs/mnist

The 100,000 steps of the paper were not run for this file: a step takes about 0.02 s on 2 cores.
Seed 0 with --config.regularizer=beta_h reaches, after 1,200 steps, held out, ELBO 97 nats, KL 4.9.
"""

from ml_collections import ConfigDict

from vaejax.config import default_config, with_preset


def get_config(preset: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "mnist"
    config.encoder = config.decoder = "mnist"
    config.num_steps = 100_000
    config.likelihoods.gaussian.mse_weight = 10.0
    config.regularizers.beta_b.capacity = 8.0
    config.regularizers.beta_b.capacity_steps = 50_000
    return with_preset(config, preset)
