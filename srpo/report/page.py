"""The report as one HTML file: no network, light and dark, readable on a phone; every text is escaped.

It is made from `report.json` and the thumbnails beside it, and can be made again from them at any time. Its one script
sorts, filters and slides pictures; without it they lie side by side. The page forbids itself everything that is not in
it: only elements that carry the nonce, a hash of the report, may style or run.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from srpo.config import RunConfig
from srpo.config.base import flatten
from srpo.errors import ConfigError
from srpo.files import atomic_file, write_atomic
from srpo.report.schema import Content, ImageSet, Report, Study, same_content
from srpo.report.tables import draw_curves, make_tables, order_metrics
from srpo.report.thumbnails import IMAGES, encode, gain, measured, picture_path, rank, ranking, spaced
from srpo.wording import level, nothing_seen, number, percent, signed

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
NUM_TILES = 4
NUM_STRIP = 8
NUM_CARD_METRICS = 3
STRIP_LONGEST, STRIP_BYTES = 160, 8_000  # pixels and bytes of a picture in the strip at the top


@dataclass(frozen=True)
class Card:
    """The pictures of one prompt and noise, and what is said of them."""

    index: int
    record: ImageSet
    paths: dict[str, Path]
    """Label of the model -> thumbnail."""

    @property
    def scores(self) -> str:
        """Metric -> label -> score, as JSON for the page's script."""
        metrics = next(iter(self.record.scores.values()))
        return json.dumps(
            {name: {label: float(f"{row[name]:.6g}") for label, row in self.record.scores.items()} for name in metrics}
        )


@dataclass(frozen=True)
class Embedded:
    """A picture inside the page."""

    uri: str
    width: int
    height: int


def check_out(out: Path, command: str, inputs: Collection[Path] = ()) -> None:
    """ConfigError unless `out` is new or empty, or holds a report that `command` wrote and that is none of `inputs`."""
    if found := _in_the_way(out, command, {path.resolve() for path in inputs}):
        raise ConfigError(
            f"--out {out} {found}; `{command}` writes into a new or empty folder, or over a report of its own; "
            "give another --out"
        )


def kept_study(out: Path, models: Mapping[str, Content]) -> Study | None:
    """The study of the report in `out` that another one of models (label -> content) will replace.

    ConfigError if it is of other models: people's votes would be lost.
    """
    try:
        before = Report.model_validate_json((out / REPORT_JSON).read_bytes())
    except (OSError, ValueError):
        return None
    if before.study is None:
        return None
    asked = before.study.reference, before.study.candidate
    then = {model.label: model.content for model in before.models if model.label in asked}
    if not all(label in models and same_content(content, models[label]) for label, content in then.items()):
        raise ConfigError(
            f"--out {out} holds a study, what people said of {asked[1]} against {asked[0]}, which are not both among "
            "these models; give another --out"
        )
    return before.study


def _in_the_way(out: Path, command: str, inputs: Collection[Path]) -> str:
    """What writing a report into `out` would replace; empty if it may."""
    if not out.is_dir():
        return "is no folder" if out.exists() else ""
    if out.resolve() in inputs:
        return "holds a report that is read here"
    try:
        made_by = _made_by(Report.model_validate_json((out / REPORT_JSON).read_bytes()))
    except (OSError, ValueError):
        there = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        return f"holds {there[0]}" if there else ""
    return f"holds a report of `{made_by}`" if made_by != command else ""


