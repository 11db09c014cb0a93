"""May a version become champion? Every limit of the config against the end of the interval that could break it.

A smallest change or ratio is compared with the interval's lower end, a largest one with its upper end, so that luck
does not promote; a smallest change of the wanted metric has to be exceeded, so that what draws as the other does is no
better. There is one gate against the base, and one against the champion: promoted is only what is better than both. A
gate that holds has kept every one of its limits, so luck promotes no more often than it would break the hardest one
(Berger 1982, intersection-union tests); the correction of `evaluation.gate_confidence` is for what the report says of
each limit. A model whose whole interval lies past a bound of the monitor has collapsed, unless the gate limits the same
metric on the same side, and the limit holds: what the verdict allows is then said there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from srpo.config import Bound, RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.pairs import DRIFT, pair_metrics
from srpo.evaluation.scores import metric_names
from srpo.meters import SHORTEST_GRID, SHORTEST_PERIOD
from srpo.monitor import OF_CHANGE, Limit, holds, limits, violations
from srpo.report.schema import BASE, CHAMPION, Comparison, GateCheck, Verdict
from srpo.wording import capitalised, number, signed, span

Metrics = Mapping[str, Comparison]
OPPOSITE: dict[Limit, Limit] = {
    "min_change": "max_change",
    "max_change": "min_change",
    "min_ratio": "max_ratio",
    "max_ratio": "min_ratio",
}


@dataclass(frozen=True)
class Evidence:
    """The judged model against another."""

    against: str
    """Label of the other."""
    shown: Metrics
    """At the report's confidence."""
    strict: Metrics
    """At the gate's."""


@dataclass(frozen=True)
class Judgement:
    """The verdict and what it rests on."""

    verdict: Verdict | None
    """None where no gate was asked."""
    reason: str
    """One sentence."""
    checks: list[GateCheck] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    """Scores that are not finite, bounds of the monitor that are broken beyond doubt."""


def check_metrics(config: RunConfig) -> None:
    """ConfigError for a metric that the config names but that will not be measured, or cannot."""
    check_grids(config)
    check_drift(config)
    settings = config.evaluation
    measured = metric_names(settings, config.rewards)
    known, watched = [*measured, *pair_metrics(settings.seeds_per_prompt)], [*measured, DRIFT]
    gates = {"gate": settings.gate, "champion_gate": settings.champion_gate or ()}
    named = {f"evaluation.{key}": (known, [bound.metric for bound in bounds]) for key, bounds in gates.items()}
    named["evaluation.wanted"] = (known, [settings.wanted])
    named["monitor.watch"] = (watched, [config.monitor.watch])
    named["monitor.bounds"] = (watched, [bound.metric for bound in config.monitor.bounds])
    for key, (choice, metrics) in named.items():
        for metric in metrics:
            if metric not in choice:
                raise ConfigError(f"{key}: no metric named {metric!r} is measured here; choose from {sorted(choice)}")


def check_grids(config: RunConfig) -> None:
    """ConfigError for a period of a grid that the images are too small to show."""
    shorter = min(config.model.height, config.model.width)
    for period in config.evaluation.grid_periods:
        if period < SHORTEST_PERIOD or SHORTEST_GRID * period > shorter:
            raise ConfigError(
                f"evaluation.grid_periods: {period} px cannot be seen in images of {shorter} px; "
                f"give periods from {SHORTEST_PERIOD} to {shorter // SHORTEST_GRID}"
            )


def check_drift(config: RunConfig) -> None:
    """ConfigError for a ratio to the drift of the base, which is 0 because drift is measured from the base."""
    for key, bounds in {"evaluation.gate": config.evaluation.gate, "monitor.bounds": config.monitor.bounds}.items():
        drift = [limit for bound in bounds if bound.metric == DRIFT for limit, _ in limits(bound)]
        if ratios := [limit for limit in drift if limit.endswith("ratio")]:
            raise ConfigError(f"{key}: a {ratios[0]} of drift never holds, as the base's is 0; give it a max_change")


