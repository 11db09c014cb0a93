"""Geometry of the report's charts; the template draws them as inline SVG in the page's own colours.

No library draws them: matplotlib's SVG carries inline styles, which the page's security policy forbids, and which would
not follow light and dark.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srpo.evaluation.schema import Comparison, GateCheck

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 40, WIDTH - 10, 10, HEIGHT - 22
"""Where the axes of a chart end."""
FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
"""The same for the template."""
NUM_TICKS = 6
MARGIN = 1.12  # an interval bar's axis reaches this much further than what it shows


@dataclass(frozen=True)
class Tick:
    """A position on an axis and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Point:
    """A measured point; `note` appears on hovering."""

    x: float
    y: float
    damaged: bool
    note: str


@dataclass(frozen=True)
class LineChart:
    """One quantity over the updates, in the coordinates of a WIDTH x HEIGHT view box."""

    title: str
    path: str
    """Points of a polyline."""
    points: list[Point]
    """Marks on the line; none where every update is a point."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    best: float
    """Where the best update lies."""


@dataclass(frozen=True)
class IntervalBar:
    """A change with its interval on an axis that is symmetric around 0; all positions in percent."""

    low: float
    high: float
    estimate: float
    limits: list[Tick]


def line_chart(
    title: str, entries: Sequence[Mapping[str, Any]], key: str, best_update: int, marks: bool
) -> LineChart | None:
    """`key` of the entries over their `update`; `marks` draws each entry as a point.

    What is missing or no finite number is passed over; None where nothing else is left.
    """
    entries = [entry for entry in entries if _is_finite(entry.get(key))]
    if not entries:
        return None
    updates, values = [float(entry["update"]) for entry in entries], [float(entry[key]) for entry in entries]
    first, last = min(*updates, best_update), max(*updates, best_update)
    x_scale = _Scale(first, max(last, first + 1), LEFT, RIGHT)
    low, high = _padded(min(values), max(values))
    y_scale = _Scale(low, high, BOTTOM, TOP)
    points = [
        Point(x_scale(update), y_scale(value), bool(entry.get("violations")), _note(entry, key))
        for update, value, entry in zip(updates, values, entries, strict=True)
    ]
    return LineChart(
        title=title,
        path=" ".join(f"{point.x:.1f},{point.y:.1f}" for point in points),
        points=points if marks else [],
        x_ticks=[Tick(x_scale(at), f"{at:g}") for at in nice_ticks(x_scale.low, x_scale.high) if at == int(at)],
        y_ticks=[Tick(y_scale(at), f"{at:g}") for at in nice_ticks(low, high)],
        best=x_scale(best_update),
    )


def interval_bar(row: Comparison, checks: Sequence[GateCheck]) -> IntervalBar:
    """A metric's change, with the gate's limits on it as marks (ratios as the change they mean for this base)."""
    limits = {
        f"{check.limit.replace('_', ' ')} {check.threshold:g}": check.threshold
        if check.limit.endswith("change")
        else (check.threshold - 1) * row.reference
        for check in checks
    }
    reach = MARGIN * max(map(abs, (row.lower, row.upper, row.change, *limits.values()))) or 1.0
    scale = _Scale(-reach, reach, 0, 100)
    marks = [Tick(scale(value), label) for label, value in limits.items()]
    return IntervalBar(scale(row.lower), scale(row.upper), scale(row.change), marks)


def nice_ticks(low: float, high: float) -> list[float]:
    """At most NUM_TICKS + 1 round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    raw = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """Linear map of [low, high] onto [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _is_finite(value: object) -> bool:
    """Whether a value is a finite number; a report in JSON has null for another."""
    return isinstance(value, int | float) and math.isfinite(value)


def _padded(low: float, high: float) -> tuple[float, float]:
    """A range with some air around it, even if nothing varies."""
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _note(entry: Mapping[str, Any], key: str) -> str:
    broken = "; ".join(entry.get("violations", ()))
    what = f"the {entry['of']}" if "of" in entry else f"update {entry['update']}"
    return f"{what}: {float(entry[key]):.4g}{f' ({broken})' if broken else ''}"
