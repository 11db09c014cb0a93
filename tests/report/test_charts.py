"""The charts: to scale, in the page's colours, and where a limit lies."""

import re
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest

from srpo.report.charts import COLOURS, interval_bar, line_chart
from srpo.report.schema import Comparison, GateCheck


def drawn(*entries: dict[str, Any], best: int = 0, marks: bool = True) -> Element:
    """The chart of `m`; it parses as XML."""
    chart = line_chart("m", entries, "m", best, marks)
    assert chart is not None
    return fromstring(chart.svg)


def points(path: Element) -> list[tuple[float, float]]:
    """Where a path goes."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def strokes(chart: Element, variable: str) -> list[Element]:
    return [path for path in chart.iter("path") if path.get("stroke") == f"var(--{variable})"]


def test_a_line_is_to_scale_and_marks_damage_and_the_best() -> None:
    measured = {"update": 0, "m": 1.0, "of": "base"}, {"update": 5, "m": 3.0}
    chart = drawn(*measured, {"update": 20, "m": 2.0, "violations": ["m < 3 & bad"]}, best=5)
    (x0, y0), (x1, y1), (x2, y2) = points(strokes(chart, "accent")[0])
    assert 0 < x0 < x2 < float(chart.attrib["viewBox"].split()[2])
    assert (x1 - x0) / (x2 - x0) == pytest.approx(5 / 20)
    assert (y2 - y0) / (y1 - y0) == pytest.approx(1 / 2)
    assert y1 < y0, "the largest value is drawn highest"
    assert {x for x, _ in points(strokes(chart, "good")[0])} == {x1}
    marks = {mark.findtext("title"): mark.attrib for mark in chart.iter("use")}
    assert {note: mark["stroke"] for note, mark in marks.items()} == {
        "the base: 1": "var(--accent)",
        "update 5: 3": "var(--accent)",
        "update 20: 2 (m < 3 & bad)": "var(--bad)",
    }
    assert [float(mark["x"]) for mark in marks.values()] == pytest.approx([x0, x1, x2])


def test_a_chart_has_what_the_page_allows_and_only_its_colours() -> None:
    chart = drawn({"update": 0, "m": 1.0}, {"update": 1, "m": 2.0, "violations": ["bad"]})
    assert not [element for element in chart.iter() if element.tag in ("style", "script") or "style" in element.attrib]
    colours = {element.get(name, "none") for element in chart.iter() for name in ("fill", "stroke")}
    assert colours == {"none", *(f"var(--{name})" for name in COLOURS)}
    targets = [element.attrib["id"] for element in chart.iter() if "id" in element.attrib]
    assert sorted(f"#{target}" for target in targets) == sorted({mark.attrib["href"] for mark in chart.iter("use")})


@pytest.mark.parametrize("value", [0.0, 3e-7, 1e9])
def test_a_single_measurement_that_does_not_vary_can_be_drawn(value: float) -> None:
    chart = drawn({"update": 3, "m": value}, best=3, marks=False)
    labels = [text.text for text in chart.iter("text")]
    assert labels[0] == "3", "an update is a whole number"
    assert len(labels) > 2
    assert not list(chart.iter("use"))


def row(change: float, half: float) -> Comparison:
    ends = {"lower": change - half, "upper": change + half, "win_rate": 0.5}
    ratios = {"ratio": None, "ratio_lower": None, "ratio_upper": None}
    return Comparison(reference=0.5, candidate=0.5 + change, change=change, **ends, **ratios)


def test_a_bar_is_symmetric_around_zero_and_reaches_every_limit() -> None:
    check = GateCheck(metric="m", against="base", limit="min_ratio", threshold=0.6, value=0.7, held=True)
    bar = interval_bar(row(0.1, 0.02), [check])
    assert 50 < bar.low < bar.estimate < bar.high < 100
    (limit,) = bar.limits
    assert 0 < limit.at < 50  # 0.6 times a base of 0.5 is a change of -0.2
    assert (50 - limit.at) / (bar.estimate - 50) == pytest.approx(0.2 / 0.1)


def test_a_metric_that_did_not_change_is_drawn_at_zero() -> None:
    bar = interval_bar(row(0.0, 0.0), [])
    assert (bar.low, bar.estimate, bar.high) == (50, 50, 50)


def test_what_is_missing_or_not_finite_is_passed_over() -> None:
    values = [1.0, float("nan"), None, float("inf"), 2.0]
    entries = [*({"update": update, "m": value} for update, value in enumerate(values)), {"update": 9}]
    chart = drawn(*entries)
    assert [mark.findtext("title") for mark in chart.iter("use")] == ["update 0: 1", "update 4: 2"]
    assert len(points(strokes(chart, "accent")[0])) == 2
    assert line_chart("m", entries[1:4], "m", best_update=0, marks=True) is None
