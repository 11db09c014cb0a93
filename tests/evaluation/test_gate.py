"""The gate: the end of the interval decides, not the mean."""

import pytest

from srpo.config import Bound, EvaluationConfig, ModelConfig, MonitorConfig, RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.gate import Evidence, Judgement, check_gate, check_metrics
from srpo.evaluation.gate import judge as judge_evidence
from srpo.report.schema import Comparison


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


def judge(config: RunConfig, *metrics: dict[str, Comparison]) -> Judgement:
    """The verdict where the gate looks at the intervals that are shown."""
    return judge_evidence(config, *map(Evidence, ("base", "champion"), metrics, metrics))


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
    (check,) = check_gate([bound], {"m": row(0.2, 0.05)}, "base", "relative")
    assert check.held == held


def test_every_limit_of_a_bound_is_a_check_with_its_value() -> None:
    checks = check_gate([Bound(metric="m", min_change=0, max_ratio=2)], {"m": row(0.2, 0.05)}, "base", "m")
    assert [(check.limit, check.value) for check in checks] == [
        ("min_change", pytest.approx(0.15)),
        ("max_ratio", pytest.approx(1.25)),
    ]


def test_a_ratio_that_does_not_exist_holds_nothing() -> None:
    (check,) = check_gate([Bound(metric="m", max_ratio=10)], {"m": row(0.0, 0.0, base=0.0)}, "base", "relative")
    assert (check.value, check.held) == (None, False)


@pytest.mark.parametrize("gated", [False, True])
def test_a_ratio_that_does_not_exist_is_no_damage(gated: bool) -> None:
    """A judge with signed scores, which are better everywhere; the gate refuses such a ratio, and says what to give."""
    metrics = {"relative": row(0.5, 0.05), "reward": row(0.3, 0.05, base=-0.136)}
    bound = Bound(metric="reward", min_ratio=0.9)
    judged = judge(config([Bound(metric="relative", min_change=0), *[bound] * gated], [bound]), metrics)
    assert (judged.verdict, judged.damage) == ("keep" if gated else "promote", [])
    explained = "reward has no ratio to the base, which has −0.136, while at least 0.9 times the base is demanded: the "
    assert (explained + "gate needs a min_change instead" in judged.reason) == gated


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
        "but the change of content may be as low as −0.070, while at least −0.050 is demanded."
    )


def test_a_change_of_a_real_judges_scale_is_no_nought() -> None:
    """HPSv2.1's scores differ by some ten thousandths."""
    metrics = {"relative": row(0.0004, 0.0001), "relative/Pick": row(-0.0002, 0.0001)}
    gate = [Bound(metric="relative/Pick", min_change=-0.0001)]
    assert judge(config(gate), metrics).reason == (
        "Relative rose by 0.00040 (95 % interval +0.00030 to +0.00050), "
        "but the change of relative/Pick may be as low as −0.00030, while at least −0.00010 is demanded."
    )


def test_an_unclear_gain_is_not_called_one() -> None:
    judged = judge(config([Bound(metric="relative", min_change=0)]), {"relative": row(0.02, 0.05)})
    assert judged.verdict == "keep"
    assert judged.reason.startswith("Relative did not clearly move")


def test_the_gate_looks_at_its_own_intervals_and_the_words_at_those_shown() -> None:
    evidence = Evidence("base", shown={"relative": row(0.2, 0.05)}, strict={"relative": row(0.2, 0.3)})
    judged = judge_evidence(config([Bound(metric="relative", min_change=0)]), evidence)
    assert judged.verdict == "keep"
    assert judged.reason == (
        "Relative rose by 0.200 (95 % interval +0.150 to +0.250), "
        "but the change of relative may be as low as −0.100, while at least 0.000 is demanded."
    )


def test_the_gate_against_the_champion_looks_at_its_own_intervals_too() -> None:
    clear, doubtful = ({"relative": row(0.2, half)} for half in (0.05, 0.3))
    named = config([Bound(metric="relative", min_change=0)])
    judged = judge_evidence(named, Evidence("base", clear, clear), Evidence("champion", clear, doubtful))
    assert judged.verdict == "keep"


def test_damage_is_told_by_the_intervals_that_are_shown() -> None:
    rows = {half: {"relative": row(0.5, 0.05), "content": row(-0.3, half)} for half in (0.1, 0.4)}
    named = config([Bound(metric="relative", min_change=0)], [Bound(metric="content", min_change=-0.1)])
    assert judge_evidence(named, Evidence("base", shown=rows[0.1], strict=rows[0.4])).verdict == "collapsed"
    assert judge_evidence(named, Evidence("base", shown=rows[0.4], strict=rows[0.1])).verdict == "promote"


