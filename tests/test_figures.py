"""What the figures claim: contours, coverage, places in a grid, honest frames; and whole files."""

import copy

import matplotlib as mpl
import numpy as np
import pytest

from vaejax.reporting import figures
from vaejax.reporting.curves import smoothed, training_curves
from vaejax.reporting.latent import MASSES, Grid, latent_spaces, mass_levels


def log_normal(z0):
    return -0.5 * np.sum(z0**2, axis=-1) - np.log(2 * np.pi)


def banana(z0):
    """z = g^-1(z0), and the log density of z where z0 is standard normal."""
    first = 1.4 * z0[..., 0]
    second = np.exp(0.3 * z0[..., 0]) * z0[..., 1] + 0.6 * first**2
    return np.stack([first, second], axis=-1)


def banana_log_density(z):
    first = z[..., 0] / 1.4
    second = (z[..., 1] - 0.6 * z[..., 0] ** 2) * np.exp(-0.3 * first)
    return log_normal(np.stack([first, second], axis=-1)) - np.log(1.4) - 0.3 * first


def grid_of(log_density, x_range, y_range):
    # Different sizes, so that exchanged axes cannot pass.
    x, y = np.linspace(*x_range, 240), np.linspace(*y_range, 300)
    return Grid(x, y, log_density(np.stack(np.meshgrid(x, y), axis=-1)))


@pytest.fixture(scope="module")
def normal_grid():
    return grid_of(log_normal, (-5, 5), (-5.5, 5.5))


@pytest.fixture(scope="module")
def banana_grid():
    return grid_of(banana_log_density, (-7, 7), (-8, 25))


@pytest.fixture
def draws():
    return np.random.default_rng(0).standard_normal((20_000, 2))


def test_mass_levels_of_a_normal_density_are_the_closed_form(normal_grid):
    # In two dimensions the density is exponentially distributed: P(p(z) > c) = 1 - c / p(0).
    expected = np.log1p(-np.array(MASSES)) - np.log(2 * np.pi)
    np.testing.assert_allclose(mass_levels(normal_grid), expected, atol=0.02)


def test_mass_levels_enclose_their_share_of_samples(banana_grid, draws):
    inside = banana_log_density(banana(draws))[:, None] >= mass_levels(banana_grid)
    error = np.sqrt(np.multiply(MASSES, np.subtract(1, MASSES)) / len(draws))
    assert np.all(np.abs(inside.mean(axis=0) - MASSES) < 4 * error + 1e-3)


def test_mass_levels_weigh_cells_by_their_area():
    x = np.concatenate([np.linspace(-5, 0, 400)[:-1], np.linspace(0, 5, 100)])
    z = np.stack(np.meshgrid(x, np.linspace(-5, 5, 300)), axis=-1)
    levels = mass_levels(Grid(x, np.linspace(-5, 5, 300), log_normal(z)))
    np.testing.assert_allclose(levels, np.log1p(-np.array(MASSES)) - np.log(2 * np.pi), atol=0.03)


def test_mass_levels_ignore_where_the_density_vanishes(normal_grid):
    outside = np.hypot(*np.meshgrid(normal_grid.x, normal_grid.y)) > 4.5
    cut = normal_grid._replace(log_density=np.where(outside, -np.inf, normal_grid.log_density))
    np.testing.assert_allclose(mass_levels(cut), mass_levels(normal_grid), atol=0.01)
    latent_spaces(np.zeros((5, 2)), None, None, cut)  # draws without a warning


def notes_of(figure):
    return [text.get_text().strip() for axes in figure.axes for text in axes.texts]


def test_contours_hold_the_shares_of_a_prior_that_fits(banana_grid, normal_grid, draws):
    figure = latent_spaces(banana(draws), draws, None, banana_grid, normal_grid)
    for note in notes_of(figure):
        assert note.startswith("contours hold 50 / 90 / 99 % of the codes")


def test_contours_hold_few_codes_of_a_prior_that_leaks(normal_grid):
    codes = np.array([[0.0, 0.0], [4.9, 0.0], [0.0, 4.9], [9.0, 0.0]])
    (note,) = notes_of(latent_spaces(codes, None, None, normal_grid))
    assert note == "contours hold 25 / 25 / 25 % of the codes\noutside the frame: 1"