def _made_by(report: Report) -> str:
    """The command that wrote a report."""
    if not report.seconds:
        return "compare"
    return "run" if report.curves.num_updates else "evaluate"


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.json` and `report.html` into the folder that holds the thumbnails; returns the page's path."""
    write_atomic(folder / REPORT_JSON, report.model_dump_json(indent=1))
    page = folder / REPORT_HTML
    template = _environment().get_template("report.html.jinja")
    with atomic_file(page) as staging:
        template.stream(_view(report, folder / IMAGES)).dump(str(staging), encoding="utf-8")
    return page


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    as_text = partial(json.dumps, ensure_ascii=False)  # Jinja's own `tojson` is for scripts
    environment.filters |= {"json": as_text} | {
        write.__name__: write for write in (level, nothing_seen, number, percent, signed)
    }
    return environment


def _view(report: Report, images: Path) -> dict[str, Any]:
    """Everything that the template shows; pictures are read where it comes to them."""
    order, cards = order_metrics(report), _cards(report, images)
    return {
        "report": report,
        "outcome": report.verdict or ("compared" if report.contrasts else "measured"),
        "nonce": hashlib.sha256(report.model_dump_json().encode()).hexdigest()[:32],
        "labels": [model.label for model in report.models],
        "judged": report.contrasts[0] if report.contrasts else None,
        "order": order,
        "tiles": order[:NUM_TILES],
        "tables": make_tables(report),
        "curves": list(draw_curves(report)),
        "strip": _strip(cards),
        "cards": cards,
        "categories": list(dict.fromkeys(card.record.category for card in cards if card.record.category)),
        "ranked_by": ranking(report),
        "worst": sum("worst" in card.record.kept for card in cards),
        "best": sum("best" in card.record.kept for card in cards),
        "measured": [name for name in order if name in measured(report)],
        "shown": [name for name in order if name in measured(report)][:NUM_CARD_METRICS],
        "prompts": _by_prompt(report),
        "settings": _settings(report),
        "embed": _embed,
        "preview": partial(_embed, longest=STRIP_LONGEST, max_bytes=STRIP_BYTES),
    }


def _cards(report: Report, images: Path) -> list[Card]:
    """The kept pictures, the worst first."""
    labels = [model.label for model in report.models]
    kept = [index for index in rank(report) if report.images[index].kept]
    return [
        Card(index, report.images[index], {label: picture_path(images, report, index, label) for label in labels})
        for index in kept
    ]


def _strip(cards: Sequence[Card]) -> list[Card]:
    """A few of the fair sample, in the order of the prompts, or whatever there is."""
    sample = [card for card in cards if "sample" in card.record.kept] or list(cards)
    in_order = sorted(sample, key=lambda card: card.index)
    return [in_order[place] for place in spaced(len(in_order), NUM_STRIP)]


def _embed(path: Path, longest: int = 0, max_bytes: int = 0) -> Embedded:
    """A thumbnail as it is, or one made smaller."""
    with Image.open(path) as picture:
        width, height = picture.size
        content = encode(picture.convert("RGB"), longest, max_bytes) if longest else path.read_bytes()
    return Embedded(f"data:image/webp;base64,{base64.b64encode(content).decode()}", width, height)


def _by_prompt(report: Report) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """Every prompt with its means, metric -> label -> mean; first the largest loss of the wanted metric."""
    groups: dict[str, list[int]] = {}
    for index, image in enumerate(report.images):
        groups.setdefault(image.prompt, []).append(index)
    wanted = ranking(report)[-1]
    losses = {prompt: np.mean([gain(report, index, wanted) for index in group]) for prompt, group in groups.items()}
    return [(prompt, _means(report, groups[prompt])) for prompt in sorted(groups, key=lambda prompt: losses[prompt])]


def _means(report: Report, group: Sequence[int]) -> dict[str, dict[str, float]]:
    """Metric -> label -> mean over the images of a prompt."""
    labels = [model.label for model in report.models]
    return {
        name: {label: float(np.mean([report.images[index].scores[label][name] for index in group])) for label in labels}
        for name in measured(report)
    }


def _settings(report: Report) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Columns and rows of the settings worth knowing: where the models' runs differ, or the run and the defaults."""
    if report.differences:
        labels = [model.label for model in report.models]
        return labels, [(key, [row.get(label) for label in labels]) for key, row in report.differences.items()]
    defaults, config = (flatten(values) for values in (RunConfig().model_dump(mode="json"), report.provenance.config))
    changed = [key for key in config if config[key] != defaults.get(key)]
    return ["default", "this run"], [(key, [defaults.get(key), config[key]]) for key in changed]
