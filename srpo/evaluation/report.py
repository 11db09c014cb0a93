"""The report as one HTML file: no network, no script, light and dark, readable on a phone; every text is escaped."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from srpo.evaluation.charts import HEIGHT, WIDTH, IntervalBar, LineChart, interval_bar, line_chart
from srpo.evaluation.images import Cell, Gallery
from srpo.evaluation.schema import Comparison, ImageSet, Report

MEANINGS = {
    "reward": "agreement with the prompt, as the trained reward sees it",
    "relative": "wanted control words over unwanted ones, by the reward",
    "content": "share of images that show what the prompt says",
    "luminance": "mean brightness",
    "saturation": "strength of colour",
    "texture": "strength of the dots",
    "sharpness": "fine detail relative to coarse",
    "clipped": "share of pixel values cut off at black or white",
    "spread": "how much brightness differs between images",
}
LEADING = ("relative", "content", "reward", "luminance", "spread")
"""Metrics in the order a reader asks for them, after the wanted one."""
NUM_TILES = 4
NUM_STRIP = 8


@dataclass(frozen=True)
class MetricRow:
    """One line of the table."""

    name: str
    meaning: str
    row: Comparison
    bar: IntervalBar
    state: str
    """held or broken by the gate; free where it sets no limit."""


@dataclass(frozen=True)
class Picture:
    """What every model drew of one prompt and noise."""

    record: ImageSet
    images: dict[str, str]
    """Label of the model -> data URI."""


@dataclass(frozen=True)
class Group:
    """Pairs shown together, and why these."""

    title: str
    note: str
    pictures: list[Picture]


def render(report: Report, design: Sequence[Cell], galleries: Mapping[str, Gallery], num_pairs: int) -> str:
    """The page; images of `num_pairs` prompts and seeds are embedded, from the gallery of each label."""
    pictures = _Pictures(report, design, galleries)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            order=_order(report),
            tiles=_order(report)[:NUM_TILES],
            table=[_metric_row(report, name) for name in _order(report)],
            curves=list(_curves(report)),
            strip=[pictures[index] for index in _spaced(len(design), min(NUM_STRIP, num_pairs))],
            groups=_groups(report, pictures, num_pairs),
            prompts=_by_prompt(report),
            labels=[model.label for model in report.models],
            judged=report.contrasts[0],
            shown=[name for name in _order(report) if name in _measured(report)][:3],
            chart={"width": WIDTH, "height": HEIGHT},
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed}
    return environment


def number(value: float) -> str:
    """Three decimals, or two digits of a very small number."""
    text = f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A number with its sign, which 0 has none of."""
    return f"+{number(value)}" if value > 0 else number(value)


def _order(report: Report) -> list[str]:
    """Names of the metrics: the wanted one, those a reader asks for, the rest."""
    names = dict.fromkeys((report.wanted, *LEADING, *report.metrics))
    return [name for name in names if name in report.metrics]


def _metric_row(report: Report, name: str) -> MetricRow:
    checks = [check for check in report.checks if check.metric == name]
    state = "free" if not checks else "held" if all(check.held for check in checks) else "broken"
    row = report.metrics[name]
    return MetricRow(name, MEANINGS.get(name.partition("/")[0], ""), row, interval_bar(row, checks), state)


def _curves(report: Report) -> Iterator[LineChart]:
    """Held-out metrics at every measurement, then loss and gradient norm of every update."""
    held_out, updates, best = report.curves.held_out, report.curves.updates, report.curves.best_update
    if held_out:
        for name in _order(report):
            if name in dict.fromkeys((report.wanted, *LEADING)) and name in held_out[0]:
                yield line_chart(name, held_out, name, best, marks=True)
    if updates:
        for name, title in (("loss", "loss (training)"), ("grad_norm", "gradient norm (training)")):
            if name in updates[0]:
                yield line_chart(title, updates, name, best, marks=False)


class _Pictures:
    """Images by their place in the design, read when they are asked for."""

    def __init__(self, report: Report, design: Sequence[Cell], galleries: Mapping[str, Gallery]) -> None:
        self.report = report
        self.design = design
        self.galleries = galleries

    def __getitem__(self, index: int) -> Picture:
        cell = self.design[index]
        images = {label: _data_uri(gallery.find(cell)) for label, gallery in self.galleries.items()}
        return Picture(self.report.images[index], images)


def _data_uri(path: Path) -> str:
    kind = {".png": "png", ".jpg": "jpeg"}[path.suffix]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _groups(report: Report, pictures: _Pictures, num_pairs: int) -> list[Group]:
    """Half of the pairs evenly from the design, a quarter worst, a quarter best."""
    ranked_by = _ranking(report)
    ranked = sorted(range(len(report.images)), key=lambda index: [_gain(report, index, name) for name in ranked_by])
    count = max(1, min(num_pairs // 4, len(ranked) // 2))
    by = ", then by ".join(ranked_by)
    chosen = {
        ("Worst pairs", f"Of all {len(ranked)}: the largest losses by {by}."): ranked[:count],
        ("Best pairs", f"The largest gains by {by}."): ranked[::-1][:count],
        ("A fair sample", "Evenly spaced over all prompts and seeds, chosen before anything was drawn."): _spaced(
            len(ranked), max(1, num_pairs - 2 * count)
        ),
    }
    return [Group(title, note, [pictures[i] for i in indices]) for (title, note), indices in chosen.items()]


def _ranking(report: Report) -> list[str]:
    """Per-image metrics that the gate demands not to fall, the wanted one last: what makes a pair bad or good."""
    guarded = [check.metric for check in report.checks if check.limit == "min_change" and check.metric != report.wanted]
    names = [name for name in (*guarded, report.wanted) if name in _measured(report)]
    return list(dict.fromkeys(names)) or ["relative"]


def _gain(report: Report, index: int, name: str) -> float:
    judged, scores = report.contrasts[0], report.images[index].scores
    return scores[judged.candidate][name] - scores[judged.reference][name]


def _measured(report: Report) -> list[str]:
    """Metrics that every image has."""
    return list(report.images[0].scores[report.models[0].label])


def _spaced(total: int, count: int) -> list[int]:
    """`count` places evenly over 0..total-1, each once."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))


def _by_prompt(report: Report) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """Every prompt with its means, metric -> label -> mean; first the largest loss of the wanted metric."""
    images, judged = report.images, report.contrasts[0]
    groups = [images[i : i + report.seeds_per_prompt] for i in range(0, len(images), report.seeds_per_prompt)]
    rows = [(group[0].prompt, {name: _means(group, name) for name in _measured(report)}) for group in groups]
    wanted = report.wanted if report.wanted in _measured(report) else "relative"
    return sorted(rows, key=lambda row: row[1][wanted][judged.candidate] - row[1][wanted][judged.reference])


def _means(group: Sequence[ImageSet], name: str) -> dict[str, float]:
    """Label -> mean of a metric over the images of a prompt."""
    return {label: float(np.mean([image.scores[label][name] for image in group])) for label in group[0].scores}