def test_latent_spaces_has_one_panel_without_a_base_density(banana_grid, normal_grid, draws):
    z0, labels = draws[:500], np.arange(500) % 10
    one = latent_spaces(banana(z0), None, labels, banana_grid)
    two = latent_spaces(banana(z0), z0, labels, banana_grid, normal_grid)
    titles = [[axes.get_title(loc="left").strip() for axes in f.axes[:-1]] for f in (one, two)]
    assert titles[0] == ["Latent space $z$"]
    assert titles[1] == ["Representation space $z$", "Generation space $z_0 = g(z)$"]


def test_latent_panels_show_the_unit_equally_long_on_both_axes(banana_grid, normal_grid, draws):
    figure = latent_spaces(banana(draws), draws, None, banana_grid, normal_grid)
    for axes in figure.axes[:-1]:
        box = axes.get_window_extent()
        units = box.width / np.ptp(axes.get_xlim()), box.height / np.ptp(axes.get_ylim())
        assert units[0] == pytest.approx(units[1], rel=1e-6)


@pytest.mark.parametrize(("num_labels", "num_colors"), [(1, 1), (2, 2), (10, 10), (11, 1)])
def test_codes_are_colored_by_label_up_to_ten_labels(normal_grid, draws, num_labels, num_colors):
    labels = np.arange(200) % num_labels
    figure = latent_spaces(draws[:200], None, labels, normal_grid)
    scatter = [c for c in figure.axes[0].collections if len(c.get_offsets()) == 200]
    assert len(np.unique(scatter[0].get_facecolors(), axis=0)) == num_colors


