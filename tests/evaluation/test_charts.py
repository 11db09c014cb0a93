"""Geometry of the charts: ticks, scales, and where a limit lies."""

import pytest

from srpo.evaluation.charts import HEIGHT, WIDTH, interval_bar, line_chart, nice_ticks
from srpo.evaluation.schema import Comparison, GateCheck


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 120, [0, 20, 40, 60, 80, 100, 120]),
        (0.48, 0.69, [0.5, 0.55, 0.6, 0.65]),
        (-0.1, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]),
        (3e-7, 9e-7, [3e-7, 4e-7, 5e-7, 6e-7, 7e-7, 8e-7, 9e-7]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks, abs=1e-12)


def test_a_line_runs_over_the_whole_width_and_marks_damage_and_the_best() -> None:
    entries = [
        {"update": 0, "m": 1.0, "of": "base"},
        {"update": 5, "m": 3.0},
        {"update": 10, "m": 2.0, "violations": ["m is bad"]},
    ]
    chart = line_chart("m", entries, "m", best_update=5, marks=True)
    assert chart is not None
    xs, ys = [point.x for point in chart.points], [point.y for point in chart.points]
    assert xs[0] < xs[1] == chart.best == pytest.approx((xs[0] + xs[2]) / 2)
    assert min(ys) == ys[1]  # the largest value is drawn highest
    assert all(0 < y < HEIGHT for y in ys)
    assert all(0 < x < WIDTH for x in xs)
    assert [point.damaged for point in chart.points] == [False, False, True]
    assert [chart.points[index].note for index in (0, 2)] == ["the base: 1", "update 10: 2 (m is bad)"]


def test_a_single_measurement_that_does_not_vary_can_be_drawn() -> None:
    chart = line_chart("m", [{"update": 3, "m": 0.0}], "m", best_update=3, marks=False)
    assert chart is not None
    assert chart.y_ticks
    assert not chart.points


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
    chart = line_chart("m", entries, "m", best_update=0, marks=True)
    assert chart is not None
    assert [point.note for point in chart.points] == ["update 0: 1", "update 4: 2"]
    assert "nan" not in chart.path
    assert line_chart("m", entries[1:4], "m", best_update=0, marks=True) is None