def judge(
    config: RunConfig, base: Evidence, champion: Evidence | None = None, broken_scores: Sequence[str] = ()
) -> Judgement:
    """Collapsed, if bounds of the monitor are broken beyond doubt; promote, if the gates' limits all hold; else keep.

    `broken_scores`: what was wrong with the judged model's scores, in words; it has collapsed by that, too.
    """
    settings, evidence = config.evaluation, {base.against: base}
    checks = check_gate(settings.gate, base.strict, base.against, settings.wanted)
    if champion is not None:
        evidence[champion.against] = champion
        checks += check_gate(settings.against_champion, champion.strict, champion.against, settings.wanted)
    damage = [*broken_scores, *_damage(config, base, checks)]
    wanted = describe_change(settings.wanted, base.shown[settings.wanted], settings.confidence)
    broken = [check for check in checks if not check.held]
    if damage:
        return Judgement("collapsed", f"The model is damaged: {damage[0]}{_more(len(damage) - 1)}.", checks, damage)
    if broken:
        reason = f"{wanted}, but {_explain(broken[0], evidence)}{_more(len(broken) - 1)}."
        return Judgement("keep", reason, checks, damage)
    return Judgement("promote", f"{wanted}, and {_all(len(checks), list(evidence))}.", checks, damage)


def _damage(config: RunConfig, base: Evidence, checks: Sequence[GateCheck]) -> list[str]:
    """The monitor's bounds that are broken beyond doubt, and by no limit of the gate allowed.

    A checkpoint that was just inside may be just outside here: even the better end of the interval has to break it. A
    ratio that does not exist breaks nothing.
    """
    allowed = {(check.metric, check.limit[:3]) for check in checks if check.against == base.against and check.held}
    broken = [
        Bound.model_validate({"metric": bound.metric, limit: threshold})
        for bound in config.monitor.bounds
        for limit, threshold in limits(bound)
        if (bound.metric, limit[:3]) not in allowed
        and (end := _end(OPPOSITE[limit], base.shown[bound.metric])) is not None
        and not holds(limit, threshold, end)
    ]
    before = {name: row.reference for name, row in base.shown.items()}
    return violations({name: row.candidate for name, row in base.shown.items()}, before, broken)


def check_gate(bounds: Sequence[Bound], metrics: Metrics, against: str, wanted: str) -> list[GateCheck]:
    """Each limit of each bound against its end of the interval; `against` labels what the metrics compare with.

    `wanted`: the metric whose smallest change has to be exceeded.
    """
    checks = []
    for bound in bounds:
        for limit, threshold in limits(bound):
            value = _end(limit, metrics[bound.metric])
            reached = bound.metric == wanted and limit == "min_change" and value == threshold
            held = holds(limit, threshold, value) and not reached
            checks.append(
                GateCheck(
                    metric=bound.metric, against=against, limit=limit, threshold=threshold, value=value, held=held
                )
            )
    return checks


def _end(limit: Limit, row: Comparison) -> float | None:
    """The end of the interval that could break a limit."""
    ends = {
        "min_change": row.lower,
        "max_change": row.upper,
        "min_ratio": row.ratio_lower,
        "max_ratio": row.ratio_upper,
    }
    return ends[limit]


def _explain(check: GateCheck, evidence: Mapping[str, Evidence]) -> str:
    """Why a limit does not hold, in words."""
    other = f"the {check.against}" if check.against in (BASE, CHAMPION) else check.against
    of_change = check.limit.endswith("change")
    demanded = f"{check.demand} {signed(check.threshold) if of_change else f'{check.threshold:g} times {other}'}"
    if check.value is None:
        level = evidence[check.against].shown[check.metric].reference
        return (
            f"{check.metric} has no ratio to {other}, which has {number(level)}, while {demanded} is demanded: "
            f"the gate needs a {OF_CHANGE[check.limit]} instead"
        )
    end = "low" if check.limit.startswith("min") else "high"
    if of_change:
        against = f" against {other}" if check.against == CHAMPION else ""
        reached = f"the change of {check.metric}{against} may be as {end} as {signed(check.value)}"
    else:
        reached = f"{check.metric} may be as {end} as {number(check.value)} times {other}"
    return f"{reached}, while {demanded} is demanded"


def describe_change(name: str, row: Comparison, confidence: float) -> str:
    """What happened to the wanted metric."""
    moved = "rose" if row.lower > 0 else "fell" if row.upper < 0 else "did not clearly move"
    by = f" by {number(abs(row.change))}" if moved != "did not clearly move" else ""
    return f"{capitalised(name)} {moved}{by} ({100 * confidence:g} % interval {span(row.lower, row.upper)})"


def _more(count: int) -> str:
    return "" if count == 0 else f" (and {count} more limit{'s' if count > 1 else ''})"


def _all(count: int, against: Sequence[str]) -> str:
    few = {0: "the gate sets no limit", 1: "the gate's one limit holds"}
    models = f" against {' and '.join(against)}" if len(against) > 1 else ""
    return few.get(count, f"all {count} limits of the gate hold") + models
