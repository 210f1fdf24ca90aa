"""Resident or streamed: the same batches in the same order, and the same run."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import vaejax
from vaejax.config import load_config
from vaejax.data.arrays import Dataset, Part
from vaejax.data.batches import batch_rows
from vaejax.data.sources import dataset_from, make_transform
from vaejax.data.transforms import scaled
from vaejax.parallel import usable_devices
from vaejax.training.feed import described, is_resident, make_feed, mapped_step
from vaejax.training.state import TRAIN, observed, stream_key
from vaejax.training.step import make_batch

ROOT = Path(__file__).parent.parent
RUN = """
import sys, vaejax
from vaejax.config import load_config
config = load_config("configs/tiny.py:digits").unlock()
config.placement = sys.argv[1]
vaejax.fit(config, sys.argv[2])
print("grain" in sys.modules)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A memory-mapped array of distinct images, as a data set."""
    path = tmp_path_factory.mktemp("images") / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (103, 4, 3, 1), np.uint8))
    return Dataset("mapped", {"train": np.load(path, mmap_mode="r")}, 255.0)


def seen(dataset, resident, num_devices, steps, streams=(0, 1), seed=3, batch_size=24):
    """What the mapped step is given, step by step.  -> (num_steps, streams, batch_size, *X)."""

    def step(state, *rows):
        return state + 1, tuple(jax.lax.all_gather(r, "data", tiled=True) for r in rows)

    devices = jax.local_devices()[:num_devices]
    mapped, state, batches = mapped_step(step, devices, resident, streams), np.zeros(()), []
    given = {"seed": seed, "steps": steps, "batch_size": batch_size}
    feed = make_feed(dataset, devices, resident, streams, **given)
    for arguments in feed:
        state, both = mapped(state, *arguments)
        batches.append([np.asarray(rows) for rows in both])
    return np.array(batches)


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("is_part", [False, True])
def test_both_placements_give_the_batches_of_the_order_over_epochs(images, num_devices, is_part):
    if is_part:
        part = Part(images.splits["train"], np.arange(0, 103, 2))
        images = Dataset("part", {"train": part}, 255.0)
    steps = range(2, 11)  # from within an epoch into the next ones
    expected = np.array([batch_rows(images, 3, step, 24) for step in steps])
    for resident in (True, False):
        found = seen(images, resident, num_devices, steps)
        np.testing.assert_array_equal(found, expected)
        first = seen(images, resident, num_devices, steps, streams=(0,))
        np.testing.assert_array_equal(first, expected[:, :1])


def test_runs_of_both_placements_write_the_same_metrics(tmp_path):
    texts = []
    for placement in ("resident", "streamed"):
        tiny = load_config("configs/tiny.py:digits").unlock()
        tiny.placement, tiny.regularizer, tiny.batch_size = placement, "factor", 8
        vaejax.fit(tiny, tmp_path / placement, quiet=True)
        texts.append((tmp_path / placement / "metrics.jsonl").read_text())
    assert texts[0] == texts[1]


def test_a_run_says_in_one_line_where_its_data_lie_and_imports_grain_only_to_stream(tmp_path):
    for placement, imported in (("resident", "False"), ("streamed", "True")):
        done = subprocess.run(
            [sys.executable, "-c", RUN, placement, str(tmp_path / placement)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [imported], done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("data: ")]
        assert f"digits: 1,500 train, 297 test; 0.1 MB {placement}" in line


def test_what_is_larger_than_a_share_of_the_device_is_streamed(images):
    class Device:
        platform = "gpu"

        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    size = images.splits["train"].nbytes
    assert size == 103 * 12
    assert is_resident("auto", images, [Device(4 * size)])
    assert not is_resident("auto", images, [Device(4 * size - 4)])
    assert is_resident("resident", images, [Device(1)])
    assert not is_resident("streamed", images, [Device(4 * size)])
    assert is_resident("auto", images, jax.local_devices())
    line = described(images, [Device(1)] * 2, False)
    assert line == "data: mapped: 103 train; 0.0 MB streamed to 2 gpu devices"


def test_an_error_while_rows_are_read_ahead_reaches_the_loop(images, monkeypatch):
    def broken(dataset, seed, step, *more):
        raise OSError(f"step {step} cannot be read")

    monkeypatch.setattr("vaejax.training.feed.batch_rows", broken)
    with pytest.raises(OSError, match="step 0 cannot be read"):
        seen(images, False, 1, range(3))


def test_the_devices_used_divide_the_batch():
    assert [len(usable_devices(size)) for size in (24, 7, 3, 10)] == [8, 7, 3, 5]


STAGES = [
    {"observation": "bernoulli"},
    {"observation": "dequantized"},
    {"augmentation": "published"},
    {"corruption": "masking"},
]


def stand_in(**choices):
    config = load_config("configs/tiny.py:mnist").unlock()
    config.datasets.stand_in.x_shape = (8, 8, 1)
    config.update(encoder="conv", decoder="conv", **choices)
    return config


@pytest.mark.parametrize("choices", STAGES, ids=str)
def test_draws_belong_to_the_example_in_a_batch_and_in_a_split(choices):
    config = stand_in(**choices)
    data = dataset_from(config)
    transform, rows = make_transform(config, data), data.splits["train"][:16]
    root = stream_key(0, TRAIN)

    def batch_of(rows, axis_name=None):
        given = {"transform": transform, "root": root, "step": 5, "axis_name": axis_name}
        batch = make_batch(rows, rows, **given)
        return batch.x, batch.pair, batch.x if batch.corrupted is None else batch.corrupted

    whole = jax.jit(batch_of)(rows)
    split = rows.reshape(8, 2, 8, 8, 1)
    mapped = jax.vmap(lambda r: batch_of(r, "data"), axis_name="data")(split)
    for one, other in zip(whole, mapped, strict=True):
        np.testing.assert_allclose(one, other.reshape(one.shape), atol=1e-6)
    x, pair, encoded = whole
    assert (np.asarray(encoded) != np.asarray(x)).any() == ("corruption" in choices)
    # The second batch has draws of its own.
    assert "corruption" in choices or (np.asarray(pair) != np.asarray(x)).any()
    evaluated = observed(transform, rows, np.arange(16))
    later = observed(transform, rows[7:9], np.arange(7, 9))
    np.testing.assert_array_equal(evaluated[7:9], later)
    if "observation" not in choices:  # neither augmented nor corrupted
        np.testing.assert_allclose(evaluated, rows / 255.0, rtol=2e-7)


@pytest.mark.parametrize(
    "choices",
    [
        {"observation": "bernoulli", "corruption": "masking", "likelihood": "bernoulli"},
        {"observation": "dequantized", "augmentation": "published"},
    ],
    ids=str,
)
def test_training_and_evaluation_run_with_every_stage(tmp_path, choices):
    vaejax.fit(stand_in(**choices), tmp_path, quiet=True)
    from vaejax.evaluation.evaluate import evaluate

    first = evaluate(tmp_path, importance_samples=4)
    assert evaluate(tmp_path, importance_samples=4) == first
    value = {name: metric["value"] for name, metric in first["metrics"].items()}
    assert np.isfinite(list(value.values())).all()
    assert value["elbo"] == pytest.approx(-value["reconstruction"] - value["kl"])


def test_a_stage_that_does_not_fit_the_data_is_refused_in_one_line(tmp_path):
    def refused(match, name, **choices):
        config = load_config(f"configs/tiny.py:{name}").unlock()
        config.update(**choices)
        with pytest.raises(ValueError, match=match) as caught:
            vaejax.fit(config, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    refused("'bernoulli' is for data in .*'two_moons'", "two_moons", observation="bernoulli")
    refused("'published' is for gray and RGB", "two_moons", augmentation="published")
    refused("'dequantized' is for whole numbers", "two_moons", observation="dequantized")
    refused("level is 2.0", "digits", observation="threshold", observations=LEVEL)


LEVEL = {"threshold": {"level": 2.0}}


def test_the_plain_transform_is_that_of_the_default_config():
    config = load_config("configs/tiny.py:digits")
    data = dataset_from(config)
    rows, keys = data.splits["test"][:9], jax.random.split(jax.random.key(0), 9)
    ours, plain = make_transform(config, data), scaled(data.scale)
    np.testing.assert_array_equal(ours.evaluate(rows, keys), plain.evaluate(rows, keys))
    x, encoded = ours.train(rows, keys)
    np.testing.assert_array_equal(x, rows / np.float32(16))
    assert encoded is x
