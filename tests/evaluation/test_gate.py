"""The gate: the end of the interval decides, not the mean."""

import pytest

from srpo.config import Bound, EvaluationConfig, MonitorConfig, RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.gate import check_gate, check_metrics, judge
from srpo.evaluation.schema import Comparison


def row(change: float, half: float, base: float = 1.0) -> Comparison:
    """A change with a symmetric interval, and the ratio that follows from it."""
    ratios = [(base + change + end) / base if base > 0 else None for end in (0, -half, half)]
    return Comparison(
        reference=base,
        candidate=base + change,
        change=change,
        lower=change - half,
        upper=change + half,
        win_rate=0.5,
        ratio=ratios[0],
        ratio_lower=ratios[1],
        ratio_upper=ratios[2],
    )


def config(gate: list[Bound], monitor: list[Bound] | None = None) -> RunConfig:
    monitored = MonitorConfig(bounds=tuple(monitor or []))
    return RunConfig(evaluation=EvaluationConfig(gate=tuple(gate), wanted="relative"), monitor=monitored)


@pytest.mark.parametrize(
    ("bound", "held"),
    [
        (Bound(metric="m", min_change=0.1), True),  # the interval is 0.15 to 0.25
        (Bound(metric="m", min_change=0.17), False),  # below the mean of 0.2, above the lower end
        (Bound(metric="m", max_change=0.3), True),
        (Bound(metric="m", max_change=0.22), False),
        (Bound(metric="m", min_ratio=1.1), True),
        (Bound(metric="m", min_ratio=1.17), False),
        (Bound(metric="m", max_ratio=1.3), True),
        (Bound(metric="m", max_ratio=1.22), False),
    ],
)
def test_the_end_of_the_interval_must_keep_the_limit(bound: Bound, held: bool) -> None:
    (check,) = check_gate([bound], {"m": row(0.2, 0.05)}, "base")
    assert check.held == held


def test_every_limit_of_a_bound_is_a_check_with_its_value() -> None:
    checks = check_gate([Bound(metric="m", min_change=0, max_ratio=2)], {"m": row(0.2, 0.05)}, "base")
    assert [(check.limit, check.value) for check in checks] == [
        ("min_change", pytest.approx(0.15)),
        ("max_ratio", pytest.approx(1.25)),
    ]


def test_a_ratio_that_does_not_exist_holds_nothing() -> None:
    (check,) = check_gate([Bound(metric="m", max_ratio=10)], {"m": row(0.0, 0.0, base=0.0)}, "base")
    assert (check.value, check.held) == (None, False)


def test_promote_says_what_rose() -> None:
    judged = judge(config([Bound(metric="relative", min_change=0)]), {"relative": row(0.2, 0.05)})
    assert judged.verdict == "promote"
    assert judged.reason == ("Relative rose by 0.200 (95 % interval +0.150 to +0.250), and the gate's one limit holds.")


def test_keep_says_by_what_it_failed() -> None:
    metrics = {"relative": row(0.2, 0.05), "content": row(-0.03, 0.04)}
    gate = [Bound(metric="relative", min_change=0), Bound(metric="content", min_change=-0.05)]
    judged = judge(config(gate), metrics)
    assert judged.verdict == "keep"
    assert judged.reason == (
        "Relative rose by 0.200 (95 % interval +0.150 to +0.250), "
        "but the change of content may be as low as -0.070, while at least -0.05 is demanded."
    )


def test_an_unclear_gain_is_not_called_one() -> None:
    judged = judge(config([Bound(metric="relative", min_change=0)]), {"relative": row(0.02, 0.05)})
    assert judged.verdict == "keep"
    assert judged.reason.startswith("Relative did not clearly move")


def test_damage_by_the_estimate_is_collapse_even_if_the_gate_holds() -> None:
    metrics = {"relative": row(0.5, 0.05), "content": row(-0.3, 0.04), "spread": row(-0.9, 0.01)}
    bounds = [Bound(metric="content", min_change=-0.05), Bound(metric="spread", min_ratio=0.6)]
    judged = judge(config([Bound(metric="relative", min_change=0)], bounds), metrics)
    assert judged.verdict == "collapsed"
    assert len(judged.damage) == 2
    assert "content" in judged.reason
    assert judged.reason.endswith("(and 1 more limit).")


def test_damage_that_only_the_interval_reaches_is_no_collapse() -> None:
    metrics = {"relative": row(0.5, 0.05), "content": row(-0.03, 0.2)}
    bounds = [Bound(metric="content", min_change=-0.05)]
    assert judge(config([Bound(metric="relative", min_change=0)], bounds), metrics).verdict == "promote"


@pytest.mark.parametrize("section", ["gate", "bounds", "wanted"])
def test_a_metric_that_is_not_measured_is_refused_before_any_work(section: str) -> None:
    evaluation: dict[str, object] = {"wanted": "relative"}
    monitor: dict[str, object] = {}
    if section == "bounds":
        monitor["bounds"] = [{"metric": "content", "min_change": 0}]  # only measured in an embedded world
    else:
        evaluation[section] = "content" if section == "wanted" else [{"metric": "content", "min_change": 0}]
    named = RunConfig.model_validate({"evaluation": evaluation, "monitor": monitor})
    with pytest.raises(ConfigError, match=f"{section}: no metric named 'content' is measured here"):
        check_metrics(named)
    check_metrics(named.model_copy(update={"evaluation": named.evaluation.model_copy(update={"world": "shapes"})}))


def test_the_default_config_names_only_what_is_measured() -> None:
    check_metrics(RunConfig())
