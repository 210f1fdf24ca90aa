"""Where codes are drawn from is an axis of a table, and changes samples alone."""

import json
from pathlib import Path

import pytest
from conftest import one_line
from test_tables import CONFIGS, result_of, small_table

from vaejax.evaluation.metrics import OF_SAMPLES
from vaejax.expost.families import default_density_config
from vaejax.expost.fit import density_sha256, fit_density
from vaejax.tables.plan import cells_of, load_table
from vaejax.tables.table import fill_table

pytestmark = pytest.mark.long
SOURCES = (("prior",), ("gaussian", "density=gaussian"), ("two", "density=gmm"))
SOURCES = (*SOURCES[:2], (*SOURCES[2], "densities.gmm.num_components=2"))
NOISE = ("posterior=fixed_scale", "posteriors.fixed_scale.scale=0.1")  # it cannot collapse
METHODS = (("none", "regularizer=none", *NOISE),)
COLUMNS = (("FD", "frechet[*, random]"), ("FD (rec.)", "frechet[*, reconstructions]"))


def sourced_table(**changes):
    given = {"sources": SOURCES, "without": ("*-decoupled-two",), "columns": COLUMNS}
    given |= {"metrics": ("frechet",), "importance_samples": 0, "control": False, "seeds": (0,)}
    return small_table(
        **{**given, "differences": (), "methods": METHODS, "compared": ("FD",), **changes}
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("table")
    fill_table(sourced_table(), workdir, CONFIGS)
    return workdir


def rows_of(workdir):
    (part,) = result_of(workdir)["datasets"].values()
    return {(row["prior"], row["source"]): row for row in part["rows"]}


def test_every_cell_has_a_row_for_every_source_that_is_not_left_out(filled):
    names = [source for source, *_ in SOURCES]
    pairs = [(prior, name) for prior in ("standard_normal", "decoupled") for name in names]
    assert list(rows_of(filled)) == [pair for pair in pairs if pair != ("decoupled", "two")]


def test_a_source_changes_samples_alone(filled):
    rows = rows_of(filled)
    for prior in ("standard_normal", "decoupled"):
        mine = [row["columns"] for pair, row in rows.items() if pair[0] == prior]
        assert len({columns["FD (rec.)"]["mean"] for columns in mine}) == 1
        assert len({columns["FD"]["mean"] for columns in mine}) == len(mine)


def test_priors_and_sources_are_compared_where_all_else_is_the_same(filled):
    (part,) = result_of(filled)["datasets"].values()
    pairs = {each["other"]: each["columns"][0]["pairs"] for each in part["claims"]}
    assert pairs == {"decoupled": 2, "gaussian": 2, "two": 1}


def test_numbers_of_another_density_are_made_anew(filled):
    folder = filled / "moons" / "none-decoupled" / "seed=0"
    path = folder / "evaluation_gaussian.json"
    text = path.read_text()
    assert json.loads(text)["density_sha256"] == density_sha256(folder, "gaussian") != ""
    assert json.loads((folder / "evaluation.json").read_text())["density_sha256"] == ""
    other = json.loads(text)
    other["density_sha256"] = "0" * 64
    for row in other["metrics"].values():
        row["value"] = 1e6
    path.write_text(json.dumps(other))
    fill_table(sourced_table(), filled, CONFIGS)
    assert json.loads(path.read_text()) == json.loads(text)


def test_another_density_of_the_name_is_refused_and_stays(filled):
    folder = filled / "moons" / "none-standard_normal" / "seed=0"
    config = default_density_config().unlock()
    config.density, config.densities.gmm.num_components = "gmm", 3
    fit_density(folder, name="two", config=config, replace=True)
    before = density_sha256(folder, "two")
    with one_line("another density 'two'.*num_components"):
        fill_table(sourced_table(), filled, CONFIGS)
    assert density_sha256(folder, "two") == before


def test_methods_of_unlike_noise_share_only_columns_of_samples(tmp_path):
    table = load_table(f"{CONFIGS}/table_rae.py")
    configs = [cell.config for cell in cells_of(table, tmp_path, Path(CONFIGS))]
    assert len({config.likelihood for config in configs}) > 1
    kinds = {metric.partition("[")[0] for _, metric in table.columns}
    assert kinds <= {*OF_SAMPLES}
