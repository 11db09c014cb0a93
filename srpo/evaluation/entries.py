"""A model as one of several that are compared: the report that scored it, and the thumbnails beside that."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from srpo.config.base import flatten
from srpo.errors import ConfigError, first_problem
from srpo.evaluation.pairs import DIVERSITY
from srpo.report.page import REPORT_JSON
from srpo.report.schema import Curves, ImageSet, Report, Subject
from srpo.report.thumbnails import IMAGES, measured, picture_path

Key = tuple[str, int]
"""Prompt and seed of the noise."""

DRAWN = (
    "model.height",
    "model.width",
    "model.max_sequence_length",
    "evaluation.num_steps",
    "evaluation.guidance",
    "prompts.dtype",
)
"""What decides a picture besides the model, but changes the meaning of no metric."""
DIVERSITY_BY = "evaluation.diversity_by"
WEIGHTS = {"rewards.": "reward_", "evaluation.scores.": "score_"}
"""Where named judges stand in a config -> where the hashes of their weights stand in a report."""


@dataclass(frozen=True)
class Entry:
    """A model to compare."""

    name: str
    """What the comparison calls it."""
    label: str
    """What its report calls it."""
    folder: Path
    """Holds `report.json` and thumbnails."""
    report: Report

    @cached_property
    def places(self) -> dict[Key, int]:
        """Where in its report the images of a prompt and seed are."""
        return {(image.prompt, image.seed): index for index, image in enumerate(self.report.images)}

    @cached_property
    def images(self) -> dict[Key, ImageSet]:
        """Its images by what they are matched by."""
        return {key: self.report.images[index] for key, index in self.places.items()}

    @property
    def model(self) -> Subject:
        """The model itself."""
        return next(model for model in self.report.models if model.label == self.label)

    @property
    def is_judged(self) -> bool:
        """Whether it is the model that its report judged, the only one whose training the report knows."""
        return self.label == self.report.models[:2][-1].label

    @property
    def trained_metrics(self) -> list[str]:
        """Metrics of the rewards that it was trained with, if its report knows."""
        return self.report.trained_metrics if self.is_judged else []

    @property
    def curves(self) -> Curves:
        """What its training wrote down, if its report knows."""
        return self.report.curves if self.is_judged else Curves()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config of its run, with dotted names."""
        return flatten(self.report.provenance.config)

    def setting(self, name: str) -> Any:
        """The value of a setting, by the names of `settings_of`; of a judge the content of its weights."""
        if name in self.settings:
            return self.settings[name]
        for place, part in WEIGHTS.items():
            name = name.replace(place, part, 1) if name.startswith(place) else name
        return [self.report.provenance.hashes.get(key) for key in (name, f"{name}_companion")]

    @property
    def added_rewards(self) -> set[str]:
        """Names of the rewards that its run has beside the first one."""
        return set(self.report.provenance.config["rewards"])

    @property
    def held_out_scores(self) -> set[str]:
        """Names of the scores that its run measured besides the rewards."""
        return set(self.report.provenance.config["evaluation"]["scores"])

    def picture(self, key: Key) -> Path:
        """Its thumbnail of a prompt and seed, which exists only if it was kept."""
        return picture_path(self.folder / IMAGES, self.report, self.places[key], self.label)


def settings_of(entries: Sequence[Entry]) -> dict[str, tuple[str, ...]]:
    """What decides a picture or a score besides the model -> the metrics that mean something else where it differs.

    Of added rewards and held-out scores those that all entries have, and the judge of diversity where all have that.
    """
    found = dict.fromkeys(DRAWN, ()) | _settings_of_judge("reward", "preference", "reward", "relative")
    for name in sorted(set.intersection(*(entry.added_rewards for entry in entries))):
        own = f"rewards.{name}"
        found |= _settings_of_judge(own, f"{own}.preference", f"reward/{name}", f"relative/{name}")
    for name in sorted(set.intersection(*(entry.held_out_scores for entry in entries))):
        own = f"evaluation.scores.{name}"
        found |= _settings_of_judge(own, own, name, f"relative/{name}")
    if all(DIVERSITY in measured(entry.report) for entry in entries):
        found |= {DIVERSITY_BY: (DIVERSITY,)}
        for judge in {str(entry.setting(DIVERSITY_BY)) for entry in entries}:
            own = judge if judge == "reward" else f"evaluation.scores.{judge}"
            found |= {name: (*found[name], DIVERSITY) for name in _reading(own) if name in found}
    return found


def _settings_of_judge(own: str, words: str, plain: str, relative: str) -> dict[str, tuple[str, ...]]:
    """What decides the plain and the relative metric of a judge: its weights, how they are read, and its words."""
    read = dict.fromkeys(_reading(own), (plain, relative))
    return read | {f"{words}.{side}": (relative,) for side in ("positive", "negative")}


def _reading(own: str) -> tuple[str, ...]:
    """What decides how a judge sees an image: its weights, and how they are read."""
    return own, f"{own}.family", f"{own}.architecture"


def load_entry(name: str, folder: Path, label: str | None = None) -> Entry:
    """A model of the report in a folder: the one called `label`, else the one that was judged."""
    path = folder / REPORT_JSON
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{name}: no {REPORT_JSON} in {folder}; give a run, a registered model or a report") from None
    except ValidationError as error:
        raise ConfigError(f"{name}: {path} is no report of this version of srpo ({first_problem(error)})") from None
    labels = [model.label for model in report.models]
    if label is not None and label not in labels:
        raise ConfigError(f"{name}: its report holds no model {label!r}; choose from {', '.join(labels)}")
    return Entry(name, label or labels[min(1, len(labels) - 1)], folder, report)
