"""What a page begins with says no more than the table of all metrics does."""

import re

from vaejax.reporting.headline import headline
from vaejax.reporting.metric_table import metric_table


def row(value, error=0.1, protocol="p", unit="squared"):
    return {"value": value, "standard_error": error, "unit": unit, "protocol": protocol}


def evaluation(random, floor=1.0, **more):
    metrics = {
        "frechet[fourier, random]": row(random),
        "frechet[fourier, floor]": row(floor),
        "symmetric_kl": row(2.0, unit="nats"),
        **more,
    }
    return {"metrics": metrics}


def lines(html):
    """Cells of every row, without their tags."""
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?</t[hd]>", each, re.DOTALL) for each in rows]
    return [[" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in each] for each in cells]


def test_the_better_number_is_green_in_both_tables_and_a_floor_never():
    both = [evaluation(5.0, floor=1.0), evaluation(4.0, floor=2.0)]
    for table in (headline, metric_table):
        html = table(["one", "other"], both)
        (green,) = re.findall(r'<td class="best">.*?</td>', html)
        assert 'value="4.0"' in green
    assert '<tr class="floor">' in headline(["one", "other"], both)


def test_a_row_names_its_features_and_what_is_better():
    found = lines(headline(["one"], [evaluation(5.0)]))
    assert found[1][0].endswith("data fourier features, no FID; lower is better")
    assert found[1][1] == "5.00 \u00b1 0.10"
    assert found[3][0].endswith("in nats; lower is better")
    assert "leak" not in str(found)  # nothing of it was evaluated


def test_what_does_not_compare_is_counted_and_not_shown():
    other = evaluation(4.0)
    other["metrics"]["frechet[fourier, random]"] = row(4.0, protocol="another")
    html = headline(["one", "other"], [evaluation(5.0), other])
    assert "of samples to data" not in html
    assert "1 more do not compare" in html
    assert "do not compare" not in headline(["one", "other"], [evaluation(5.0)] * 2)


def test_a_run_without_a_number_says_so_and_none_have_no_table():
    assert lines(headline(["one", "other"], [evaluation(5.0), {}]))[1][2] == "no number"
    nothing = row(None, None, unit="of q(z)")
    assert headline(["one"], [{"metrics": {"leak_fraction[0.01]": nothing}}]) == ""
    assert headline(["one"], [{}]) == ""
