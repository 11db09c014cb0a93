"""Is training improving the model, or damaging it? Held-out scores against the base's, within the config's bounds.

The reward that is trained on keeps rising while a model collapses, so it only ranks what the bounds let pass. All
decisions are functions of the journal of measurements, so that a resumed run decides as an uninterrupted one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from srpo.config import Bound, MonitorConfig
from srpo.errors import ConfigError
from srpo.wording import number, signed

Limit = Literal["min_change", "max_change", "min_ratio", "max_ratio"]
LIMITS: tuple[Limit, ...] = ("min_change", "max_change", "min_ratio", "max_ratio")
OF_CHANGE: dict[Limit, Limit] = {"min_ratio": "min_change", "max_ratio": "max_change"}
"""What to give where there is no ratio."""

NO_METRICS = ("update", "violations", "of")
"""What an entry of the journal of measurements holds beside its metrics."""


def limits(bound: Bound) -> Iterator[tuple[Limit, float]]:
    """The limits that a bound sets."""
    for limit in LIMITS:
        if (value := getattr(bound, limit)) is not None:
            yield limit, value


def holds(limit: Limit, threshold: float, value: float | None) -> bool:
    """Whether a change or ratio keeps its limit; one that is unknown or not a number never does."""
    if value is None:
        return False
    return value >= threshold if limit.startswith("min") else value <= threshold


def ratio(current: float, base: float) -> float | None:
    """`current / base`; None where the base is not positive, because a ratio to it says nothing."""
    return current / base if base > 0 else None


def check_ratios(base: Mapping[str, float], bounds: Sequence[Bound]) -> None:
    """ConfigError for a bound on a ratio to a base that has none: it would call every model damaged."""
    for bound in bounds:
        for limit, _ in limits(bound):
            if limit.endswith("ratio") and ratio(0, base[bound.metric]) is None:
                before = number(base[bound.metric])
                raise ConfigError(
                    f"monitor.bounds: {bound.metric} has no ratio to the base's {before}, so that no model keeps its "
                    f"{limit}; give a {OF_CHANGE[limit]}"
                )


def violations(current: Mapping[str, float], base: Mapping[str, float], bounds: Sequence[Bound]) -> list[str]:
    """One sentence for each limit that the current means break; KeyError for a metric that was not measured."""
    broken = []
    for bound in bounds:
        now, before = current[bound.metric], base[bound.metric]
        for limit, threshold in limits(bound):
            value = ratio(now, before) if limit.endswith("ratio") else now - before
            if not holds(limit, threshold, value):
                broken.append(f"{bound.metric} {_what_happened(limit, threshold, value, now, before)}")
    return broken


def _what_happened(limit: Limit, threshold: float, value: float | None, now: float, before: float) -> str:
    if value is None:
        return f"has no ratio to a base of {before:.3g}, though its bound is {threshold:g} times the base"
    if math.isnan(value):
        return "is not a number"
    way = f"(from {number(before)} to {number(now)})"
    if limit.endswith("ratio"):
        return f"is {number(value)} times the base {way}, past its bound of {threshold:g}"
    return f"changed by {signed(value)} {way}, past its bound of {signed(threshold)}"


def best_update(measurements: Sequence[Mapping[str, Any]], watch: str) -> int | None:
    """The update with the highest watched metric among those without a violation (the earliest of equals), if any."""
    sound = [entry for entry in measurements if _sound(entry, watch)]
    return max(sound, key=lambda entry: entry[watch])["update"] if sound else None


def chosen_update(measurements: Sequence[Mapping[str, Any]], watch: str) -> int | None:
    """The update whose checkpoint goes on: the best, or where all are damaged the least damaged; None of none.

    `measurements`: the base's first; update 0, what training starts from, is never chosen.
    """
    after = _after(measurements)
    sound = best_update(after, watch)
    if sound is not None or not after:
        return sound
    return int(min(after, key=lambda entry: (len(entry["violations"]), entry["update"]))["update"])


def stop_reason(measurements: Sequence[Mapping[str, Any]], config: MonitorConfig) -> str | None:
    """Why training should stop after the last of these measurements (the base's first), in words; None to go on."""
    after = _after(measurements)
    damaged, patience, watch = config.stop_after_damaged, config.patience, config.watch
    if damaged and len(after) >= damaged and all(entry["violations"] for entry in after[-damaged:]):
        return f"{_times(damaged)} in a row the model was damaged: {'; '.join(after[-1]['violations'])}"
    best = best_update(measurements, watch)
    if patience and sum(entry["update"] > (best or 0) for entry in after) >= patience:
        return f"{watch} has not risen above its value at update {best or 0} for {_times(patience)}"
    return None


def _after(measurements: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of training: of update 0 are the base and, if that is another, what it starts from."""
    return [entry for entry in measurements if entry["update"] > 0]


def _sound(entry: Mapping[str, Any], watch: str) -> bool:
    return not entry["violations"] and math.isfinite(entry[watch])


def _times(count: int) -> str:
    return f"{count} measurement{'s' if count > 1 else ''}"
