"""A table is its runs' numbers, once; what does not belong together is refused."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line

from vaejax.cli import main
from vaejax.config import load_config
from vaejax.data.sources import dataset_from
from vaejax.data.transforms import scaled
from vaejax.evaluation.comparison import Comparison
from vaejax.evaluation.control import Control
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.evaluation.samples import frechet_distance, moments
from vaejax.tables.plan import cells_of, default_table, load_table, validate_table
from vaejax.tables.results import claims, without_seed
from vaejax.tables.table import _claims as table_claims
from vaejax.tables.table import fill_table
from vaejax.tables.write import markdown, number

CONFIGS = "configs"
METHODS = (("none", "regularizer=none"),)
POINTS = ("datasets.two_moons.num_train=400", "datasets.two_moons.num_test=320")


def small_table(**changes):
    table = default_table()
    table.datasets = (("moons", "tiny.py", *POINTS),)
    table.methods = METHODS
    table.seeds = (0, 1)
    table.samples = 300
    table.importance_samples = 3
    table.metrics = ("symmetric_kl", "information", "leakage", "frechet", "precision_recall")
    table.update(changes)
    return table


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("table")
    fill_table(small_table(), workdir, CONFIGS)
    return workdir


def result_of(workdir):
    return json.loads((workdir / "table.json").read_text())


@pytest.mark.long
def test_every_number_is_that_of_its_runs(filled):
    (part,) = result_of(filled)["datasets"].values()
    rows = [row for row in part["rows"] if row["prior"] != "control"]
    assert [(row["method"], row["prior"]) for row in rows] == [
        (method, prior) for method, _ in METHODS for prior in ("standard_normal", "decoupled")
    ]
    for row in rows:
        folder = filled / "moons" / f"{row['method']}-{row['prior']}"
        assert [run["folder"] for run in row["runs"]] == [str(folder / f"seed={k}") for k in (0, 1)]
        files = [json.loads((folder / f"seed={k}" / "evaluation.json").read_text()) for k in (0, 1)]
        for name, label in [("symmetric_kl", "sKL"), ("frechet[fourier, random]", "FD")]:
            values = [each["metrics"][name]["value"] for each in files]
            assert row["columns"][label]["mean"] == np.mean(values)
            assert row["columns"][label]["sd"] == np.std(values, ddof=1)
        for run, file in zip(row["runs"], files, strict=True):
            assert run["config_sha256"] == file["config_sha256"]
        gap = [row["columns"][label]["mean"] for label in ("LP gap", "FD (LP)", "FD")]
        assert gap[0] == pytest.approx(gap[1] - gap[2])


def test_markdown_and_csv_hold_the_numbers_of_the_json(filled):
    (part,) = result_of(filled)["datasets"].values()
    lines = list(csv.DictReader(io.StringIO((filled / "table.csv").read_text())))
    text = (filled / "table.md").read_text().splitlines()
    header = next(line for line in text if line.startswith("| method")).split(" | ")
    count = 0
    for row in part["rows"]:
        (shown,) = (t for t in text if t.startswith(f"| {row['method']} | {row['prior']} |"))
        for label, column in row["columns"].items():
            (line,) = (
                each
                for each in lines
                if (each["method"], each["prior"], each["column"])
                == (row["method"], row["prior"], label)
            )
            assert (float(line["mean"]), float(line["sd"])) == (column["mean"], column["sd"])
            place = [name.strip(" |") for name in header].index(label)
            cell = shown.split(" | ")[place].strip(" |")
            assert cell == number(column["mean"], column["sd"])
            count += 1
    assert count == len(lines)


def test_a_second_time_nothing_is_trained_evaluated_or_changed(filled):
    before = {path: path.stat().st_mtime_ns for path in filled.rglob("*") if path.is_file()}
    texts = {path.name: path.read_text() for path in filled.glob("table.*")}
    fill_table(small_table(), filled, CONFIGS)
    for path, time in before.items():
        if path.parent != filled:
            assert path.stat().st_mtime_ns == time, path
    assert {path.name: path.read_text() for path in filled.glob("table.*")} == texts


def test_an_evaluation_of_another_protocol_is_made_anew_and_one_that_differs_is_refused(filled):
    path = filled / "moons" / "none-decoupled" / "seed=1" / "evaluation.json"
    text = path.read_text()
    other = json.loads(text)
    other["protocol"]["importance_samples"] = 2
    other["metrics"]["symmetric_kl"]["value"] = 1e6
    path.write_text(json.dumps(other))
    fill_table(small_table(), filled, CONFIGS)
    assert json.loads(path.read_text())["metrics"] == json.loads(text)["metrics"]
    other = json.loads(text)
    other["metrics"]["symmetric_kl"]["protocol"] += " with care"
    path.write_text(json.dumps(other))
    table = (filled / "table.json").read_bytes()
    with one_line("sKL of moons, none, decoupled, prior has different protocols"):
        fill_table(small_table(), filled, CONFIGS)
    assert (filled / "table.json").read_bytes() == table
    path.write_text(text)


def test_rows_of_other_data_are_refused_before_anything_is_trained(tmp_path):
    methods = (*METHODS, ("fewer", "datasets.two_moons.num_train=300"))
    with one_line("moons, fewer, standard_normal is of other data"):
        fill_table(small_table(methods=methods), tmp_path / "w", CONFIGS)
    methods = (*METHODS, ("other", "splits.test=0.3"))
    with one_line("moons, other, standard_normal divides its data"):
        fill_table(small_table(methods=methods), tmp_path / "w", CONFIGS)
    for change, said in [
        (
            {"methods": (("typo", "regularizer=beta_hh"),)},
            "unknown regularizer 'beta_hh'.*'beta_h'",
        ),
        ({"split": "vali"}, "unknown split 'vali'"),
        ({"samples": -1}, "images is -1; it must be positive"),
    ]:
        with one_line(said):
            fill_table(small_table(**change), tmp_path / "w", CONFIGS)
    assert not (tmp_path / "w").exists()


@pytest.mark.long
def test_a_run_that_diverges_has_a_line_and_the_others_their_numbers(tmp_path):
    rate = "schedules.constant.learning_rate=1e30"
    table = small_table(
        methods=(("none", "regularizer=none"), ("wild", rate)), seeds=(0,), control=False
    )
    fill_table(table, tmp_path, CONFIGS)
    (part,) = result_of(tmp_path)["datasets"].values()
    failures = {row["method"]: row["failure"] for row in part["rows"]}
    assert failures["none"] == ""
    assert "not finite" in failures["wild"]
    assert "| wild | decoupled | diverged" in (tmp_path / "table.md").read_text()
    (claim,) = part["claims"]
    assert all(row["pairs"] == 1 for row in claim["columns"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": (0,)}, "unknown key config.seed of a table.*'seeds'"),
        ({"seeds": ()}, "config.seeds is empty"),
        ({"seeds": (0, 0)}, "config.seeds has 0 twice"),
        ({"seeds": ("a",)}, "must be a tuple like"),
        ({"metrics": ("frechett",)}, "unknown metric 'frechett'.*'frechet'"),
        ({"columns": (("FD",),)}, "its rows are a name and its texts"),
        ({"differences": (("LP gap", "FD"),)}, "its rows are a name and its texts"),
        ({"datasets": (("../w", "tiny.py"),)}, "its name becomes a folder's"),
        ({"compared": ("sKl",)}, "no column 'sKl'.*'sKL'"),
        ({"differences": (("gap", "FD", "LP"),)}, "the table has no column"),
        ({"methods": METHODS * 2}, "config.methods has 'none' twice"),
        ({"samples": 300.0}, "must be of type int"),
    ],
)
def test_a_table_config_is_strict(change, said):
    table = small_table()
    for key, value in change.items():
        with table.ignore_type():
            table[key] = value
    with one_line(said):
        validate_table(table)


def test_claims_count_pairs_and_those_beyond_the_spread():
    def row(mean, sd):
        return {"A": {"mean": mean, "sd": sd}}

    pairs = [(row(3, 0.1), row(2, 0.4)), (row(3, 0.1), row(2, 0.6)), (row(1, 0.1), row(2, 0.1))]
    (found,) = claims(["A"], pairs)
    assert (found["pairs"], found["lower"]) == (3, 2)
    assert (found["clearly_lower"], found["clearly_higher"]) == (1, 1)
    (found,) = claims(["A"], [(row(3, None), row(2, None)), (row(3, None), {})])
    assert (found["pairs"], found["lower"], found["clearly_lower"]) == (1, 1, None)
    (found,) = claims(["A"], [])
    assert (found["pairs"], found["clearly_lower"], found["clearly_higher"]) == (0, None, None)


def test_pairs_with_a_collapsed_or_diverged_run_are_named_and_not_counted():
    def row(method, prior, mean, **more):
        numbers = {"mean": mean, "sd": 0.1, "values": {"0": mean}, "unit": "nats", "protocol": "p"}
        found = {"collapsed": False, "failure": "", "columns": {"sKL": numbers}, **more}
        return {"method": method, "prior": prior, "source": "prior", **found}

    first, other = "standard_normal", "decoupled"
    rows = [row("none", first, 3.0), row("none", other, 2.0), row("info", first, 3.0)]
    rows += [row("info", other, 2.0, collapsed=True), row("factor", first, 1.0, failure="diverged")]
    rows += [row("factor", other, 2.0)]
    table = small_table(compared=("sKL",))
    found = table_claims(table, rows)
    assert found[0]["left_out"] == ["info", "factor"]
    assert found[0]["columns"][0]["pairs"] == 1
    part = {"data_sha256": "0", "rows": rows, "claims": found}
    result = {"title": "", "seeds": [0, 1], "columns": ["sKL"], "datasets": {"toy": part}}
    assert "sKL: 1 of 1; lower and higher by more than two sd in 1 and 0" in markdown(result)
    assert "collapsed or diverged: info; factor." in markdown(result)
    part["claims"] = table_claims(table, rows[2:])
    assert "sKL: no pair to compare" in markdown(result)


def test_protocols_compare_without_their_seeds():
    assert without_seed("key = (seed 3, index); seed 12") == without_seed(
        "key = (seed 0, index); seed 4"
    )
    assert without_seed("300 images; seed 3") != without_seed("301 images; seed 3")


def distances(name, images, components, features=None):
    """Of controls with so many components, and of held-out data, to training data."""
    dataset = dataset_from(load_config(f"configs/{name}.py"))
    compared = Comparison(dataset, scaled(dataset.scale), Protocol(counts=Counts(images=images)))
    if features is not None:
        compared.features = compared.features._replace(features_of=features)
    real = moments(compared.real)
    controls = [Control(compared, 0, num_components=k).samples["random"] for k in components]
    return [frechet_distance(real, moments(x), 0) for x in (compared.floor, *controls)]


@pytest.mark.long
def test_a_gaussian_with_the_moments_of_the_data_does_not_look_perfect():
    floor, gaussian, mixture = distances("two_moons", 2_000, (1, 10))
    assert floor < mixture < gaussian
    assert gaussian > 20 * floor
    floor, gaussian, mixture = distances("digits", 297, (1, 10))  # by a classifier
    assert gaussian > 2 * floor
    assert gaussian > 1.5 * mixture


def test_without_a_map_of_features_it_does():
    floor, gaussian = distances("two_moons", 2_000, (1,), features=lambda x: x)
    assert gaussian < 5 * floor + 0.01


def test_the_command_makes_the_table_of_a_config_with_overrides(tmp_path, capsys):
    text = "from vaejax.tables.plan import default_table\n\ndef get_config():\n"
    text += "    config = default_table()\n"
    text += f"    config.datasets = (('moons', '{load_path('tiny.py')}', *{POINTS}),)\n"
    text += "    config.methods = (('none', 'regularizer=none'),)\n    config.samples = 300\n"
    text += "    config.importance_samples = 0\n    config.columns = (('sKL', 'symmetric_kl'),)\n"
    text += "    config.differences, config.compared = (), ('sKL',)\n"
    text += "    config.metrics, config.control = ('symmetric_kl',), False\n    return config\n"
    (tmp_path / "table.py").write_text(text)
    command = ["table", "--config", str(tmp_path / "table.py"), "--workdir", str(tmp_path / "w")]
    assert main([*command, "--config.seed=(0,)"]) == 2
    assert "unknown key config.seed" in capsys.readouterr().err
    assert main([*command, "--config.seeds=(5,)", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "w" / "table.json")
    assert (tmp_path / "w" / "moons" / "none-decoupled" / "seed=5" / "config.json").exists()


def load_path(name):
    return Path(CONFIGS).absolute() / name


@pytest.mark.parametrize("name", ["digits", "two_moons", "mnist"])
def test_the_tables_that_are_shown_have_configs(name, tmp_path):
    table = load_table(f"configs/table_{name}.py")
    cells = cells_of(table, tmp_path, load_path("").absolute())
    assert len(cells) == 12
    assert {cell.config.regularizer for cell in cells} == {name for name, *_ in table.methods}
