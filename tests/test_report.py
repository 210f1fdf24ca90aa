"""A page of runs says all that is known of them, needs nothing else, and replaces nothing else."""

import html
import json
import re
import shlex
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from PIL import Image

from tests.conftest import one_line
from vaejax.cli import main
from vaejax.data.sources import dataset_from
from vaejax.evaluation.plane import planes
from vaejax.evaluation.subject import Subject
from vaejax.reporting.explorer import sprite
from vaejax.reporting.opened import opened
from vaejax.reporting.page import script_json
from vaejax.reporting.report import write_report
from vaejax.reporting.run import write_figures
from vaejax.training.loop import fit

ODD = '<b>&"x'
# Name -> value, standard error, protocol.
NUMBERS = {
    "elbo": (-1.25, 0.1, "test split, all 40 examples; key = (seed 0, index)"),
    "importance_weighted_nll": (1.5, 0.2, "test split; 3 draws of q(z|x) each; seed 0"),
    "cost/kl": (12.0, None, "one <block> & no more"),
    "loss": (float("nan"), None, "2 blocks"),
    "symmetric_kl": (0.125, 0.01, f"q(z) of {ODD}"),
    "symmetric_kl_knn[representation]": (0.5, None, "nearest neighbors"),
    "leakage[0.001]": (1e-7, None, "log p0 < -8.7"),
    "frechet[identity, random]": (0.75, None, "random: 96, against 96 of the train split"),
    "frechet[identity, floor]": (0.0, None, "floor: 40, against 96 of the train split"),
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two tiny runs of different priors; the first is evaluated and has a name to be escaped."""
    import vaejax

    folder, found = tmp_path_factory.mktemp("report"), []
    for name, prior in ((ODD, "decoupled"), ("plain", "standard_normal")):
        config = vaejax.load_config("configs/tiny.py").unlock()
        config.prior = prior
        fit(config, folder / name, quiet=True)
        found.append(folder / name)
    keys = ("value", "standard_error", "protocol")
    rows = {name: dict(zip(keys, number, strict=True)) for name, number in NUMBERS.items()}
    counts, names = {"images": 96}, ["symmetric_kl", "leakage", "frechet"]
    asked = {"importance_samples": 3, "metrics": names, "counts": counts, "thresholds": []}
    evaluation = {"step": 4, "versions": {"commit": "abc1234", "jax": "0.1"}, "metrics": rows}
    evaluation["protocol"] = asked
    (found[0] / "evaluation.json").write_text(json.dumps(evaluation))
    (found[0] / "figures").mkdir()
    (found[0] / "figures" / "moving.gif").write_bytes(b"GIF89a moving")
    (found[0] / "figures" / "samples.png").write_bytes(b"PNG of one")
    return found


@pytest.fixture(scope="module")
def text(workdirs):
    """The page of both runs."""
    return write_report(workdirs).read_text()


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A run with more latent dimensions than a plane has, and its page."""
    import vaejax

    config = vaejax.load_config("configs/tiny.py").unlock()
    config.prior, config.latent_dim, config.num_steps = "standard_normal", 3, 2
    workdir = tmp_path_factory.mktemp("flat")
    fit(config, workdir, quiet=True)
    return workdir, write_report([workdir])


class _Outline(HTMLParser):
    """Ids, addresses, and the rows of tables as text."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses, self.open = [], [], []
        self.rows, self.names, self.values = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value)
        if tag == "tr":
            for each, empty in ((self.rows, ""), (self.names, ""), (self.values, [])):
                each.append(empty)
        if tag == "data":
            self.values[-1].append(dict(attrs)["value"])
        if tag not in ("meta", "link", "img", "input", "wbr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data):
        if "tr" in self.open:
            self.rows[-1] += data
            self.names[-1] += data if "code" in self.open else ""


def test_the_page_is_well_formed_and_asks_for_nothing(text):
    outline = _Outline(text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids)) > 6
    assert len(outline.addresses) > 8
    for address in outline.addresses:
        assert address.startswith(("data:", "#")), address
    for address in outline.addresses:
        assert not address.startswith("#") or address[1:] in outline.ids
    for loads in ("http:", "https:", "url(", "@import", "fetch(", "XMLHttpRequest", "import("):
        assert loads not in text
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert [sorted(run["spaces"]) for run in json.loads(data)["runs"]] == [["z", "z0"], ["z"]]


def test_every_number_appears_with_its_protocol(text):
    outline = _Outline(text)
    for name, (value, _, protocol) in NUMBERS.items():
        k = outline.names.index(name)
        assert protocol in outline.rows[k]
        assert outline.values[k] == [repr(value)]
        assert "no number" in outline.rows[k]  # of the second run
    assert "abc1234" in text
    assert "not finite: loss" in text


def test_the_commands_are_those_that_made_the_numbers(text, workdirs):
    folder = shlex.quote(str(workdirs[0]))
    flags = "--importance-samples 3 --metrics symmetric_kl leakage frechet --samples 96"
    assert html.escape(f"vaejax evaluate --workdir {folder} {flags}\n") in text
    assert html.escape(f"vaejax train --config {shlex.quote(f'{workdirs[0]}/config.json')}") in text
    assert html.escape((workdirs[1] / "config.json").read_text()) in text


def test_a_run_without_an_evaluation_says_what_makes_one(text, workdirs):
    assert f"vaejax evaluate --workdir {workdirs[1]} --metrics all" in text


def test_names_are_escaped_in_text_and_in_scripts(text, workdirs):
    assert ODD not in text
    assert html.escape(ODD) in text
    given = {"a": "</script><!--\u2028", "b": [1.5, None]}
    assert "<" not in script_json(given)
    assert json.loads(script_json(given)) == given
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_other_pictures_of_the_folder_are_taken_along_and_those_drawn_anew_are_not(text):
    import base64

    def uri(content):
        return base64.b64encode(content).decode()

    assert uri(b"GIF89a moving") in text
    assert uri(b"PNG of one") not in text


@pytest.mark.long
def test_what_cannot_be_drawn_is_left_out(tmp_path):
    import vaejax

    config = vaejax.load_config("configs/tiny.py").unlock()
    config.dataset, config.latent_dim, config.num_steps = "swiss_roll", 3, 2
    config.datasets.swiss_roll.update(num_train=60, num_test=30)
    fit(config, tmp_path, quiet=True)
    shown = re.findall(r'alt="(\w+),', write_report([tmp_path]).read_text())
    assert shown[0] == "training"
    assert not {"samples", "latent", "reconstructions", "traversals"} & {*shown}
    with one_line("figure 'samples' does not fit the run: data of shape"):
        write_figures(tmp_path, names=["samples"])


@pytest.mark.long
def test_more_than_two_dimensions_begin_with_samples(flat):
    text = flat[1].read_text()
    assert 'id="explorer"' not in text
    assert "<script" not in text
    assert _Outline(text).ids[:2] == ["picture", "figures"]  # not evaluated
    shown = re.findall(r'alt="(\w+),', text)
    assert shown[0] == "samples"
    assert len(shown) == len(set(shown)) > 2
    assert "3 latent dimensions" in text


def test_the_page_is_a_function_of_the_run_and_only_a_page_is_replaced(flat, tmp_path):
    workdir, path = flat
    assert path == workdir / "report.html"
    first = path.read_bytes()
    assert write_report([workdir]).read_bytes() == first
    notes = tmp_path / "notes.html"
    notes.write_text("<!doctype html> mine")
    (tmp_path / "link.html").symlink_to(path)
    for there in (notes, tmp_path, tmp_path / "link.html"):
        with one_line("is there and"):
            write_report([workdir], there)
    with one_line("no folder"):
        write_report([workdir], tmp_path / "none" / "report.html")
    assert notes.read_text() == "<!doctype html> mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.html", "notes.html"]


def test_runs_that_do_not_belong_together_are_one_line(workdirs, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((workdirs[1] / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"data_sha256": "0" * 64}))
    cases = {
        (tmp_path,): "no run in",
        (workdirs[1], workdirs[1] / "."): "given twice",
        (workdirs[1], other): "of other data",
        (workdirs[1], "--config.seed=1"): "takes no config",
    }
    for arguments, said in cases.items():
        out = tmp_path / "out.html"
        assert main(["report", *map(str, arguments), "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert not out.exists()


def test_planes_are_densities_and_hold_what_the_model_decodes(workdirs):
    run = opened(workdirs[0])
    given = run.model, run.variables, run.dataset, run.transform, run.seed
    found = planes(subject := Subject(*given), nodes=9, num_codes=30)
    for name, plane in found.items():
        cell = (plane.x[1] - plane.x[0]) * (plane.y[1] - plane.y[0])
        for log_density in (plane.log_p, plane.log_q):
            assert np.exp(log_density).sum() * cell == pytest.approx(1, abs=0.02)
        i, j = np.array([0, 16, 48, 80, 128]), np.array([128, 64, 64, 80, 0])
        points = np.stack([plane.x[j], plane.y[i]], axis=1).astype(np.float32)

        def at(vae, points, base=name == "z0"):
            z = vae.prior.from_base(points) if base else points
            return vae.decode(z), vae.prior.log_prob(z), z

        x, log_p, z = run.model.apply(run.variables, points, method=at)
        np.testing.assert_allclose(plane.decoded[i // 16, j // 16], x, rtol=1e-4, atol=1e-4)
        # The ratio is the same number in both spaces.
        ratio = log_p - subject.aggregate.log_prob(z)
        np.testing.assert_allclose((plane.log_p - plane.log_q)[i, j], ratio, rtol=1e-3, atol=2e-2)
    z, z0 = found["z"], found["z0"]
    for cloud in ("codes", "low", "high"):
        to_base = run.model.apply(
            run.variables, getattr(z, cloud), method=lambda vae, z: vae.prior.to_base(z)
        )
        np.testing.assert_allclose(to_base, getattr(z0, cloud), atol=1e-4)
    p, _ = subject.draws
    assert z.pocket_mass == np.mean(p.log_p - p.log_q > 3.0)
    assert len(z.codes) == 30
    with one_line("10 decoded nodes"):
        planes(subject, nodes=10)


def test_spaces_that_coincide_are_one_plane_and_the_data_of_other_seeds_the_same(workdirs):
    run = opened(workdirs[1])
    given = run.model, run.variables, run.dataset, run.transform, run.seed
    assert list(planes(Subject(*given), nodes=9)) == ["z"]
    assert dataset_from(run.config).sha256 == run.config.data_sha256


def test_a_sprite_holds_each_image_in_its_place():
    import base64
    import io

    images = np.array(jax.random.uniform(jax.random.key(0), (3, 3, 2, 4, 3)))
    images[0, 0, 0, 0], images[2, 1, 1, 3] = np.nan, 7.0
    content = base64.b64decode(sprite(images).removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    levels = np.round(np.clip(np.nan_to_num(images), 0, 1) * 255)
    for i, j in ((0, 0), (1, 2), (2, 1)):
        np.testing.assert_array_equal(pixels[2 * i : 2 * i + 2, 4 * j : 4 * j + 4], levels[i, j])
