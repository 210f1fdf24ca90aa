"""Anything, in two seconds: the config of a data set with small networks and few steps.

    vaejax train --config configs/tiny.py --workdir runs/tiny
    vaejax train --config configs/tiny.py:svhn --workdir runs/tiny_svhn

Images that need files become a stand-in of the same shape.  Nothing to expect but that it runs.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vaejax.config import load_config

_STAND_INS = {
    "mnist": (28, 28, 1),
    "svhn_cropped": (32, 32, 3),
    "cifar10": (32, 32, 3),
    "celeb_a": (64, 64, 3),
    "shapes64": (64, 64, 1),
    "arrays": (16, 16, 3),
}


def get_config(name: str = "two_moons") -> ConfigDict:
    config = load_config(str(Path(__file__).with_name(f"{name}.py")))
    if config.dataset in _STAND_INS:
        config.datasets.stand_in.x_shape = _STAND_INS[config.dataset]
        config.dataset = "stand_in"
    config.num_steps = 4
    config.batch_size = 24
    config.log_every = config.eval_every = config.checkpoint_every = 2
    for row in (config.encoders.mlp, config.decoders.mlp):
        row.widths = (8,)
    for row in (config.encoders.conv, config.decoders.conv):
        row.channels, row.width = (4, 8), 16
    for row in (config.encoders.rae, config.decoders.rae):
        row.channels = (4, 8)
    config.priors.decoupled.num_blocks = 2
    config.priors.decoupled.width = 8
    config.regularizers.factor.critic_width = 8
    config.regularizers.factor.critic_depth = 2
    config.regularizers.beta_b.capacity_steps = 4
    config.datasets.two_moons.num_train = 96
    config.datasets.two_moons.num_test = 40
    config.datasets.stand_in.num_train = 48
    config.datasets.stand_in.num_test = 24
    return config
