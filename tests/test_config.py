"""A config says what is wrong in one line, survives JSON, and names what differs."""

import inspect
import json
import math
import shutil
from pathlib import Path

import pytest

from vaejax.config import (
    CHOICES,
    default_config,
    differing_keys,
    from_json,
    load_config,
    overridden,
    to_json,
    validate,
    with_preset,
)
from vaejax.config.lookup import NAMES
from vaejax.config.presets import PRESETS
from vaejax.models.flows import CouplingFlow
from vaejax.models.likelihoods import LIKELIHOODS
from vaejax.models.networks import DECODERS, ENCODERS
from vaejax.models.posteriors import POSTERIORS
from vaejax.models.priors import PRIORS
from vaejax.objectives.optimizers import OPTIMIZERS, SCHEDULES
from vaejax.objectives.regularizers import REGULARIZERS, make_method

TABLES = {
    "encoders": ENCODERS,
    "posteriors": POSTERIORS,
    "priors": PRIORS,
    "decoders": DECODERS,
    "likelihoods": LIKELIHOODS,
    "regularizers": REGULARIZERS,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
}
# Arguments that the program supplies, not the config.
SUPPLIED = {"axis_name", "latent_dim", "x_shape", "num_steps", "setting", "parent", "name"}
SUPPLIED.add("layers")
FILES = sorted(Path(__file__).parents[1].glob("configs/**/*.py"))
FILES = [path for path in FILES if not path.name.startswith("table_")]


def changed(path: str, value):
    """The default config as a plain tree with one value set, known or not."""
    config = default_config().to_dict()
    node = config
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    return config


def from_tree(tree):
    return from_json(json.dumps(tree))


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("priors.decoupled.num_block", "num_blocks"),
        ("priors.decopled", "decoupled"),
        ("regularizers.info.lambda", "lambda_"),
        ("encoders.mlp.width", "widths"),
        ("learning_rate", None),
    ],
)
def test_unknown_key_is_an_error_that_names_the_nearest(path, right):
    with pytest.raises(ValueError, match="unknown key") as error:
        from_tree(changed(path, 1))
    assert f"config.{path}" in one_line(error)
    assert right is None or f"did you mean {right!r}?" in one_line(error)


@pytest.mark.parametrize("choice", [*CHOICES, *NAMES])
def test_unknown_name_is_an_error_that_names_the_nearest_and_all(choice):
    rows = NAMES[choice] if choice in NAMES else default_config()[CHOICES[choice]].keys()
    for name in rows:
        wrong = name + "x"
        with pytest.raises(ValueError, match=f"unknown {choice} {wrong!r}") as error:
            from_tree(changed(choice, wrong))
        assert f"did you mean {name!r}?" in one_line(error)
        assert all(row in one_line(error) for row in rows)


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("latent_dim", 2.0, "int"),
        ("latent_dim", True, "int"),
        ("latent_dim", None, "int"),
        ("tensorboard", 1, "bool"),
        ("prior", 3, "str"),
        ("clip_norm", "1.0", "float"),
        ("clip_norm", True, "float"),
        ("encoders.mlp.widths", 100, "tuple"),
        ("priors.decoupled.mask", {"half": 1}, "str"),
        ("steps_per_dispatch", 2.5, "int"),
        ("compute_dtype", None, "str"),
        ("priors.decoupled", 4, "table"),
    ],
)
def test_wrong_type_is_an_error_that_names_the_right_one(path, value, kind):
    with pytest.raises(ValueError, match=f"config.{path} is") as error:
        from_tree(changed(path, value))
    assert kind in one_line(error)


def test_whole_number_is_a_float():
    config = from_tree(changed("regularizers.beta_h.beta", 4))
    assert config.regularizers.beta_h.beta == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", ["clip_norm", "regularizers.beta_tc.beta"])
def test_value_that_is_not_finite_is_an_error(path, value):
    with pytest.raises(ValueError, match=rf"config\.{path} is .*finite") as error:
        from_tree(changed(path, value))
    one_line(error)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("latent_dim", 0),
        ("batch_size", 0),
        ("num_steps", -1),
        ("keep_checkpoints", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("clip_norm", -1.0),
        ("steps_per_dispatch", -1),
    ],
)
def test_size_out_of_range_is_an_error(path, value):
    with pytest.raises(ValueError, match=f"config.{path} is {value}") as error:
        from_tree(changed(path, value))
    one_line(error)


@pytest.mark.parametrize(
    ("choice", "name", "field", "value"),
    [
        ("encoder", "mlp", "widths", (0,)),
        ("encoder", "mlp", "widths", ("wide",)),
        ("decoder", "mlp", "widths", (8, -1)),
        ("prior", "decoupled", "num_blocks", 0),
        ("prior", "decoupled", "width", 0),
        ("regularizer", "factor", "critic_width", 0),
        ("regularizer", "factor", "critic_depth", -1),
        ("regularizer", "beta_b", "capacity_steps", 0),
        ("likelihood", "gaussian", "mse_weight", 0.0),
        ("schedule", "cosine", "warmup_steps", 10_000),
    ],
)
def test_bad_size_in_a_row_is_an_error_before_anything_runs(choice, name, field, value):
    tree = changed(f"{CHOICES[choice]}.{name}.{field}", value)
    tree[choice] = name
    with pytest.raises(ValueError, match=field) as error:
        make_method(from_tree(tree), (2,), 1_000)
    one_line(error)


