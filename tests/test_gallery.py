"""Every figure of the table is drawn from its arrays, which are what they are called."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import PRIORS, one_line
from matplotlib.figure import Figure
from PIL import Image

import vaejax
from vaejax.cli import main
from vaejax.data.arrays import hashed
from vaejax.data.sources import dataset_from, make_transform
from vaejax.evaluation.exhibits import CANDIDATES, factors, pockets, random_and_low, round_trip
from vaejax.evaluation.landscapes import landscape
from vaejax.evaluation.protocol import Counts, Protocol
from vaejax.evaluation.subject import Subject
from vaejax.evaluation.traversals import decoded
from vaejax.models.vae import initial_variables, make_model
from vaejax.reporting.archives import read_arrays
from vaejax.reporting.figures import file_of
from vaejax.reporting.gallery import FIGURES, chosen_figures, figure_arrays, run_figures
from vaejax.reporting.run import BASIC, labeled_subjects, write_figures

COUNTS = Counts(reference=40, latent=600)
IMAGES_ONLY = {"random_and_low_posterior", "neighbors", "factors"}


def tiny_config(name, **changes):
    config = vaejax.load_config(f"configs/tiny.py:{name}").unlock()
    config.num_steps = 2
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Runs on two moons with either prior."""
    root = tmp_path_factory.mktemp("points")
    for prior in PRIORS:
        vaejax.fit(tiny_config("two_moons", prior=prior), root / prior)
    return [root / prior for prior in PRIORS]


@pytest.fixture(scope="module")
def moons(points):
    return labeled_subjects(points, counts=COUNTS)


@pytest.fixture(scope="module")
def digits():
    """Untrained models of images, of 2 latent dimensions and of 3."""

    def subject(prior, latent_dim):
        config = tiny_config("digits", prior=prior, latent_dim=latent_dim)
        data = dataset_from(config)
        model = make_model(config, data.x_shape)
        params, stats = initial_variables(model, jax.random.key(0), data.x_shape)
        variables = {"params": params, "batch_stats": stats}
        transform, protocol = make_transform(config, data), Protocol(counts=COUNTS)
        return Subject(model, variables, data, transform, 0, protocol)

    return {"two of them": subject("decoupled", 2), "three of them": subject("standard_normal", 3)}


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    return [*found, *(text.get_text() for axes in figure.axes for text in axes.texts)]


@pytest.mark.long
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_of_images_of_two_models(digits, name):
    (figure,) = run_figures(digits, [name]).values()
    fitting = [label for label, each in digits.items() if not FIGURES[name].misfit(each)]
    shown = " ".join([*texts(figure), *(t.get_text() for key in figure.legends for t in key.texts)])
    for label in fitting:
        assert label in shown
    outside = [axes for axes in figure.axes if not inside(figure, axes)]
    assert not outside


def inside(figure, axes):
    box = axes.get_position()
    return min(box.x0, box.y0) >= -1e-6 and max(box.x1, box.y1) <= 1 + 1e-6


@pytest.mark.long
def test_all_figures_of_points_leave_out_those_of_images(moons):
    assert set(FIGURES) - set(chosen_figures(moons, ["all"])) == IMAGES_ONLY
    assert run_figures(moons, ["pockets", "all"]).keys() == FIGURES.keys() - IMAGES_ONLY
    for name in IMAGES_ONLY:
        with one_line(f"figure '{name}' does not fit .*'two_moons' of shape"):
            run_figures(moons, ["all", name])


def test_a_flow_is_drawn_of_those_models_that_have_one(moons):
    first, second = moons
    assert list(figure_arrays(moons, ["coupling"])["coupling"]) == [second]
    with one_line("does not fit .*no coupling flow"):
        run_figures({first: moons[first]}, ["coupling"])
    found = figure_arrays(moons, ["decoupling"])["decoupling"]
    assert [bool(each.is_decoupled) for each in found.values()] == [False, True]


