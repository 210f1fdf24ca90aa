"""Digits: six regularizers with two priors, three seeds.

    vaejax table --config configs/table_digits.py --workdir runs/table_digits

The held-out split has 297 images, so distances are of 297 samples, in 16 features.

The numbers to expect are in `configs/README.md`.
"""

from ml_collections import ConfigDict

from vaejax.tables.plan import default_table


def get_config() -> ConfigDict:
    config = default_table()
    config.title = "Handwritten digits"
    config.datasets = (("digits", "digits.py"),)
    config.samples = 297
    return config
