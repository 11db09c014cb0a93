"""The monitor: what the bounds refuse, and which measurement is the best."""

import math

import pytest

from srpo.config import DAMAGE_BOUNDS, Bound, MonitorConfig
from srpo.errors import ConfigError
from srpo.monitor import best_update, check_ratios, chosen_update, stop_reason, violations

BASE = {"content": 0.9, "spread": 0.16, "clipped": 0.0, "relative": -0.05}


@pytest.mark.parametrize(
    ("bound", "value", "broken"),
    [
        (Bound(metric="content", min_change=-0.05), 0.86, False),
        (Bound(metric="content", min_change=-0.05), 0.84, True),
        (Bound(metric="clipped", max_change=0.1), 0.09, False),
        (Bound(metric="clipped", max_change=0.1), 0.11, True),
        (Bound(metric="content", min_change=0.0), 0.9, False),  # a limit that is just reached is kept
        (Bound(metric="clipped", max_change=0.0), 0.0, False),
        (Bound(metric="spread", min_ratio=0.6), 0.1, False),
        (Bound(metric="spread", min_ratio=0.6), 0.09, True),
        (Bound(metric="spread", max_ratio=2), 0.31, False),
        (Bound(metric="spread", max_ratio=2), 0.33, True),
        (Bound(metric="clipped", max_ratio=2), 0.0, True),  # no ratio to a base of 0
        (Bound(metric="relative", min_ratio=0.5), -0.05, True),  # nor to a negative one
        (Bound(metric="content", min_change=-0.05), math.nan, True),
        (Bound(metric="clipped", max_change=0.1), math.nan, True),
    ],
)
def test_each_limit_holds_on_its_own_side(bound: Bound, value: float, broken: bool) -> None:
    assert bool(violations(BASE | {bound.metric: value}, BASE, [bound])) == broken


def test_the_base_model_itself_violates_no_default_bound() -> None:
    base = {"saturation": 0.4, "sharpness": 0.5, "clipped": 0.0, "spread": 0.2}
    assert violations(base, base, DAMAGE_BOUNDS) == []


@pytest.mark.parametrize(("metric", "limit"), [("clipped", "max"), ("relative", "min")])
def test_a_ratio_to_a_base_that_has_none_is_refused(metric: str, limit: str) -> None:
    check_ratios(BASE, [*(Bound(metric=name, max_change=1) for name in BASE), Bound(metric="spread", min_ratio=0.6)])
    bound = Bound.model_validate({"metric": metric, f"{limit}_ratio": 0.5})
    with pytest.raises(ConfigError, match=f"monitor.bounds: {metric} has no ratio .* give a {limit}_change"):
        check_ratios(BASE, [bound])


def test_a_violation_says_what_happened_and_what_is_allowed() -> None:
    sentences = violations(BASE | {"spread": 0.04}, BASE, [Bound(metric="spread", min_ratio=0.6, min_change=-0.1)])
    assert sentences == [
        "spread changed by −0.120 (from 0.160 to 0.040), past its bound of −0.100",
        "spread is 0.250 times the base (from 0.160 to 0.040), past its bound of 0.6",
    ]


def test_a_metric_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError):
        violations(BASE, BASE, [Bound(metric="colour", min_change=0)])


def test_where_all_are_damaged_the_least_damaged_goes_on() -> None:
    measured = [entry(0, 0.0), entry(10, 0.1, "a", "b"), entry(20, 0.2, "a"), entry(30, 0.3, "b")]
    assert chosen_update(measured, "relative") == 20
    assert chosen_update([*measured, entry(40, 0.01)], "relative") == 40
    assert chosen_update(measured[:1], "relative") is None


def test_what_training_starts_from_is_no_measurement_of_it() -> None:
    """Where that is not the base, update 0 has two entries, and no checkpoint."""
    first, start = entry(0, 0.0), entry(0, 0.5, "a")
    assert chosen_update([first, start], "relative") is None
    assert chosen_update([first, entry(0, 0.5), entry(10, 0.1)], "relative") == 10
    assert stop_reason([first, start], MonitorConfig(stop_after_damaged=1)) is None
    assert stop_reason([first, start, entry(10, 0.1, "a")], MonitorConfig(stop_after_damaged=2)) is None
    patient = MonitorConfig(patience=1)
    assert stop_reason([first, entry(0, 0.5)], patient) is None
    assert stop_reason([first, entry(0, 0.5), entry(10, 0.4)], patient) == (
        "relative has not risen above its value at update 0 for 1 measurement"
    )


def entry(update: int, relative: float, *broken: str) -> dict[str, object]:
    return {"update": update, "relative": relative, "violations": list(broken)}


def test_the_best_has_the_highest_relative_reward_without_damage() -> None:
    assert best_update([entry(20, 0.1), entry(40, 0.3), entry(60, 0.2), entry(80, 0.5, "content")], "relative") == 40


def test_of_equals_the_earliest_is_best() -> None:
    assert best_update([entry(20, 0.3), entry(40, 0.3)], "relative") == 20


def test_there_is_no_best_if_all_are_damaged_or_nothing_was_measured() -> None:
    assert best_update([entry(20, 0.3, "content"), entry(40, math.nan), entry(60, math.inf)], "relative") is None
    assert best_update([], "relative") is None


OFF = MonitorConfig(stop_after_damaged=None)
FIRST = entry(0, 0.0)


@pytest.mark.parametrize(
    ("damaged", "stops"),
    [
        ((True, True), True),
        ((False, True, True), True),
        ((True, True, False), False),
        ((True, False, True), False),
        ((True,), False),
    ],
)
def test_damage_in_a_row_stops(damaged: tuple[bool, ...], stops: bool) -> None:
    measured = [FIRST, *(entry(10 * i, 0.1, *(["spread"] if bad else [])) for i, bad in enumerate(damaged, 1))]
    reason = stop_reason(measured, MonitorConfig(stop_after_damaged=2))
    assert reason == ("2 measurements in a row the model was damaged: spread" if stops else None)
    assert stop_reason(measured, OFF) is None


@pytest.mark.parametrize(
    ("relative", "stops"),
    [
        ((0.1, 0.1, 0.05), True),  # the best is the earliest of equals
        ((0.1, 0.05, 0.2), False),
        ((0.1, 0.05), False),
        ((-0.1, -0.2), True),  # nothing was above the base model
        ((math.nan, math.nan), True),
    ],
)
def test_a_watched_metric_that_no_longer_rises_stops(relative: tuple[float, ...], stops: bool) -> None:
    measured = [FIRST, *(entry(10 * i, value) for i, value in enumerate(relative, 1))]
    assert bool(stop_reason(measured, MonitorConfig(stop_after_damaged=None, patience=2))) == stops


def test_another_metric_can_be_watched() -> None:
    measured = [
        {"update": update, "score": score, "violations": []} for update, score in ((0, 0.1), (5, 0.4), (9, 0.3))
    ]
    assert best_update(measured, "score") == 5
    assert stop_reason(measured, MonitorConfig(watch="score", patience=1)) == (
        "score has not risen above its value at update 5 for 1 measurement"
    )
