"""The order of batches is a pure function of (seed, step)."""

import jax
import numpy as np
import pytest

from vaejax.data.arrays import normalized
from vaejax.data.batches import batch_indices, batch_rows, blocks
from vaejax.data.sources import digits


def test_one_epoch_covers_every_row_but_the_dropped_ones_exactly_once():
    for epoch in (0, 7):
        seen = np.concatenate([batch_indices(4, 10 * epoch + i, 103, 10) for i in range(10)])
        assert len(seen) == len(set(range(103)) & set(seen.tolist())) == 100
    for batch_size in (0, 104):
        with pytest.raises(ValueError, match=rf"\Abatch_size is {batch_size}[^\n]*103[^\n]*\Z"):
            batch_indices(0, 0, 103, batch_size)


def test_batches_are_a_pure_function_of_seed_and_step():
    steps = [0, 31, 2, 30, 999]
    once = {step: batch_indices(1, step, 50, 8).copy() for step in steps}
    for step in sorted(steps, reverse=True):
        np.testing.assert_array_equal(batch_indices(1, step, 50, 8), once[step])
    with pytest.raises(ValueError, match="read-only"):
        batch_indices(1, 0, 50, 8)[0] = 3
    train = digits().splits["train"]
    for stream, rows in enumerate(batch_rows(digits(), seed=2, step=17, batch_size=100)):
        np.testing.assert_array_equal(rows, train[batch_indices(2, 17, 1_500, 100, stream)])
    # The order of every published run: a change of it belongs into Changes, with the reason.
    assert batch_indices(3, 1_000, 1_500, 6, 1).tolist() == [969, 1223, 1495, 1121, 312, 440]


def test_epochs_seeds_and_streams_are_independent_orders():
    num = 10_000
    cases = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1)]  # seed, epoch, stream
    orders = [batch_indices(seed, epoch, num, num, stream) for seed, epoch, stream in cases]
    # The correlation of two independent permutations has standard error 1 / sqrt(n - 1).
    assert np.abs(np.corrcoef(orders) - np.eye(5)).max() < 4 / np.sqrt(num - 1)


@pytest.mark.parametrize(("num_examples", "size"), [(10, 5), (11, 5), (1, 5), (297, 100), (4, 1)])
def test_blocks_cover_a_split_exactly_once(num_examples, size):
    pairs = list(blocks(num_examples, size))
    assert all(len(i) == len(mask) == size and i.max() < num_examples for i, mask in pairs)
    covered = np.concatenate([indices[mask] for indices, mask in pairs])
    np.testing.assert_array_equal(covered, np.arange(num_examples))


def test_normalized_divides_by_the_scale_in_float32():
    raw = np.arange(256, dtype=np.uint8)
    for scale in (16.0, 255.0):
        x = jax.jit(normalized, static_argnums=1)(raw, scale)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, raw / scale, rtol=np.finfo(np.float32).eps)  # one rounding