def canvas_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("columns", [1, 4, 11])
def test_image_k_stands_at_row_k_over_columns(columns, channels):
    values = np.linspace(0, 1, 11, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (11, 6, 8, channels))
    canvas = canvas_of(figures.image_grid(images, columns=columns))
    rows = -(-11 // columns)
    for k, value in enumerate(values):
        row, column = (k // columns + 0.5) / rows, (k % columns + 0.5) / columns
        assert np.all(canvas[int(row * len(canvas)), int(column * canvas.shape[1])] == value)


def test_an_image_is_shown_upright_and_pixel_for_pixel():
    image = np.random.default_rng(0).random((1, 5, 7, 3)).astype(np.float32)
    canvas = canvas_of(figures.image_grid(image))
    scale = len(canvas) // 5
    assert canvas.shape == (5 * scale, 7 * scale, 3)
    np.testing.assert_array_equal(canvas, image[0].repeat(scale, axis=0).repeat(scale, axis=1))


def test_saved_pixels_are_the_pixels_of_the_canvas(tmp_path):
    from matplotlib.image import imread

    images = np.random.default_rng(0).integers(0, 2, (12, 8, 8, 1)).astype(float)
    figure = figures.image_grid(images, title="Samples")
    figures.save(figure, tmp_path / "grid.png")
    canvas, file = canvas_of(figure), imread(tmp_path / "grid.png")[..., 0]
    edge = round(0.06 * figures.DPI)
    bottom = len(file) - edge
    shown = file[bottom - len(canvas) : bottom, edge : edge + canvas.shape[1]]
    np.testing.assert_array_equal(shown, canvas)


def test_originals_stand_above_their_reconstructions():
    values = np.linspace(0.1, 1, 10, dtype=np.float32)[:, None, None, None]
    x = np.broadcast_to(values, (10, 8, 8, 1))
    canvas = canvas_of(figures.reconstructions(x, x / 2))
    middles = canvas[:, canvas.shape[1] // 20 :: canvas.shape[1] // 10][:, :10]
    quarter = len(canvas) // 4
    np.testing.assert_allclose(middles[quarter], values.ravel())
    np.testing.assert_allclose(middles[3 * quarter], values.ravel() / 2)


def test_reconstructed_points_are_joined_to_their_own_data(draws):
    x, copies = draws[:50], draws[50:100]
    figure = figures.reconstructions(x, copies)
    (lines,) = [c for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    np.testing.assert_allclose(lines.get_segments(), np.stack([x, copies], axis=1))


def test_samples_outside_the_frame_are_counted(draws):
    far = np.concatenate([draws[:97], [[50.0, 0.0], [0.0, -60.0], [1e4, 1e4]]])
    figure = figures.samples(far, draws)
    (legend,) = figure.legends
    assert legend.get_texts()[1].get_text() == "samples (3 of 100 outside the frame)"
    assert max(figure.axes[0].get_xlim()) < 20


def test_figures_leave_inputs_and_settings_as_they_are(banana_grid, normal_grid, draws):
    images = np.random.default_rng(0).normal(0.5, 1, (6, 8, 8, 1))
    inputs = [images, draws[:100], np.arange(100) % 3, *banana_grid]
    before, settings = copy.deepcopy(inputs), dict(mpl.rcParams)
    figures.image_grid(images)
    figures.reconstructions(images, images)
    figures.samples(draws[:100], draws[:100])
    latent_spaces(inputs[1], inputs[1], inputs[2], banana_grid, normal_grid)
    assert dict(mpl.rcParams) == settings
    for one, other in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (0, 8, 8, 1), (4, 3)])
def test_arrays_that_are_neither_images_nor_points_raise(shape):
    with pytest.raises(ValueError, match="can be shown"):
        figures.samples(np.zeros(shape))


class Interrupted(Exception):
    pass


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    figure = figures.image_grid(np.zeros((1, 8, 8, 1)))
    figures.save(figure, path)
    old = path.read_bytes()

    def interrupted(file, **options):
        file.write_bytes(b"half a file")
        raise Interrupted

    monkeypatch.setattr(figure, "savefig", interrupted)
    with pytest.raises(Interrupted):
        figures.save(figure, path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def rows_with(reconstruction):
    return [
        {"step": 10 * k, "elbo": -value - 2, "reconstruction": value, "kl": 2.0, "cost/kl": 2.0}
        for k, value in enumerate(reconstruction)
    ]


def panel(figure, name):
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(name)]
    return axes


def test_an_early_spike_is_cut_off_and_said_so():
    values = 50 + 30 * np.exp(-np.arange(200) / 30)
    calm = training_curves(rows_with(values))
    spiked = training_curves(rows_with([1e6, 1e5, *values[2:]]))
    for name in ("Negative ELBO", "Reconstruction"):
        low, high = panel(spiked, name).get_ylim()
        assert low < 55
        assert 70 < high < 120
        assert panel(spiked, name).get_title(loc="right") == "cut off: up to 1e+06"
        assert panel(calm, name).get_title(loc="right") == ""


def test_held_out_values_are_framed_with_the_training_values():
    train, test = rows_with(np.full(100, 50.0)), rows_with([90.0, 95.0])
    low, high = panel(training_curves(train, test), "Reconstruction").get_ylim()
    assert low < 50
    assert high > 95


def test_non_finite_and_missing_metrics_are_left_out():
    rows = [{"step": 1, "kl": "nan"}, {"step": 2, "kl": 3.0}, {"step": 3}]
    figure = training_curves(rows, [])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["KL (nats)"]
    np.testing.assert_array_equal(figure.axes[0].lines[-1].get_xdata(), [2])
    assert not training_curves([], []).axes


def test_what_codes_without_noise_have_is_not_called_an_elbo():
    rows = [{"step": step, "elbo": 1.0, "kl": 2.0, "reconstruction": 3.0} for step in range(5)]
    titles = {
        has_density: {
            axes.get_title(loc="left")
            for axes in training_curves(rows, has_density=has_density).axes
        }
        for has_density in (True, False)
    }
    assert {"Negative ELBO (nats)", "KL (nats)"} == titles[True] - titles[False]
    assert not any("ELBO" in title or "KL" in title for title in titles[False])


def test_smoothing_keeps_lines_and_drops_lone_spikes():
    line = np.linspace(3, 7, 50)
    np.testing.assert_allclose(smoothed(line, 7)[6:-6], line[6:-6])
    spiked = line.copy()
    spiked[25] = 1e6
    assert smoothed(spiked, 7).max() < 8
    np.testing.assert_array_equal(smoothed(spiked, 1), spiked)
