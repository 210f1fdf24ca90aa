"""Metrics side by side: a number is better only where that can be said."""

import re

import pytest

from vaejax.reporting.metric_table import (
    best,
    cell_of,
    comparable,
    mark_of,
    metric_table,
    shown_number,
)


def evaluation(value, error, protocol, unit="nats"):
    return {"value": value, "standard_error": error, "unit": unit, "protocol": protocol}


def test_only_numbers_that_compare_and_differ_have_a_better_one():
    def better(name, *rows):
        return best(name, [cell_of(row) for row in rows])

    low, high = (evaluation(value, 0.1, "test split; seed 0") for value in (1.0, 2.0))
    assert better("symmetric_kl", low, high) == 0
    assert better("elbo", low, high) == 1
    assert better("precision[identity, random]", high, low, low) == 0
    assert better("symmetric_kl", low, low | {"value": 1.28}) is None  # 2 x 0.141
    assert better("symmetric_kl", low, low | {"value": 1.29}) == 0
    assert better("symmetric_kl", low, low | {"value": 1.1}, high) is None
    assert better("symmetric_kl", low, high | {"protocol": "test split; seed 1"}) == 0
    assert better("symmetric_kl", low, high | {"protocol": "train split; seed 0"}) is None
    assert better("symmetric_kl", low, high | {"unit": "bits"}) is None
    assert better("symmetric_kl", low | {"value": float("nan")}, high) is None
    assert better("symmetric_kl", low, None) is None
    for name in (
        "kl",
        "anything",
        "frechet[identity, floor]",
        "frechet[identity, low_posterior_data]",
    ):
        assert better(name, low, high) is None
    assert mark_of("frechet[identity, floor]") == "floor"
    assert mark_of("frechet[identity, low_posterior_data]") == "control"
    assert mark_of("frechet[identity, pixel_midpoints]") == "control"
    assert mark_of("frechet[identity, pca_mixture]") == "control"
    assert mark_of("accuracy[pixels, 100 labels]") == "control"
    for name in ("frechet[identity, random]", "near_training[rmse, random]"):
        assert mark_of(name) == ""
    assert comparable([None, cell_of(low)])


def test_rows_of_different_protocols_say_so_and_mark_nothing():
    rows = [evaluation(1.0, None, "2,000 draws"), evaluation(2.0, None, "5,000 draws")]
    table = metric_table(["a", "b"], [{"metrics": {"symmetric_kl": row}} for row in rows])
    assert "protocols differ: not comparable" in table
    assert "(better)" not in table
    assert "<b>b</b>: 5,000 draws" in table
    table = metric_table(["a", "b"], [{"metrics": {"symmetric_kl": row}} for row in 2 * rows[:1]])
    assert "not comparable" not in table


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (-2.3517, 0.107, "\u22122.35 \u00b1\u00a00.11"),
        (12345.6, 12.0, "12,346 \u00b1\u00a012"),
        (0.00012345, None, "0.0001234"),
        (1e-9, 1e-10, "1e\u221209 \u00b1\u00a01e-10"),
        (float("inf"), 0.1, "inf"),
        (3.0, 0.0, "3"),
    ],
)
def test_a_number_shows_two_digits_of_its_error(value, error, shown):
    cell = cell_of(evaluation(value, error, ""))
    assert re.sub("<[^>]*>", "", shown_number(cell)) == shown
