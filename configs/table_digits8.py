"""Digits with eight latent dimensions: two regularizers with two priors, three seeds.

    vaejax table --config configs/table_digits8.py --workdir runs/table_digits8

As `table_digits.py`, whose codes lie in a plane.

The numbers to expect are in `configs/README.md`.
"""

from ml_collections import ConfigDict

from vaejax.tables.plan import default_table


def get_config() -> ConfigDict:
    config = default_table()
    config.title = "Handwritten digits, eight latent dimensions"
    config.datasets = (("digits", "digits.py", "latent_dim=8"),)
    config.methods = tuple((name, f"regularizer={name}") for name in ("none", "beta_tc"))
    config.samples = 297
    return config
