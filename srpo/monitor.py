"""Is training improving the model, or damaging it? Held-out scores against the base's, within the config's bounds.

The reward that is trained on keeps rising while a model collapses, so it only ranks what the bounds let pass.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from srpo.config import Bound

Limit = Literal["min_change", "max_change", "min_ratio", "max_ratio"]
LIMITS: tuple[Limit, ...] = ("min_change", "max_change", "min_ratio", "max_ratio")


def limits(bound: Bound) -> Iterator[tuple[Limit, float]]:
    """The limits that a bound sets."""
    for limit in LIMITS:
        if (value := getattr(bound, limit)) is not None:
            yield limit, value


def holds(limit: Limit, threshold: float, value: float | None) -> bool:
    """Whether a change or ratio keeps its limit; one that is unknown or not a number never does."""
    if value is None or math.isnan(value):
        return False
    return value >= threshold if limit.startswith("min") else value <= threshold


def ratio(current: float, base: float) -> float | None:
    """`current / base`; None where the base is not positive, because a ratio to it says nothing."""
    return current / base if base > 0 else None


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
    way = f"(from {before:.3f} to {now:.3f})"
    if limit.endswith("ratio"):
        return f"is {value:.2f} times the base {way}, past its bound of {threshold:g}"
    return f"changed by {value:+.3f} {way}, past its bound of {threshold:+g}"


def best_update(measurements: Sequence[Mapping[str, Any]], ranked_by: str = "relative") -> int | None:
    """The update with the highest metric among those without a violation (the earliest of equals), if any."""
    sound = [entry for entry in measurements if not entry["violations"] and math.isfinite(entry[ranked_by])]
    return max(sound, key=lambda entry: entry[ranked_by])["update"] if sound else None
