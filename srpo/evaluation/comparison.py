"""The report over models that were evaluated apart: their scores on the same prompts and noise, paired anew.

Nothing is drawn or scored again. Pictures are matched by prompt and seed; what decides a picture or a score besides the
model has to be equal, or every difference is named and has to be accepted. The first model is the reference.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from srpo.config import EvaluationConfig
from srpo.config.base import flatten
from srpo.errors import ConfigError
from srpo.evaluation.bootstrap import Array
from srpo.evaluation.entries import Entry, Key, settings_of
from srpo.evaluation.pairs import DRIFT
from srpo.evaluation.statistics import SPREAD, make_contrast, measure_levels
from srpo.report.page import check_out, kept_study, write_report
from srpo.report.schema import Contrast, ImageSet, Kept, Provenance, Published, Report, Study
from srpo.report.thumbnails import NUM_BEST, NUM_WORST, keep_pictures, measured, rank
from srpo.sample_size import MIN_PROMPTS
from srpo.wording import capitalised, signed, span


def write_comparison(
    entries: Sequence[Entry], folder: Path, common: bool = False, despite: Collection[str] = ()
) -> Report:
    """Write the report over the entries, page and thumbnails into `folder`.

    ConfigError if `folder` holds an entry, or anything but an earlier comparison; if the entries were not drawn for
    the same prompts and seeds (`common`: use those that all have), or if a setting differs that is not in `despite`;
    metrics that it gives another meaning are then left out, and so is the drift where a report measured it from
    another model than the first one here. A study of two of the models that `folder` holds stays in it.
    """
    check_out(folder, "compare", [entry.folder for entry in entries])
    _check_names(entries)
    study = kept_study(folder, {entry.name: entry.model.content for entry in entries})
    different = check_settings(entries, despite)
    keys = _shared_keys(entries, common)
    left_out = {metric for metrics in different.values() for metric in metrics}
    report = _make_report(entries, keys, left_out if _drift_from_first(entries) else left_out | {DRIFT}, study)
    by_name = {entry.name: entry for entry in entries}
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _choose(report, entries, keys)
    report = keep_pictures(report, lambda index, name: by_name[name].picture(keys[index]), folder, chosen)
    write_report(report, folder)
    return report


def _choose(report: Report, entries: Sequence[Entry], keys: Sequence[Key]) -> dict[int, list[Kept]]:
    """Of the pictures that all reports kept: the worst, the best, and what all of them kept by place alone."""
    there = [index for index in rank(report) if all(entry.picture(keys[index]).is_file() for entry in entries)]
    reasons: dict[int, list[Kept]] = {index: [] for index in sorted(there)}
    for index in there[:NUM_WORST]:
        reasons[index].append("worst")
    for index in there[NUM_WORST:][-NUM_BEST:]:
        reasons[index].append("best")
    for index, kept in reasons.items():
        if all("sample" in entry.images[keys[index]].kept for entry in entries):
            kept.append("sample")
    return {index: kept for index, kept in reasons.items() if kept}


def _check_names(entries: Sequence[Entry]) -> None:
    names = [entry.name for entry in entries]
    if len(names) < 2:
        raise ConfigError("one model alone cannot be compared; give at least two")
    if len(set(names)) < len(names):
        raise ConfigError(f"the same model is named twice: {', '.join(names)}")


def check_settings(entries: Sequence[Entry], despite: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The settings that differ, with the metrics that they change; ConfigError for those that are not accepted."""
    settings = settings_of(entries)
    if unknown := sorted(set(despite) - set(settings)):
        raise ConfigError(f"--despite {unknown[0]}: choose from {', '.join(settings)}")
    different = {
        name: metrics
        for name, metrics in settings.items()
        if any(entry.setting(name) != entries[0].setting(name) for entry in entries)
    }
    refused = [name for name in different if name not in despite]
    if refused:
        found = "; ".join(f"{name} is {_each(entries, name)}" for name in refused)
        accept = " ".join(f"--despite {name}" for name in refused)
        raise ConfigError(f"not made with the same settings: {found}; {accept} compares them all the same")
    return different


def _drift_from_first(entries: Sequence[Entry]) -> bool:
    """Whether all reports measured drift from the model that is the first one here."""
    origins = [entries[0].model, *(entry.report.models[0] for entry in entries)]
    return len({model.content for model in origins}) == 1


def _each(entries: Sequence[Entry], setting: str) -> str:
    return ", ".join(f"{_short(entry.setting(setting))} for {entry.name}" for entry in entries)


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _shared_keys(entries: Sequence[Entry], common: bool) -> list[Key]:
    """Prompts and seeds to compare on, in the first report's order, the same number of seeds for each prompt."""
    shared = set.intersection(*(set(entry.images) for entry in entries))
    if any(set(entry.images) != shared for entry in entries) and not common:
        raise ConfigError(f"not drawn for the same prompts and seeds: {'; '.join(_own_images(entries, shared))}")
    by_prompt: dict[str, list[Key]] = {}
    for key in entries[0].images:
        if key in shared:
            by_prompt.setdefault(key[0], []).append(key)
    if len(by_prompt) < MIN_PROMPTS:
        raise ConfigError(
            f"{len(by_prompt)} prompts with the same seeds are in all reports, but an interval needs at least "
            f"{MIN_PROMPTS}; evaluate on more"
        )
    num_seeds = min(map(len, by_prompt.values()))
    return [key for keys in by_prompt.values() for key in keys[:num_seeds]]


