"""Two moons: six regularizers with two priors, three seeds.

    vaejax table --config configs/table_two_moons.py --workdir runs/table_two_moons

The numbers to expect are in `configs/README.md`.
"""

from ml_collections import ConfigDict

from vaejax.tables.plan import default_table


def get_config() -> ConfigDict:
    config = default_table()
    config.title = "Two moons"
    config.datasets = (("two_moons", "two_moons.py"),)
    config.samples = 2_000  # as many as the held-out split has
    return config