def test_scores_that_are_not_finite_are_collapse_and_say_so() -> None:
    named = config([Bound(metric="relative", min_change=0)])
    clear = {"relative": row(0.2, 0.05)}
    judged = judge_evidence(named, Evidence("base", clear, clear), broken_scores=["content is not finite"])
    assert (judged.verdict, judged.damage) == ("collapsed", ["content is not finite"])
    assert judged.reason == "The model is damaged: content is not finite."


def test_what_is_better_than_the_base_must_be_better_than_the_champion_too() -> None:
    named = config([Bound(metric="relative", min_change=0)])
    base, worse, better = ({"relative": row(change, 0.05)} for change in (0.2, 0.04, 0.06))
    judged = judge(named, base, worse)
    assert judged.verdict == "keep"
    assert [(check.against, check.held) for check in judged.checks] == [("base", True), ("champion", False)]
    assert judged.reason.endswith(
        "but the change of relative against the champion may be as low as −0.010, while at least 0.000 is demanded."
    )
    assert judge(named, base, better).verdict == "promote"
    assert judge(named, base, better).reason.endswith("and all 2 limits of the gate hold against base and champion.")


def test_what_draws_as_its_base_is_no_better() -> None:
    unchanged = dict.fromkeys(("relative", "saturation", "sharpness", "clipped", "spread"), row(0.0, 0.0))
    judged = judge(RunConfig(), unchanged)
    assert (judged.verdict, [check.metric for check in judged.checks if not check.held]) == ("keep", ["relative"])
    assert judged.reason.endswith("the change of relative may be as low as 0.000, while more than 0.000 is demanded.")
    kept = [Bound(metric="relative", min_change=0), Bound(metric="content", min_change=0)]
    assert judge(config(kept), {"relative": row(0.2, 0.05), "content": row(0.0, 0.0)}).verdict == "promote"


def test_a_tie_with_the_champion_is_not_better_beyond_doubt() -> None:
    named = config([Bound(metric="relative", min_change=0)])
    base, tie = {"relative": row(0.2, 0.05)}, {"relative": row(0.0, 0.0)}
    judged = judge(named, base, tie)
    assert judged.verdict == "keep"
    assert [check.demand for check in judged.checks] == ["at least", "more than"]
    assert judged.reason.endswith(
        "but the change of relative against the champion may be as low as 0.000, while more than 0.000 is demanded."
    )
    written = named.evaluation.model_copy(update={"champion_gate": (Bound(metric="relative", min_change=0),)})
    assert judge(named.model_copy(update={"evaluation": written}), base, tie).verdict == "keep"


def test_the_champions_gate_can_ask_for_something_else() -> None:
    own = config([Bound(metric="relative", min_change=0)])
    tolerant = (Bound(metric="relative", min_ratio=0.9),)
    own = own.model_copy(update={"evaluation": own.evaluation.model_copy(update={"champion_gate": tolerant})})
    assert judge(own, {"relative": row(0.2, 0.05)}, {"relative": row(0.0, 0.05)}).verdict == "promote"
    judged = judge(own, {"relative": row(0.2, 0.05)}, {"relative": row(-0.1, 0.05)})
    assert judged.reason.endswith(
        "but relative may be as low as 0.850 times the champion, while at least 0.9 times the champion is demanded."
    )


def test_the_doubt_is_shared_out_over_the_metrics_that_the_gates_name() -> None:
    gate = (
        Bound(metric="a", min_change=0, max_change=1),
        Bound(metric="b", min_change=0),
        Bound(metric="b", max_ratio=2),
    )
    assert EvaluationConfig(gate=gate).gate_confidence == pytest.approx(1 - 0.05 / 3)  # a, b; wanted of the champion's
    assert EvaluationConfig(gate=gate, champion_gate=()).gate_confidence == pytest.approx(1 - 0.05 / 2)
    assert EvaluationConfig(gate=gate, correction="none").gate_confidence == pytest.approx(0.95)
    assert EvaluationConfig(gate=(), champion_gate=()).gate_confidence == pytest.approx(0.95)


def test_damage_beyond_doubt_is_collapse_even_if_the_gate_holds() -> None:
    metrics = {"relative": row(0.5, 0.05), "content": row(-0.3, 0.04), "spread": row(-0.9, 0.01)}
    bounds = [Bound(metric="content", min_change=-0.05), Bound(metric="spread", min_ratio=0.6)]
    judged = judge(config([Bound(metric="relative", min_change=0)], bounds), metrics)
    assert judged.verdict == "collapsed"
    assert len(judged.damage) == 2
    assert "content" in judged.reason
    assert judged.reason.endswith("(and 1 more limit).")


