"""Starting is short: what an import loads, what is compiled, and that no value changes by it."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.compilation import _remove_oldest
from vaejax.data.sources import dataset_from
from vaejax.models.initialization import _BLOCK, evaluated_by_numpy
from vaejax.models.vae import initial_variables
from vaejax.objectives.regularizers import make_method
from vaejax.training.replicas import make_plan, replica_configs
from vaejax.training.run import Run
from vaejax.training.state import initial_state, make_initial_state
from vaejax.types import GROUPS

ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "flax", "distrax", "tensorflow_probability", "optax", "orbax", "matplotlib"}
LOADED = "import sys; from vaejax.cli import main\ntry:\n  main(sys.argv[1:])\nfinally:\n  "
LOADED += "print('loaded', *{name.split('.')[0] for name in sys.modules})"
SMALL_FIT = """
import sys, jax, numpy as np, vaejax
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.split("/")[-1]))
config = vaejax.load_config("configs/tiny.py")
config.num_steps = 2
_, state, _ = vaejax.fit(config, sys.argv[1], num_devices=1, quiet=True)
leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
import hashlib
print(events.count("cache_hits"), events.count("cache_misses"), end=" ")
print(hashlib.sha256(b"".join(leaves)).hexdigest())
"""


def run(code, *arguments, **environment):
    without = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMP")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**without, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.parametrize(
    ("command", "absent"),
    [("--help", HEAVY), ("train --help", HEAVY), ("data list", HEAVY - {"jax", "flax", "optax"})],
)
def test_a_command_that_computes_nothing_loads_no_library_for_it(command, absent):
    loaded = run(LOADED, *command.split()).stdout.rpartition("loaded")[2].split()
    assert "vaejax" in loaded
    assert not absent & set(loaded)


def test_the_loop_is_there_before_orbax():
    assert run("import sys, vaejax; vaejax.fit; print('orbax' in sys.modules)").stdout == "False\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(folder of the cache, state) of a fit that compiled everything."""
    cache = tmp_path_factory.mktemp("cache")
    hits, misses, state = run(SMALL_FIT, cache / "run", VAEJAX_CACHE=str(cache)).stdout.split()
    assert int(misses) > 0
    assert int(hits) < int(misses)
    return cache, state


@pytest.mark.long
def test_the_next_process_compiles_nothing_and_ends_in_the_same_state(first, tmp_path):
    cache, state = first
    before = sorted((cache / "compiled").iterdir())
    assert before
    done = run(SMALL_FIT, tmp_path / "run", VAEJAX_CACHE=str(cache))
    hits, misses, again = done.stdout.split()
    assert (int(hits) > 0, int(misses), again) == (True, 0, state)
    assert sorted((cache / "compiled").iterdir()) == before
    assert not done.stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", ["a file", "damaged"])
def test_a_cache_that_cannot_be_used_changes_nothing_but_speed(first, kind, tmp_path):
    folder = tmp_path / "compiled"
    if kind == "a file":
        folder.write_text("in the way")
    else:
        folder.mkdir()
        for path in (first[0] / "compiled").iterdir():
            (folder / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = run(SMALL_FIT, tmp_path / "run", VAEJAX_CACHE=str(tmp_path))
    assert done.stdout.split()[-1] == first[1]
    assert folder.is_dir() == (kind == "damaged")


@pytest.mark.long
def test_a_cache_of_the_users_own_is_left_as_it_is(first, tmp_path):
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own"), "VAEJAX_CACHE": str(tmp_path)}
    own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1000"
    assert run(SMALL_FIT, tmp_path / "run", **own).stdout.split()[-1] == first[1]
    assert not (tmp_path / "compiled").exists()
    assert not list((tmp_path / "own").glob("*"))


def test_the_oldest_programs_go_when_the_folder_is_large(tmp_path):
    for age in range(5):
        path = tmp_path / f"program{age}"
        path.write_bytes(bytes(10))
        os.utime(path, ns=(0, 10**9 * (9 - age)))
    _remove_oldest(tmp_path, 50)
    assert len(list(tmp_path.iterdir())) == 5
    _remove_oldest(tmp_path, 29)
    assert {path.name for path in tmp_path.iterdir()} == {"program0", "program1"}


DRAWS = {
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-3, maxval=2),
    "bits": lambda key, shape: jax.random.bits(key, shape, "uint8"),
    "words": lambda key, shape: jax.random.bits(key, shape, "uint32"),
    "fold": lambda key, shape: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
    "split": lambda key, shape: jax.random.key_data(jax.random.split(key, shape)),
    "seed": lambda key, shape: jax.random.bits(
        jax.random.fold_in(jax.random.key(jax.random.bits(key)), 7), shape
    ),
}


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4, 5), (_BLOCK + 3, 2)])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_by_numpy_are_those_of_the_key(key, name, shape):
    draw = functools.partial(DRAWS[name], shape=shape)
    np.testing.assert_array_equal(evaluated_by_numpy(draw)(jax.random.clone(key)), draw(key))