def test_missing_key_is_an_error():
    tree = default_config().to_dict()
    del tree["priors"]["decoupled"]["width"]
    with pytest.raises(ValueError, match=r"missing key config\.priors\.decoupled\.width"):
        from_tree(tree)


@pytest.mark.parametrize("text", ["[]", "3", "null", "", "{"])
def test_text_that_is_no_config_is_an_error(text):
    with pytest.raises(ValueError, match=".") as error:
        from_json(text)
    one_line(error)


def test_overrides_change_what_they_name_and_nothing_else():
    arguments = ["--config.prior=standard_normal", "--config.encoders.mlp.widths=(3,4)"]
    config = overridden(default_config().copy_and_resolve_references().unlock(), arguments)
    assert config.is_locked
    assert differing_keys(default_config(), config) == [
        "encoders.mlp.widths: (100, 50) != (3, 4)",
        "prior: 'decoupled' != 'standard_normal'",
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.priors.decoupled.widht=3", r"config\.priors\.decoupled\.widht.*'width'"),
        ("--config.seed.more=3", r"config\.seed is a value"),
        ("--config.seed=some", "some"),
        ("--config.latent_dim=2.5", "2.5"),
        ("--config.prior=decoupld", "did you mean 'decoupled'"),
        ("--confg.seed=3", "confg"),
    ],
)
def test_wrong_override_is_an_error(argument, message):
    with pytest.raises(ValueError, match=message) as error:
        overridden(default_config().unlock(), [argument])
    one_line(error)


@pytest.mark.parametrize(
    "preset", [f"{name}/{'/'.join(pair)}" for name, rows in PRESETS.items() for pair in rows]
)
def test_every_preset_is_valid_and_sets_its_method(preset):
    config = with_preset(default_config().unlock(), preset)
    validate(config)
    assert preset.endswith(f"{config.regularizer}/{config.prior}")
    assert differing_keys(default_config(), config)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_config_file_is_valid_and_locked_and_survives_json(path, tmp_path):
    config = load_config(str(path))
    validate(config)
    assert config.is_locked
    assert all(config[table].is_locked for table in CHOICES.values())
    again = from_json(to_json(config))
    assert again.to_dict() == config.to_dict()
    assert differing_keys(config, again) == []
    assert isinstance(again.encoders.mlp.widths, tuple)
    assert again.is_locked
    assert to_json(again) == to_json(config)
    (tmp_path / "config.json").write_text(to_json(config))
    assert load_config(str(tmp_path / "config.json")).to_dict() == config.to_dict()


def test_differing_keys_are_exactly_the_changed_ones():
    one, other = default_config().unlock(), default_config().unlock()
    assert differing_keys(one, other) == []
    other.seed = 3
    other.priors.decoupled.mask = "half"
    one.encoders.mlp.widths = (7,)
    assert differing_keys(one, other) == [
        "encoders.mlp.widths: (7,) != (100, 50)",
        "priors.decoupled.mask: 'alternating' != 'half'",
        "seed: 0 != 3",
    ]
    del other.priors.decoupled["width"]
    assert "priors.decoupled.width: 64 != None" in differing_keys(one, other)


def test_missing_file_names_the_nearest(tmp_path):
    shutil.copy(FILES[0], tmp_path / "two_moons.py")
    for wrong in ("two_moon.py", "twomoons.py", "two_moons.json"):
        with pytest.raises(ValueError, match=r"no file .*did you mean .*two_moons\.py") as e:
            load_config(str(tmp_path / wrong))
        one_line(e)
    with pytest.raises(ValueError, match="no file"):
        load_config(str(tmp_path / "no" / "such.py"))


@pytest.mark.parametrize(
    "text",
    ["x = 1\n", "def get_config():\n    return None\n", "def get_config():\n    return {}\n"],
)
def test_python_file_without_a_config_is_an_error(text, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.py") as error:
        load_config(str(file))
    one_line(error)


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_the_keyword_arguments_of_their_functions(table):
    """Names agree, hyper-parameters agree, and so do defaults where both sides have one."""
    rows = default_config()[table]
    assert set(rows) == set(TABLES[table])
    for name, function in TABLES[table].items():
        parameters = dict(inspect.signature(function).parameters)
        if "flow" in parameters:  # `**flow` are the fields of the flow
            del parameters["flow"]
            parameters = {**inspect.signature(CouplingFlow).parameters, **parameters}
        wanted = parameters.keys() - SUPPLIED
        row = rows[name].to_dict()
        if table == "optimizers":  # optax has more than we set
            assert row.keys() <= wanted
            continue
        assert row.keys() == wanted, name
        for key, value in row.items():
            assert parameters[key].default in (value, inspect.Parameter.empty), (name, key)
