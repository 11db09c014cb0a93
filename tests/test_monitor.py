"""The monitor: what the bounds refuse, and which measurement is the best."""

import math

import pytest

from srpo.config import DAMAGE_BOUNDS, Bound
from srpo.monitor import best_update, violations

BASE = {"content": 0.9, "spread": 0.16, "clipped": 0.0, "relative": -0.05}


@pytest.mark.parametrize(
    ("bound", "value", "broken"),
    [
        (Bound(metric="content", min_change=-0.05), 0.86, False),
        (Bound(metric="content", min_change=-0.05), 0.84, True),
        (Bound(metric="clipped", max_change=0.1), 0.09, False),
        (Bound(metric="clipped", max_change=0.1), 0.11, True),
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


def test_a_violation_says_what_happened_and_what_is_allowed() -> None:
    sentences = violations(BASE | {"spread": 0.04}, BASE, [Bound(metric="spread", min_ratio=0.6, min_change=-0.1)])
    assert sentences == [
        "spread changed by -0.120 (from 0.160 to 0.040), past its bound of -0.1",
        "spread is 0.25 times the base (from 0.160 to 0.040), past its bound of 0.6",
    ]


def test_a_metric_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError):
        violations(BASE, BASE, [Bound(metric="colour", min_change=0)])


def entry(update: int, relative: float, *broken: str) -> dict[str, object]:
    return {"update": update, "relative": relative, "violations": list(broken)}


def test_the_best_has_the_highest_relative_reward_without_damage() -> None:
    assert best_update([entry(20, 0.1), entry(40, 0.3), entry(60, 0.2), entry(80, 0.5, "content")]) == 40


def test_of_equals_the_earliest_is_best() -> None:
    assert best_update([entry(20, 0.3), entry(40, 0.3)]) == 20


def test_there_is_no_best_if_all_are_damaged_or_nothing_was_measured() -> None:
    assert best_update([entry(20, 0.3, "content"), entry(40, math.nan)]) is None
    assert best_update([]) is None
