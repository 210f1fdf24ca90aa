"""Eight simulated devices, quick compilation and JAX's strict flags, before JAX is imported."""

import os
import tempfile

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # else it is that of the process that started this
    _CACHE = tempfile.TemporaryDirectory()  # for as long as the tests run
    os.environ["VAEJAX_CACHE"] = _CACHE.name

# Collectives of 8 simulated devices on few cores can wait for each other for ever otherwise.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_debug_key_reuse", True)
# What several tests compile is compiled once.
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["VAEJAX_CACHE"], "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

PRIORS = ("standard_normal", "decoupled")
REGULARIZERS = ("none", "beta_h", "beta_b", "beta_tc", "factor", "info")
AUTOENCODERS = ("rae_l2", "rae_gp", "rae_sn", "sparse", "contractive", "wae")
# What the steps of are recorded, and compared on any number of devices.
PAIRS = [(regularizer, prior) for regularizer in REGULARIZERS for prior in PRIORS]
PAIRS += [(name, "standard_normal") for name in ("annealed", "free_bits", *AUTOENCODERS)]
FEW_PAIRS = [
    ("beta_tc", "decoupled"),
    ("factor", "decoupled"),
    ("info", "standard_normal"),
    ("rae_sn", "standard_normal"),
]


def some_long(values, short):
    """`values` as parameters, of which those that are not in `short` have the mark `long`."""
    return [each if each in short else _long(each) for each in values]


def _long(value):
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.long)


def one_line(match: str):
    """A ValueError of exactly one line that `match`, a regular expression, is found in."""
    return pytest.raises(ValueError, match=rf"\A(?=.*{match})[^\n]+\Z")


def data_config(name: str, **row):
    """The default config on the data set `name`, with values for its row."""
    from vaejax.config import default_config

    config = default_config()
    with config.unlocked():
        config.dataset = name
        config.datasets[name].update(row)
    return config


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def tiny():
    """`tiny(prior, regularizer)`: the two-moons config of `configs/tiny.py`, unlocked."""
    from vaejax.config import load_config

    def config(prior="decoupled", regularizer="beta_tc"):
        config = load_config("configs/tiny.py")
        config.prior, config.regularizer = prior, regularizer
        return config.unlock()

    return config
