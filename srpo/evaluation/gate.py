"""May a version become champion? Every limit of the config against the end of the interval that could break it.

A smallest change or ratio is compared with the interval's lower end, a largest one with its upper end, so that luck
does not promote. A model whose estimates themselves break the monitor's bounds has collapsed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srpo.config import Bound, RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.schema import BASE, Comparison, GateCheck, Verdict
from srpo.evaluation.scores import metric_names
from srpo.meters import SHORTEST_GRID, SHORTEST_PERIOD
from srpo.monitor import Limit, holds, limits, violations


@dataclass(frozen=True)
class Judgement:
    """The verdict and what it rests on."""

    verdict: Verdict
    reason: str
    """One sentence."""
    checks: list[GateCheck]
    damage: list[str]
    """Bounds of the monitor that the estimates break."""


def check_metrics(config: RunConfig) -> None:
    """ConfigError for a metric that the config names but the evaluation will not produce, or cannot."""
    check_grids(config)
    known = metric_names(config.evaluation, config.rewards)
    named = {
        "evaluation.wanted": [config.evaluation.wanted],
        "evaluation.gate": [bound.metric for bound in config.evaluation.gate],
        "monitor.watch": [config.monitor.watch],
        "monitor.bounds": [bound.metric for bound in config.monitor.bounds],
    }
    for key, metrics in named.items():
        for metric in metrics:
            if metric not in known:
                raise ConfigError(f"{key}: no metric named {metric!r} is measured here; choose from {sorted(known)}")


def check_grids(config: RunConfig) -> None:
    """ConfigError for a period of a grid that the images are too small to show."""
    shorter = min(config.model.height, config.model.width)
    for period in config.evaluation.grid_periods:
        if period < SHORTEST_PERIOD or SHORTEST_GRID * period > shorter:
            raise ConfigError(
                f"evaluation.grid_periods: {period} px cannot be seen in images of {shorter} px; "
                f"give periods from {SHORTEST_PERIOD} to {shorter // SHORTEST_GRID}"
            )


def judge(config: RunConfig, metrics: Mapping[str, Comparison]) -> Judgement:
    """Collapsed, if the estimates break the monitor's bounds; promote, if the gate's limits all hold; else keep."""
    checks = check_gate(config.evaluation.gate, metrics, BASE)
    base = {name: row.reference for name, row in metrics.items()}
    candidate = {name: row.candidate for name, row in metrics.items()}
    damage = violations(candidate, base, config.monitor.bounds)
    wanted = _change(config.evaluation.wanted, metrics[config.evaluation.wanted], config.evaluation.confidence)
    broken = [check for check in checks if not check.held]
    if damage:
        return Judgement("collapsed", f"The model is damaged: {damage[0]}{_more(len(damage) - 1)}.", checks, damage)
    if broken:
        reason = f"{wanted}, but {_explain(broken[0], metrics)}{_more(len(broken) - 1)}."
        return Judgement("keep", reason, checks, damage)
    return Judgement("promote", f"{wanted}, and {_all(len(checks))}.", checks, damage)


def check_gate(bounds: Sequence[Bound], metrics: Mapping[str, Comparison], against: str) -> list[GateCheck]:
    """Each limit of each bound against its end of the interval; `against` labels what the metrics compare with."""
    checks = []
    for bound in bounds:
        for limit, threshold in limits(bound):
            value = _end(limit, metrics[bound.metric])
            held = holds(limit, threshold, value)
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


def _explain(check: GateCheck, metrics: Mapping[str, Comparison]) -> str:
    """Why a limit does not hold, in words."""
    demanded = f"{check.threshold:+g}" if check.limit.endswith("change") else f"{check.threshold:g} times the base"
    if check.value is None:
        base = metrics[check.metric].reference
        return f"{check.metric} has no ratio to a base of {base:.3g}, while {_side(check.limit)} {demanded} is demanded"
    end = "low" if check.limit.startswith("min") else "high"
    if check.limit.endswith("change"):
        reached = f"the change of {check.metric} may be as {end} as {check.value:+.3f}"
    else:
        reached = f"{check.metric} may be as {end} as {check.value:.2f} times the base"
    return f"{reached}, while {_side(check.limit)} {demanded} is demanded"


def _side(limit: Limit) -> str:
    return "at least" if limit.startswith("min") else "at most"


def _change(name: str, row: Comparison, confidence: float) -> str:
    """What happened to the wanted metric."""
    moved = "rose" if row.lower > 0 else "fell" if row.upper < 0 else "did not clearly move"
    by = f" by {abs(row.change):.3f}" if moved != "did not clearly move" else ""
    return f"{name.capitalize()} {moved}{by} ({100 * confidence:g} % interval {row.lower:+.3f} to {row.upper:+.3f})"


def _more(count: int) -> str:
    return "" if count == 0 else f" (and {count} more limit{'s' if count > 1 else ''})"


def _all(count: int) -> str:
    few = {0: "the gate sets no limit", 1: "the gate's one limit holds"}
    return few.get(count, f"all {count} limits of the gate hold")