def test_a_seed_is_that_of_jax_whatever_its_bits():
    draw = evaluated_by_numpy(lambda seed: jax.random.bits(jax.random.key(seed), (3,)))
    for seed in (0, 1, 2**31, 2**32 - 1):
        expected = jax.random.bits(jax.random.key(seed), (3,))
        np.testing.assert_array_equal(draw(np.uint32(seed)), expected)


def everything(key):
    """What NumPy knows, and what it does not."""
    keys = jax.random.split(key, 4)
    rows = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    other = jax.random.normal(jax.random.key(3, impl="rbg"))
    signed = jax.lax.shift_right_logical(jnp.array([-3, 5]), 1)
    return {
        "gram": rows @ rows.T,
        "wide": jnp.broadcast_to(key, (2,)).shape[0] + jax.nn.softplus(rows.sum() + other),
        "bits": jax.lax.bitcast_convert_type(jax.random.bits(keys[0], (2,)), "uint16"),
        "signed": signed,
        "cut": rows.astype(jnp.int32) // 2,
        "folded": jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n)))(jnp.arange(3)),
        "key": jax.random.key_data(jnp.copy(keys)),
    }


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("partitionable", [True, False])
def test_what_numpy_does_not_know_is_left_to_jax(kind, partitionable):
    with jax.threefry_partitionable(partitionable), jax.debug_key_reuse(False):
        key, by_numpy = jax.random.key(5, impl=kind), evaluated_by_numpy(everything)
        expected = everything(key)
        for result in (by_numpy(key), jax.jit(by_numpy)(key), jax.jit(lambda: by_numpy(key))()):
            for name, value in expected.items():
                np.testing.assert_allclose(result[name], value, rtol=1e-5, err_msg=name)


def test_keys_of_another_kind_are_traced_anew():
    draw = evaluated_by_numpy(lambda key: jax.random.split(key)[1])
    for kind in ("threefry2x32", "rbg", "threefry2x32"):
        key = jax.random.key(5, impl=kind)
        assert draw(jax.random.clone(key)) == jax.random.split(key)[1]


@pytest.mark.parametrize(
    ("file", "x_shape", "changes"),
    [
        ("tiny", (2,), {"regularizer": "factor"}),
        pytest.param("mnist", (28, 28, 1), {}, marks=pytest.mark.long),
        pytest.param("celeba", (64, 64, 3), {"prior": "standard_normal"}, marks=pytest.mark.long),
    ],
)
def test_initial_values_are_those_of_plain_init(key, file, x_shape, changes):
    from vaejax.config import load_config

    config = load_config(f"configs/{file}.py").unlock()
    config.update(changes)
    model, _ = make_method(config, x_shape, 1000)
    params, stats = initial_variables(model, key, x_shape)
    keys = jax.random.split(jax.random.key(1), 2)
    plain = jax.jit(model.init, static_argnames="method")(
        jax.random.clone(key), jnp.zeros((2, *x_shape)), keys, method="touch"
    )
    assert tuple(params) == GROUPS
    jax.tree.map(  # the compiler may round a product and a sum once or twice
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
        ({group: leaves for group, leaves in params.items() if leaves}, stats),
        (plain["params"], plain.get("batch_stats", {})),
    )


@pytest.fixture(scope="module")
def method():
    """(model, players) of a method with a critic."""
    from vaejax.config import load_config

    config = load_config("configs/tiny.py").unlock()
    config.regularizer = "factor"
    model, objective = make_method(config, (2,), 1000)
    return model, objective.players


@pytest.fixture(scope="module")
def state_of(method):
    return make_initial_state(*method, (2,), ema_decay=0.9)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "3", np.arange(2)])
def test_what_is_not_a_seed_is_refused(state_of, seed):
    with pytest.raises((ValueError, TypeError), match="seed|integer"):
        state_of(seed)


def test_a_first_state_compiles_nothing_and_shares_no_memory(state_of):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    leaves = jax.tree.leaves(state_of(9))
    assert not compiled
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(places)) == len(places)


def test_states_of_several_seeds_traced_once_are_those_of_each_alone(method):
    state_of = make_initial_state(*method, (2,), ema_decay=0.9)
    jax.eval_shape(state_of, np.uint32(3))  # the first seed may be a shape
    for seed in (0, 2**32 - 1, 0):
        alone = initial_state(*method, seed, (2,), ema_decay=0.9)
        jax.tree.map(np.testing.assert_array_equal, state_of(seed), alone)


def test_every_replica_starts_as_its_lone_run(tmp_path):
    from vaejax.config import load_config

    config = load_config("configs/tiny.py").unlock()
    config.likelihood = "learned_gaussian"
    sweep = {"likelihoods.learned_gaussian.initial_scale": [0.5, 2.0]}
    runs = [
        Run(one, tmp_path, dataset_from(one)) for one in replica_configs(config, sweep).values()
    ]
    together = make_plan(runs, sweep).state()
    for place, one in enumerate(runs):
        found = jax.tree.map(lambda leaf, place=place: leaf[place], together)
        jax.tree.map(np.testing.assert_array_equal, found, one.start())
    assert not np.array_equal(*jax.tree.leaves(together.params["likelihood"])[0])