def test_low_posterior_points_are_those_of_lowest_density(moons):
    for subject in moons.values():
        found, (p, q) = pockets(subject), subject.draws
        order = np.argsort(p.log_q[:CANDIDATES], kind="stable")[: CANDIDATES // 5]
        np.testing.assert_array_equal(found.low[0], p.z[order])
        np.testing.assert_allclose(
            found.low_samples, decoded(subject.model, subject.variables, p.z[order]), atol=1e-6
        )
        others = np.delete(p.log_q[:CANDIDATES], order)
        assert p.log_q[order].max() <= others.min()
        high = np.argsort(q.log_base[:CANDIDATES], kind="stable")[: CANDIDATES // 10]
        np.testing.assert_array_equal(found.high[0], q.z[high])
        if len(found.low) > 1:
            np.testing.assert_array_equal(found.low[1], p.z0[order])


def test_images_of_low_posterior_samples_are_a_fifth_of_their_candidates(digits):
    subject = next(iter(digits.values()))
    found, (p, _) = random_and_low(subject), subject.draws
    low = np.argsort(p.log_q[:150], kind="stable")[:30]
    x = decoded(subject.model, subject.variables, p.z[np.concatenate([np.arange(30), low])])
    np.testing.assert_allclose(np.concatenate([found.samples, found.low_samples]), x, atol=1e-6)


def test_densities_of_both_planes_integrate_to_one_where_the_flow_changes_volumes(moons):
    subject = list(moons.values())[1]
    params = jax.tree.map(lambda leaf: leaf, subject.variables["params"])
    bias = params["prior"]["flow"]["scales_0"]["Dense_2"]["bias"]
    params["prior"]["flow"]["scales_0"]["Dense_2"]["bias"] = bias + 1.0
    changed = replace(subject, variables={**subject.variables, "params": params})
    assert np.abs(np.mean(changed.draws[0].log_det)) > 0.3
    scene = landscape(changed, size=100)
    assert list(scene.space) == ["representation", "generation"]
    for x, y, log_q, log_p in zip(*scene[2:], strict=True):
        cell = (x[1] - x[0]) * (y[1] - y[0])
        for log in (log_q, log_p):
            assert 0.9 < np.exp(log.astype(np.float64)).sum() * cell < 1.02


def test_models_of_other_dimensions_share_the_example_of_their_factors(digits):
    found = figure_arrays(digits, ["factors"])["factors"].values()
    assert len({int(each.example) for each in found}) == 1
    assert [len(each.walk.dimensions) for each in found] == [2, 3]
    with one_line("the split has those from 0 to"):
        factors(next(iter(digits.values())), example=10_000)


@pytest.mark.long
def test_files_of_arrays_make_the_same_figure(points, tmp_path):
    shutil.copytree(points[1], tmp_path / "run")
    names = ["leakage", "architecture", "coupling", "interpolations"]
    for path in write_figures(tmp_path / "run", names=names):
        if path.suffix != ".npz":
            continue
        row = FIGURES[path.stem]
        with np.load(path, allow_pickle=False) as file:
            assert all(file[key].dtype != object for key in file)
        figure = row.draw(read_arrays(path, row.kind))
        file_of(figure, ".png")(tmp_path / "again.png")
        drawn = Image.open(path.parents[1] / f"{path.stem}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again.png")), drawn)
    with one_line("has no array"):
        read_arrays(tmp_path / "run/figures/arrays/leakage.npz", FIGURES["pockets"].kind)


def test_four_figures_are_the_default_and_a_pair_has_files_of_its_own(
    points, tmp_path, monkeypatch
):
    for name in BASIC:
        monkeypatch.setitem(BASIC, name, lambda run: Figure())
    for folder in points:
        shutil.copytree(folder, tmp_path / folder.name)
    one, other = (tmp_path / folder.name for folder in points)
    assert [path.name for path in write_figures(one)] == [f"{name}.png" for name in BASIC]
    before = {path.name for path in (one / "figures").iterdir()}
    names = ["decoupling", "architecture", "latent"]
    assert all(path.is_file() for path in write_figures(one, names=names, pair=other))
    new = {path.name for path in (one / "figures").rglob("*.*")} - before
    ends = (".npz", ".png", ".pdf")
    assert new == {f"{name}_pair_decoupled{end}" for name in names[:2] for end in ends}
    assert not (other / "figures").exists()


@pytest.mark.long
def test_an_animation_goes_around_and_ends_where_it_begins(moons, tmp_path):
    arrays = {label: round_trip(each, frames=4) for label, each in moons.items()}
    for each in arrays.values():
        starts, ends = each.walk.z0[:, 0], each.walk.z0[:, -1]
        np.testing.assert_allclose(ends, np.roll(starts, -1, axis=0), atol=1e-6)
    FIGURES["traversal_gif"].animate(arrays, tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as animation:
        assert animation.n_frames == 4 * 3
        assert animation.info["loop"] == 0


def test_labels_that_coincide_name_their_folders(points, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(points[0], tmp_path / name / "seed=0")
    found = labeled_subjects([tmp_path / name / "seed=0" for name in ("one", "two")])
    kind = "beta_tc with standard_normal prior"
    assert list(found) == [f"{kind} (one-seed=0)", f"{kind} (two-seed=0)"]
    with one_line("compared with itself"):
        labeled_subjects([points[0], points[0].parent / "." / points[0].name])


def test_a_pair_of_other_data_or_other_held_out_examples_is_refused(moons, digits):
    one, other = moons.values()
    with one_line("are of different data"):
        run_figures({"one": one, "other": next(iter(digits.values()))}, ["leakage"])
    rows = other.dataset.splits["test"]
    for split in (rows[::-1], rows[:-1]):
        splits = {**other.dataset.splits, "test": split}
        data = hashed(replace(other.dataset, splits=splits), other.dataset.sha256)
        with one_line("hold out different examples"):
            run_figures({"one": one, "other": replace(other, dataset=data)}, ["leakage"])
    protocol = Protocol(counts=replace(COUNTS, latent=601))
    with one_line("different counts of draws"):
        run_figures({"one": one, "other": replace(other, protocol=protocol)}, ["leakage"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--figures", "pocket"], "unknown figure 'pocket'; did you mean 'pockets'?"),
        (["--figures", "sample"], "did you mean 'samples'?"),
        (["--figures", "factors"], "figure 'factors' does not fit beta_tc with decoupled prior"),
        (["--pair", "nowhere"], "nowhere"),
    ],
)
def test_a_bad_name_is_one_line_and_draws_nothing(points, capsys, flags, said):
    assert main(["figures", "--workdir", str(points[1]), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (points[1] / "figures").exists()


def test_the_command_line_lists_every_figure():
    from vaejax.cli import _parser

    commands = next(a for a in _parser()._actions if a.dest == "==SUPPRESS==" or a.choices)
    text = " ".join(commands.choices["figures"].format_help().split())
    for name in (*BASIC, *FIGURES):
        assert name in text
