"""What the report's tables and charts show, in the order in which a reader asks for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from srpo.report.charts import IntervalBar, LineChart, interval_bar, line_chart
from srpo.report.schema import Comparison, Contrast, Report
from srpo.report.thumbnails import measured

MEANINGS = {
    "reward": "agreement with the prompt, as {judge} sees it",
    "relative": "wanted control words over unwanted ones, by {judge}",
    "content": "share of images that show what the prompt says",
    "luminance": "mean brightness",
    "saturation": "strength of colour",
    "texture": "strength of the dots",
    "sharpness": "fine detail relative to coarse",
    "colourfulness": "how many colours, and how strong",
    "high_frequency": "share of the contrast in detail finer than 4 pixels",
    "grid": "a pattern of so many pixels, as VAE and patches leave where a model cheats; 0 for none",
    "clipped": "share of pixel values cut off at black or white",
    "spread": "how much brightness differs between images",
    "drift": "how far from the first model's image of the same noise (RMSE at a glance)",
    "diversity": "how much the images of one prompt differ (1 - cosine of image features)",
}
"""By the part of the name before `/`; what comes after it names the judge, an added reward or a held-out score."""
LEADING = ("relative", "content", "reward", "luminance", "spread")
"""Metrics in the order a reader asks for them, after the wanted one."""


@dataclass(frozen=True)
class MetricRow:
    """One line of a table."""

    name: str
    meaning: str
    row: Comparison
    bar: IntervalBar
    state: str
    """held or broken by the gate; free where it sets no limit."""


@dataclass(frozen=True)
class Table:
    """One model against another: all prompts, then each category of prompts by the leading metrics."""

    contrast: Contrast
    rows: list[MetricRow]
    categories: dict[str, list[MetricRow]]


def make_tables(report: Report) -> list[Table]:
    """One table per contrast."""
    return [
        Table(
            contrast=contrast,
            rows=_rows(report, contrast.reference, contrast.metrics),
            categories={
                name: [row for row in _rows(report, "", metrics) if row.name in leading(report)]
                for name, metrics in contrast.categories.items()
            },
        )
        for contrast in report.contrasts
    ]


def order_metrics(report: Report) -> list[str]:
    """Names of the metrics: the wanted one, those a reader asks for, the rest."""
    known = list(report.metrics or report.models[0].metrics or measured(report))
    return [name for name in dict.fromkeys((*leading(report), *known)) if name in known]


def leading(report: Report) -> tuple[str, ...]:
    """The metrics that a reader asks for first."""
    return tuple(dict.fromkeys((report.wanted, *LEADING)))


def flat_table(report: Report) -> dict[str, list[Any]]:
    """All comparisons as columns, with when they were made."""
    rows = [
        {"created": report.created, "metric": name, "model": contrast.candidate, "against": contrast.reference}
        | row.model_dump()
        for contrast in report.contrasts
        for name, row in contrast.metrics.items()
    ]
    return {column: [row[column] for row in rows] for column in (rows[0] if rows else ())}


def draw_curves(report: Report) -> Iterator[LineChart]:
    """Held-out metrics at every measurement, then loss and gradient norm of every update, where there are any.

    Of the metrics those that a reader asks for first, and those that the monitor bounds.
    """
    held_out, updates, best = report.curves.held_out, report.curves.updates, report.curves.best_update
    bounds = report.provenance.config.get("monitor", {}).get("bounds", ())
    names = dict.fromkeys((*leading(report), *(bound["metric"] for bound in bounds)))
    lines = [
        *(line_chart(name, held_out, name, best, marks=True) for name in names),
        line_chart("loss (training)", updates, "loss", best, marks=False),
        line_chart("gradient norm (training)", updates, "grad_norm", best, marks=False),
    ]
    yield from (line for line in lines if line)


def _rows(report: Report, against: str, metrics: Mapping[str, Comparison]) -> list[MetricRow]:
    return [_row(report, against, name, metrics[name]) for name in order_metrics(report) if name in metrics]


def _row(report: Report, against: str, name: str, row: Comparison) -> MetricRow:
    """`against`: label whose limits are drawn; none of the gate's where it names no model."""
    checks = [check for check in report.checks if check.metric == name and check.against == against]
    state = "free" if not checks else "held" if all(check.held for check in checks) else "broken"
    return MetricRow(name, meaning(name), row, interval_bar(row, checks), state)


def meaning(name: str) -> str:
    """What a metric says, in a few words; empty where its name is all there is to say."""
    kind, _, judge = name.partition("/")
    return MEANINGS.get(kind, "").format(judge=judge or "the trained reward")