def _own_images(entries: Sequence[Entry], shared: set[Key]) -> Iterator[str]:
    """What each report has that others lack, and what to do."""
    prompts = set.intersection(*({prompt for prompt, _ in entry.images} for entry in entries))
    for entry in entries:
        alone = [prompt for prompt, _ in entry.images if prompt not in prompts]
        seeds = len(set(entry.images) - shared)
        if alone:
            yield f"{entry.name} has {len(set(alone))} prompts that others lack ({_short(alone[0])!r})"
        elif seeds:
            yield f"{entry.name} has {seeds} images with seeds that others lack"
    yield f"--on common compares the {len(shared)} images that all have"


def _make_report(
    entries: Sequence[Entry], keys: Sequence[Key], left_out: Collection[str], study: Study | None
) -> Report:
    first, judged, *_ = entries
    metrics = [
        name
        for name in measured(judged.report)
        if name not in left_out and all(name in measured(entry.report) for entry in entries)
    ]
    if not metrics:
        raise ConfigError("the reports have no metric in common that means the same in all of them")
    wanted = judged.report.wanted if judged.report.wanted in (*metrics, SPREAD) else metrics[0]
    num_prompts = len({prompt for prompt, _ in keys})
    scores = {entry.name: _scores(entry, keys, metrics, num_prompts) for entry in entries}
    config = first.report.provenance.config
    settings = EvaluationConfig(
        confidence=first.report.confidence,
        num_resamples=config["evaluation"]["num_resamples"],
        correction="none",  # no gate decides here
    )
    levels = {name: measure_levels(own, settings, config["seed"]) for name, own in scores.items()}
    categories = list({prompt: first.images[prompt, seed].category for prompt, seed in keys}.values())
    contrasts = [
        make_contrast({name: scores[name] for name in (first.name, other.name)}, categories, settings, config["seed"])
        for other in entries[1:]
    ]
    return Report(
        name=" against ".join(entry.name for entry in (judged, first)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        verdict=None,
        reason=_reason(wanted, contrasts[0], judged.report.wanted),
        damage=[],
        wanted=wanted,
        confidence=first.report.confidence,
        trained_metrics=[name for name in judged.trained_metrics if name in metrics],
        num_prompts=num_prompts,
        seeds_per_prompt=len(keys) // num_prompts,
        models=[
            entry.model.model_copy(update={"label": entry.name, "metrics": levels[entry.name]}) for entry in entries
        ],
        contrasts=contrasts,
        checks=[],
        curves=judged.curves,
        images=_images(entries, keys, metrics),
        provenance=judged.report.provenance,
        differences=_differences(entries),
        published=_published(entries),
        study=study,
    )


def _scores(entry: Entry, keys: Sequence[Key], metrics: Sequence[str], num_prompts: int) -> dict[str, Array]:
    """Metric -> (prompts, seeds)."""
    return {
        name: np.array([entry.images[key].scores[entry.label][name] for key in keys]).reshape(num_prompts, -1)
        for name in metrics
    }


def _images(entries: Sequence[Entry], keys: Sequence[Key], metrics: Sequence[str]) -> list[ImageSet]:
    def scores(entry: Entry, key: Key) -> dict[str, float]:
        return {name: entry.images[key].scores[entry.label][name] for name in metrics}

    return [
        entries[0]
        .images[key]
        .model_copy(update={"kept": (), "scores": {entry.name: scores(entry, key) for entry in entries}})
        for key in keys
    ]


def _differences(entries: Sequence[Entry]) -> dict[str, Mapping[str, Any]]:
    """Setting -> name -> value, where the configs of the runs, or what drew and scored, are not the same."""
    configs = {entry.name: _made_with(entry.report.provenance) | entry.settings for entry in entries}
    names = dict.fromkeys(name for config in configs.values() for name in config)
    rows = {name: {entry: config.get(name) for entry, config in configs.items()} for name in names}
    return {name: row for name, row in rows.items() if len({repr(value) for value in row.values()}) > 1}


def _made_with(provenance: Provenance) -> dict[str, Any]:
    """Device, version of this package, and versions of others, by names that no setting has."""
    return flatten({"device": provenance.device, "code": provenance.code, "packages": provenance.packages})


def _published(entries: Sequence[Entry]) -> Published | None:
    """What the evaluations of all entries stand beside."""
    first, *others = (entry.report.published for entry in entries)
    return first if all(other == first for other in others) else None


def _reason(shown: str, contrast: Contrast, wanted: str) -> str:
    """What became of the metric `shown`; if it stands in for the one that was wanted, that is said."""
    row = contrast.metrics[shown]
    relation = "is higher" if row.lower > 0 else "is lower" if row.upper < 0 else "is not clearly different"
    interval = f"{signed(row.change)}, interval {span(row.lower, row.upper)}"
    note = f" {capitalised(wanted)}, which was wanted, cannot be compared between these reports." * (shown != wanted)
    return f"{capitalised(shown)} {relation} for {contrast.candidate} than for {contrast.reference} ({interval}).{note}"