@pytest.mark.parametrize(
    ("bound", "change", "verdict"),
    [
        ({"min_change": -0.05}, -0.03, "promote"),
        ({"min_change": -0.05}, -0.06, "promote"),  # the interval reaches from -0.26 to 0.14
        ({"min_change": -0.05}, -0.26, "collapsed"),
        ({"max_change": 0.05}, 0.06, "promote"),
        ({"max_change": 0.05}, 0.26, "collapsed"),
        ({"min_change": -0.05, "max_change": 0.05}, 0.26, "collapsed"),
        ({"min_ratio": 0.9}, -0.15, "promote"),  # the interval reaches from 0.65 to 1.05 times the base
        ({"min_ratio": 0.9}, -0.35, "collapsed"),
        ({"max_ratio": 1.1}, 0.15, "promote"),
        ({"max_ratio": 1.1}, 0.35, "collapsed"),
    ],
)
def test_what_may_be_chance_is_no_collapse(bound: dict[str, float], change: float, verdict: str) -> None:
    metrics = {"relative": row(0.5, 0.05), "content": row(change, 0.2)}
    bounds = [Bound.model_validate({"metric": "content"} | bound)]
    judged = judge(config([Bound(metric="relative", min_change=0)], bounds), metrics)
    assert (judged.verdict, len(judged.damage)) == (verdict, int(verdict == "collapsed"))


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        ({"min_change": -0.5}, "promote"),
        ({"min_ratio": 0.5}, "promote"),
        ({"max_change": 0.5}, "collapsed"),  # the other side
        ({"min_change": -0.4}, "collapsed"),  # does not hold: the interval reaches from -0.46 to -0.06
    ],
)
def test_what_the_gate_allows_is_no_collapse(limit: dict[str, float], verdict: str) -> None:
    """The monitor's bound may be tighter than the gate's limit, so that it stops in time."""
    metrics = {"relative": row(0.5, 0.05), "content": row(-0.26, 0.2)}
    allowed = Bound.model_validate({"metric": "content"} | limit)
    gate = [Bound(metric="relative", min_change=0), allowed]
    judged = judge(config(gate, [Bound(metric="content", min_change=-0.05)]), metrics)
    assert (judged.verdict, len(judged.damage)) == (verdict, int(verdict == "collapsed"))


@pytest.mark.parametrize("section", ["gate", "champion_gate", "bounds", "wanted"])
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


def test_drift_and_diversity_are_for_the_verdict_alone() -> None:
    gate = (Bound(metric="drift", max_change=0.2), Bound(metric="diversity", min_ratio=0.8))
    check_metrics(RunConfig(evaluation=EvaluationConfig(gate=gate)))
    single = EvaluationConfig(gate=gate, seeds_per_prompt=1)
    with pytest.raises(ConfigError, match=r"evaluation\.gate: no metric named 'diversity'"):
        check_metrics(RunConfig(evaluation=single))
    with pytest.raises(ConfigError, match=r"monitor\.bounds: no metric named 'diversity'"):
        check_metrics(RunConfig(monitor=MonitorConfig(bounds=(Bound(metric="diversity", min_ratio=0.5),))))


@pytest.mark.parametrize("limit", ["min_ratio", "max_ratio"])
def test_the_base_has_no_drift_to_be_compared_by_ratio(limit: str) -> None:
    bounds = (Bound.model_validate({"metric": "drift", "max_change": 0.2, limit: 1.5}),)
    champion = EvaluationConfig(champion_gate=bounds)
    check_metrics(RunConfig(evaluation=champion))  # the champion has drifted
    with pytest.raises(ConfigError, match=rf"monitor\.bounds: a {limit} of drift never holds.*give it a max_change"):
        check_metrics(RunConfig(monitor=MonitorConfig(bounds=bounds)))
    with pytest.raises(ConfigError, match=rf"evaluation\.gate: a {limit} of drift never holds"):
        check_metrics(RunConfig(evaluation=EvaluationConfig(gate=bounds)))


def test_a_grid_must_be_seen_along_the_shorter_side() -> None:
    evaluation = EvaluationConfig(grid_periods=(16,))
    check_metrics(RunConfig(model=ModelConfig(height=128, width=128), evaluation=evaluation))
    with pytest.raises(ConfigError, match=r"grid_periods: 16 px cannot be seen in images of 32 px"):
        check_metrics(RunConfig(model=ModelConfig(height=32, width=128), evaluation=evaluation))


def test_the_default_config_names_only_what_is_measured() -> None:
    check_metrics(RunConfig())
