"""Resident or streamed: the same batches in the same order, and the same run."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line

import vaejax
from vaejax.config import check_same_config, load_config, to_json
from vaejax.data.arrays import Dataset, Part
from vaejax.data.batches import batch_rows
from vaejax.data.sources import dataset_from, make_transform
from vaejax.data.transforms import scaled
from vaejax.training import feed, loop, run
from vaejax.training.feed import Supply, described, dispatches, is_resident, mapped_steps
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


def seen(dataset, resident, num_devices, steps, streams=2, seeds=(3,), most=4):
    """What the step is given, step by step.  -> (num_steps, streams, 24, *X), or of replicas
    (num_steps, replicas, streams, 24, *X).
    """
    is_sweep = len(seeds) > 1

    def step(state, *rows):
        if is_sweep:
            return state + 1, {"rows": jnp.stack(rows, axis=1)}
        gathered = [jax.lax.all_gather(r, "data", tiled=True) for r in rows]
        return state + 1, {"rows": jnp.stack(gathered)}

    devices = jax.local_devices()[:num_devices]
    supply = Supply(dataset, 24, seeds, is_sweep, streams, resident, most)
    mapped, state = mapped_steps(step, devices, supply), np.zeros(len(seeds) if is_sweep else ())
    batches = []
    source, parts = supply.source(devices), dispatches(steps, most, (5,))
    for dispatch in feed.make_feed(supply, source, devices, parts):
        state, metrics = mapped(state, *dispatch.arguments)
        batches += list(np.asarray(metrics["rows"])[: len(dispatch.steps)])
        assert np.all(state == dispatch.steps.stop - steps.start)
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
        for most in (1, 4, 20):
            found = seen(images, resident, num_devices, steps, most=most)
            np.testing.assert_array_equal(found, expected)
        first = seen(images, resident, num_devices, steps, streams=1)
        np.testing.assert_array_equal(first, expected[:, :1])


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_every_replica_sees_the_batches_of_its_own_seed(images, resident, num_devices):
    steps, seeds = range(2, 11), (3, 5, 4, 2**32 - 1)
    found = seen(images, resident, num_devices, steps, seeds=seeds)
    for replica, seed in enumerate(seeds):
        expected = np.array([batch_rows(images, seed, step, 24) for step in steps])
        np.testing.assert_array_equal(found[:, replica], expected)


@pytest.mark.parametrize("most", [1, 3, 20])
@pytest.mark.parametrize("steps", [range(0), range(6, 7), range(100), range(17, 91)])
def test_dispatches_are_the_steps_in_order_and_none_passes_a_stop(steps, most):
    stops = (7, 10)
    parts = dispatches(steps, most, stops)
    assert [step for part in parts for step in part] == list(steps)
    assert all(len(part) <= (most if place else 1) for place, part in enumerate(parts))
    due = {step for step in range(steps.start + 1, steps.stop) for s in stops if step % s == 0}
    ends = {part.stop for part in parts}
    assert due <= ends
    full = [part for part in parts[1:] if part.stop not in due | {steps.stop}]
    assert {len(part) for part in full} <= {most}  # none is shorter than it has to be


@pytest.mark.long
def test_the_step_is_traced_once_and_no_way_to_feed_it_changes_a_bit(tmp_path, monkeypatch):
    make, traces, ended = run.make_train_step, [], []

    def counted(*arguments, **more):
        step = make(*arguments, **more)
        return lambda *given: traces.append(0) or step(*given)

    monkeypatch.setattr(run, "make_train_step", counted)
    ways = [(1, "streamed"), (1, "resident"), (3, "resident"), (20, "streamed"), (20, "resident")]
    for most, placement in ways:
        tiny = load_config("configs/tiny.py:digits").unlock()
        tiny.update(num_steps=11, log_every=1, eval_every=5, checkpoint_every=100, batch_size=8)
        tiny.update(regularizer="factor", placement=placement, steps_per_dispatch=most)
        folder = tmp_path / f"{most}{placement}"
        state = vaejax.fit(tiny, folder, quiet=True)[1]
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
        ended.append((leaves, (folder / "metrics.jsonl").read_text()))
        assert len(traces) == len(ended)
    assert ended[0][1].count("train") == 11
    assert all(one == ended[0] for one in ended)


def test_a_run_goes_on_with_another_way_to_compute_the_same_alone(tmp_path):
    (tmp_path / "config.json").write_text(to_json(load_config("configs/tiny.py")))

    def with_(**values):
        config = load_config("configs/tiny.py").unlock()
        config.update(values)
        return config

    same = with_(convolutions="matmul", steps_per_dispatch=3, placement="streamed")
    check_same_config(tmp_path, same)
    with one_line("compute_dtype: 'float32' != 'bfloat16'"):
        check_same_config(tmp_path, with_(compute_dtype="bfloat16"))


def test_nothing_is_transferred_unasked_while_a_program_is_called(tmp_path, monkeypatch):
    make = feed.make_feed

    def from_host(*arguments):
        for dispatch in make(*arguments):
            count, *rest = dispatch.arguments
            yield dispatch._replace(arguments=(np.asarray(count), *rest))

    monkeypatch.setattr(loop.feeding, "make_feed", from_host)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        vaejax.fit(load_config("configs/tiny.py"), tmp_path, quiet=True)


@pytest.mark.long
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
        platform, process_index = "gpu", 0

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
    def broken(seed, step, *more):
        raise OSError(f"step {step} cannot be read")

    monkeypatch.setattr(feed, "batch_indices", broken)
    with pytest.raises(OSError, match="step 0 cannot be read"):
        seen(images, False, 1, range(3))


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
@pytest.mark.long
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
