"""A method or another part of the user's own: a function in our table, and a row in a config."""

import sys

import jax
import numpy as np
import pytest
from conftest import one_line
from ml_collections import ConfigDict

import vaejax
from vaejax.cli import main
from vaejax.config import choice_text, default_config, from_json, overridden, to_json, validate
from vaejax.models.priors import PRIORS, StandardNormal
from vaejax.objectives.regularizers import REGULARIZERS, make_method
from vaejax.types import Objective

SCRIPT = """
import vaejax
from vaejax.objectives.regularizers import REGULARIZERS
from vaejax.types import Objective


def small_codes(setting, *, weight):
    def cost(model, terms, key, step):
        return {"small_codes": weight * (terms.code.mean**2).sum(axis=-1).mean()}

    return Objective({"vae": setting.generative(vaejax.kl(setting.elbo_weight), cost)})


REGULARIZERS["small_codes"] = small_codes


def get_config():
    config = vaejax.load_config("configs/tiny.py").unlock()
    config.regularizer = "small_codes"
    config.regularizers.small_codes = {"weight": 0.5}
    return config
"""


OPENING = [
    *([name, "--workdir", "nowhere"] for name in ("train", "evaluate", "figures", "replay")),
    ["sample", "--workdir", "nowhere", "--num", "1"],
    ["export", "--workdir", "nowhere", "--out", "there"],
    ["fit-density", "--workdir", "nowhere"],
    ["report", "nowhere"],
]


@pytest.fixture
def mine(tmp_path):
    """A config file that adds a regularizer, which is gone again after the test."""
    (tmp_path / "mine.py").write_text(SCRIPT)
    yield tmp_path / "mine.py"
    REGULARIZERS.pop("small_codes", None)


def test_a_regularizer_of_ones_own_is_trained_loaded_and_evaluated(mine, tmp_path, capsys):
    workdir, weight = str(tmp_path / "run"), "--config.regularizers.small_codes.weight=0.25"
    assert main(["train", "--config", str(mine), "--workdir", workdir, "--quiet", weight]) == 0
    model, state, config = vaejax.load(workdir)
    assert config.regularizers.small_codes.weight == 0.25
    result = vaejax.evaluate(workdir, importance_samples=0)
    rows = vaejax.dataset_from(config).splits["test"][:24]  # what the blocks of a cost are of
    z = vaejax.embed(model, state, rows)
    cost = result["metrics"]["cost/small_codes"]["value"]
    assert cost == pytest.approx(0.25 * (z**2).sum(axis=-1).mean(), rel=1e-4)
    capsys.readouterr()

    del REGULARIZERS["small_codes"]  # as in a process that knows nothing of it
    command = ["evaluate", "--workdir", workdir, "--importance-samples", "0"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("vaejax: error: no function for regularizer 'small_codes'")
    assert error.count("\n") == 1
    assert main([*command, "--config", str(mine), weight]) == 0
    del REGULARIZERS["small_codes"]
    assert main([*command, "--parts", str(mine)]) == 0  # no override again
    capsys.readouterr()
    mine.write_text("1 / 0")
    assert main([*command, "--parts", str(mine)]) == 2
    said = f"vaejax: error: {mine}: ZeroDivisionError: division by zero\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("command", OPENING, ids=lambda command: command[0])
def test_every_command_that_opens_a_run_executes_parts(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    (tmp_path / "beside_first.py").write_text("")
    first.write_text("import beside_first, pathlib\npathlib.Path(__file__ + '.done').touch()")
    second.write_text("raise SystemExit(0)")
    assert main([*command, "--parts", str(first), "--parts", str(second)]) == 2
    assert capsys.readouterr().err == f"vaejax: error: {second}: SystemExit: 0\n"
    assert (tmp_path / "first.py.done").exists()
    for path, said in (("", "'' is a folder"), (tmp_path / "frist.py", "did you mean")):
        assert main([*command, "--parts", str(path)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_only_the_row_that_is_chosen_may_be_ones_own_and_its_values_are_plain():
    def config(**row):
        config = default_config().unlock()
        config.regularizers.mine = row
        config.regularizer = "mine"
        return config

    fine = config(start=0, sign=-1.5, on=True, name="x", widths=(3, 4), none=())
    validate(fine)
    text = "mine (name x, none , on True, sign -1.5, start 0, widths 3×4)"
    assert choice_text(fine, "regularizer") == text
    assert from_json(to_json(fine)).to_dict() == fine.to_dict()
    assert overridden(fine, ["--config.regularizers.mine.sign=2"]).regularizers.mine.sign == 2
    fine.regularizer = "beta_tc"
    with one_line("unknown key config.regularizers.mine"):
        validate(fine)
    for value in (None, float("nan"), {"a": 1}, (1, None)):
        with one_line("config.regularizers.mine.row is .* it must be a text, a finite number"):
            validate(config(row=value))
    wrong = config()
    wrong.regularizer = "mein"
    with one_line("unknown key config.regularizers.mine"):
        validate(wrong)


def test_hyper_parameters_are_those_of_the_function(monkeypatch, tiny):
    def mine(setting, *, weight):
        return Objective({"vae": setting.generative(vaejax.kl(weight))})

    monkeypatch.setitem(REGULARIZERS, "mine", mine)
    config = tiny()
    config.regularizer, config.regularizers.mine = "mine", ConfigDict({"wieght": 1.0})
    with one_line("config.regularizers.mine is not its row: .*(weight|wieght)"):
        make_method(config, (2,), 10)
    config.regularizers.mine = {"weight": 1.0}
    make_method(config, (2,), 10)


def test_a_prior_of_ones_own_is_sampled_from(monkeypatch, tiny, tmp_path):
    class Wide(StandardNormal):
        width: float = 1.0

        def sample(self, key, num_samples):
            return self.width * super().sample(key, num_samples)

    monkeypatch.setitem(PRIORS, "wide", lambda latent_dim, width: Wide(latent_dim, width=width))
    config = tiny(regularizer="none")
    config.prior, config.priors.wide = "wide", {"width": 7.0}
    model, state, _ = vaejax.fit(config, tmp_path / "run", quiet=True)
    z = model.bind(state.variables()).prior.sample(jax.random.key(0), 1_000)
    assert np.std(z) == pytest.approx(7, rel=0.1)
