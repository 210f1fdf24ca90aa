"""MNIST: six regularizers with two priors, one seed, a tenth of the paper's iterations.

    vaejax data prepare mnist --from FOLDER
    vaejax table --config configs/table_mnist.py --workdir runs/table_mnist

The numbers to expect are in `configs/README.md`.
"""

from ml_collections import ConfigDict

from vaejax.tables.plan import default_table


def get_config() -> ConfigDict:
    config = default_table()
    config.title = "MNIST"
    config.datasets = (
        (
            "mnist",
            "mnist.py",
            "num_steps=10000",
            "regularizers.beta_b.capacity_steps=5000",
            "regularizers.factor.critic_width=256",
        ),
    )
    config.seeds = (0,)
    config.samples = 10_000  # as many as the held-out split has
    return config
