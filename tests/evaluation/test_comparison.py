"""Models that were evaluated apart: paired anew by prompt and seed, refused where they do not match."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srpo.config import AddedReward, EvaluationConfig, PreferenceConfig, RunConfig, ScoreConfig
from srpo.errors import ConfigError
from srpo.evaluation.comparison import write_comparison
from srpo.evaluation.entries import Entry, load_entry
from srpo.evaluation.statistics import compare
from srpo.report.page import write_report
from srpo.report.schema import Curves, ImageSet, Report, Study
from tests.evaluation.synthetic import METRICS, make_report, write_synthetic


def entry(folder: Path, name: str, report: Report, **options: Any) -> Entry:
    write_synthetic(folder / name, report, size=16, **options)
    return load_entry(name, folder / name)


def with_images(report: Report, images: list[ImageSet]) -> Report:
    return report.model_copy(update={"images": images})


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_setting(report: Report, section: str, key: str, value: object) -> Report:
    config = report.provenance.config
    changed = config | {section: config[section] | {key: value}}
    return report.model_copy(update={"provenance": report.provenance.model_copy(update={"config": changed})})


@pytest.fixture
def parts() -> list[Report]:
    """What two runs would have reported of the two trained models of one common report."""
    whole = make_report(("base", "one", "two"), num_prompts=6)
    runs = []
    for label in ("one", "two"):
        kept = [model for model in whole.models if model.label in ("base", label)]
        images = [
            image.model_copy(update={"scores": {name: image.scores[name] for name in ("base", label)}})
            for image in whole.images
        ]
        runs.append(whole.model_copy(update={"models": kept, "images": images}))
    return runs


def test_it_finds_what_one_evaluation_of_both_would_have_found(parts: list[Report], tmp_path: Path) -> None:
    """Scores shuffled apart and matched again: the same statistics as on the arrays that they came from."""
    one, two = parts
    two = with_images(two, two.images[::-1])
    report = write_comparison([entry(tmp_path, "a", one), entry(tmp_path, "b", two)], tmp_path / "out")
    columns = [
        {
            name: [[image.scores[label][name] for image in run.images if image.prompt_index == p] for p in range(6)]
            for name in METRICS
        }
        for run, label in ((one, "one"), (with_images(two, two.images[::-1]), "two"))
    ]

    before, after = ({name: np.array(rows) for name, rows in side.items()} for side in columns)
    assert report.contrasts[0].metrics == compare(
        before, after, EvaluationConfig(num_resamples=100, correction="none"), 0
    )
    assert [model.label for model in report.models] == ["a", "b"]
    assert report.verdict is None
    assert Report.model_validate_json((tmp_path / "out" / "report.json").read_text()) == report


def test_it_marks_what_the_judged_model_was_trained_with_and_claims_no_time(
    parts: list[Report], tmp_path: Path
) -> None:
    one, two = parts
    planned = two.curves.model_copy(update={"planned_gpu_hours": 1.0})
    two = two.model_copy(update={"trained_metrics": ["relative", "relative/other"], "curves": planned})
    report = write_comparison([entry(tmp_path, "a", one), entry(tmp_path, "b", two)], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert report.trained_metrics == ["relative"]
    base = replace(entry(tmp_path, "b", two), label="base")
    of_base = write_comparison([entry(tmp_path, "a", one), base], tmp_path / "base")
    assert (of_base.trained_metrics, of_base.curves) == ([], Curves()), "no training of that run has made its base"
    assert report.curves == planned
    assert page.count("what the model was trained with") == 1
    assert "0.0 s" not in page and "GPU-hours" not in page
    assert f"Compared {report.created}." in page
    of_those_kept = "of the pictures that all reports kept, the "
    assert of_those_kept in page and of_those_kept not in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")


def test_a_model_does_not_differ_from_itself(parts: list[Report], tmp_path: Path) -> None:
    entries = [entry(tmp_path, name, parts[0]) for name in ("a", "b")]
    metrics = write_comparison(entries, tmp_path / "out").metrics
    assert {(row.change, row.lower, row.upper) for row in metrics.values()} == {(0, 0, 0)}


def test_the_page_shows_the_pictures_of_every_model(parts: list[Report], tmp_path: Path) -> None:
    first, *others = (entry(tmp_path, name, report) for name, report in zip("abc", [*parts, parts[0]], strict=True))
    report = write_comparison([first, *others], tmp_path / "out")
    shown = [index for index, image in enumerate(report.images) if image.kept]
    assert len(shown) == 12
    assert len(list((tmp_path / "out" / "images").iterdir())) == 36
    assert [(row.reference, row.candidate) for row in report.contrasts] == [("a", "b"), ("a", "c")]
    same = (tmp_path / "out" / "images" / "00003-0.webp").read_bytes()
    assert same == first.picture((report.images[3].prompt, report.images[3].seed)).read_bytes()


def test_only_a_sample_by_place_in_every_report_is_one_here(parts: list[Report], tmp_path: Path) -> None:
    """A study draws from the sample alone: pictures kept for their scores would not be fair."""
    entries = [entry(tmp_path, name, report, count=8) for name, report in zip("ab", parts, strict=True)]
    report = write_comparison(entries, tmp_path / "out")
    fair = {(image.prompt, image.seed) for image in report.images if "sample" in image.kept}
    assert fair == set.intersection(
        *({key for key, image in e.images.items() if "sample" in image.kept} for e in entries)
    )
    assert fair


def test_other_prompts_and_seeds_are_refused_by_name_or_left_out(parts: list[Report], tmp_path: Path) -> None:
    one, two = parts
    fewer = with_images(two, [image for image in two.images if image.prompt_index > 0 and image.seed != 1001])
    entries = [entry(tmp_path, "a", one), entry(tmp_path, "b", fewer)]
    with pytest.raises(ConfigError, match=r"a has 1 prompts that others lack \('prompt 0.*--on common compares the 9"):
        write_comparison(entries, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = write_comparison(entries, tmp_path / "out", common=True)
    assert (report.num_prompts, report.seeds_per_prompt) == (5, 1)
    assert [image.seed for image in report.images] == [1000, 2000, 3000, 4000, 5000]
    for model in report.models:
        own = [image.scores[model.label]["relative"] for image in report.images]
        assert model.metrics["relative"].value == pytest.approx(np.mean(own)), "of what is compared, not of all"


def test_only_an_earlier_comparison_is_written_over(parts: list[Report], tmp_path: Path) -> None:
    entries = [entry(tmp_path, name, report) for name, report in zip("ab", parts, strict=True)]
    out, album, file = tmp_path / "out", tmp_path / "album", tmp_path / "file"
    write_comparison(entries, out)
    write_comparison(entries[::-1], out)
    (album / "images").mkdir(parents=True)
    (album / "images" / "holiday.jpg").write_bytes(b"kept")
    file.write_text("kept")
    measured = write_synthetic(tmp_path / "m", parts[0].model_copy(update={"curves": Curves()}), size=16).parent
    comparisons = [load_entry("c", out), load_entry("d", out, "a")]
    before = contents(tmp_path)
    for read, folder, found in [
        (entries, album, "holds images"),
        (entries, file, "is no folder"),
        (entries, tmp_path / "a" / ".." / "a", "holds a report that is read here"),
        (comparisons, tmp_path / "a", "holds a report of `run`"),
        (entries, measured, "holds a report of `evaluate`"),
        (comparisons, out, "holds a report that is read here"),
    ]:
        with pytest.raises(ConfigError, match=rf"^--out {re.escape(str(folder))} {found}; .* give another --out"):
            write_comparison(read, folder)
    assert contents(tmp_path) == before


def test_wholly_different_seeds_cannot_be_compared_at_all(parts: list[Report], tmp_path: Path) -> None:
    moved = [image.model_copy(update={"seed": image.seed + 7}) for image in parts[1].images]
    entries = [entry(tmp_path, "a", parts[0]), entry(tmp_path, "b", with_images(parts[1], moved))]
    with pytest.raises(ConfigError, match="a has 12 images with seeds that others lack"):
        write_comparison(entries, tmp_path / "out")
    with pytest.raises(ConfigError, match="0 prompts with the same seeds .* needs at least 5"):
        write_comparison(entries, tmp_path / "out", common=True)


def test_other_settings_are_refused_unless_they_are_named(parts: list[Report], tmp_path: Path) -> None:
    one, two = parts
    changed = with_setting(with_setting(two, "evaluation", "num_steps", 7), "preference", "positive", ["Vivid"])
    entries = [entry(tmp_path, "a", one), entry(tmp_path, "b", changed)]
    with pytest.raises(ConfigError, match=r"num_steps is 50 for a, 7 for b; preference\.positive is .* Vivid for b"):
        write_comparison(entries, tmp_path / "out")
    accepted = ["evaluation.num_steps", "preference.positive"]
    report = write_comparison(entries, tmp_path / "out", despite=accepted)
    assert "relative" not in report.metrics  # it is the score of other words
    assert "reward" in report.metrics
    assert all(model.metrics.keys() == report.metrics.keys() for model in report.models)
    assert report.wanted == "reward"
    assert report.reason.endswith("Relative, which was wanted, cannot be compared between these reports.")
    assert report.differences["evaluation.num_steps"] == {"a": 50, "b": 7}
    with pytest.raises(ConfigError, match="--despite guidance: choose from"):
        write_comparison(entries, tmp_path / "out", despite=["guidance"])


def with_judges(report: Report, digest: str = "f", **words: list[str]) -> Report:
    """Scored by an added reward `style` and a held-out score `hps`, with these weights and words."""
    config = RunConfig(
        rewards={"style": AddedReward(preference=PreferenceConfig(**words))},
        evaluation=EvaluationConfig(num_resamples=100, scores={"hps": ScoreConfig(family="hps", source="x", **words)}),
    ).model_dump(mode="json")
    hashes = report.provenance.hashes | {"reward_style": 64 * digest, "score_hps": 64 * digest}
    provenance = report.provenance.model_copy(update={"config": config, "hashes": hashes})
    return with_metrics(report.model_copy(update={"provenance": provenance}), *JUDGED)


JUDGED = ("reward/style", "relative/style", "hps", "relative/hps")


def with_metrics(report: Report, *names: str) -> Report:
    """With more metrics of every image."""
    images = [
        image.model_copy(
            update={
                "scores": {
                    label: scores | dict.fromkeys(names, scores["reward"]) for label, scores in image.scores.items()
                }
            }
        )
        for image in report.images
    ]
    return with_images(report, images)


WEIGHTS = ["rewards.style", "evaluation.scores.hps"]
WORDS = ["rewards.style.preference.positive", "evaluation.scores.hps.positive"]


@pytest.mark.parametrize(
    ("change", "differs", "left"),
    [
        ({"digest": "a"}, WEIGHTS, set()),
        ({"positive": ["Vivid"]}, WORDS, {"reward/style", "hps"}),
        ({"negative": ["Flat"]}, [name.replace("positive", "negative") for name in WORDS], {"reward/style", "hps"}),
    ],
)
def test_a_judge_of_other_weights_or_words_is_another_judge(
    parts: list[Report], tmp_path: Path, change: dict[str, Any], differs: list[str], left: set[str]
) -> None:
    one, two = with_judges(parts[0]), with_judges(parts[1], **change)
    entries = [entry(tmp_path, "a", one), entry(tmp_path, "b", two)]
    with pytest.raises(ConfigError, match=" .*; ".join(f"{re.escape(name)} is" for name in differs)):
        write_comparison(entries, tmp_path / "out")
    report = write_comparison(entries, tmp_path / "out", despite=differs)
    assert set(report.metrics) & set(JUDGED) == left
    assert {"reward", "relative"} < set(report.metrics)


@pytest.mark.parametrize("part", ["family", "architecture"])
def test_a_held_out_score_read_in_another_way_is_another_score(parts: list[Report], tmp_path: Path, part: str) -> None:
    one, two = map(with_judges, parts)
    scores = two.provenance.config["evaluation"]["scores"]
    two = with_setting(two, "evaluation", "scores", {"hps": scores["hps"] | {part: "other"}})
    entries = [entry(tmp_path, "a", one), entry(tmp_path, "b", two)]
    with pytest.raises(ConfigError, match=rf"evaluation\.scores\.hps\.{part} is .* for a, other for b"):
        write_comparison(entries, tmp_path / "out")


@pytest.mark.parametrize(
    ("judge", "key", "value", "differs"),
    [
        ("hps", "diversity_by", "reward", "evaluation.diversity_by"),
        ("hps", "scores", ScoreConfig(family="clip_score", source="x"), "evaluation.scores.hps.family"),
        ("reward", "scores", ScoreConfig(family="clip_score", source="x"), None),
    ],
)
def test_diversity_is_compared_only_where_the_same_judge_saw_it(
    parts: list[Report], tmp_path: Path, judge: str, key: str, value: Any, differs: str | None
) -> None:
    value = {"hps": value.model_dump()} if key == "scores" else value
    one, two = (with_metrics(with_judges(report), "diversity") for report in parts)
    one, two = (with_setting(report, "evaluation", "diversity_by", judge) for report in (one, two))
    entries = [entry(tmp_path, "a", one), entry(tmp_path, "b", with_setting(two, "evaluation", key, value))]
    accepted = [differs or "evaluation.scores.hps.family"]
    with pytest.raises(ConfigError, match=rf"{re.escape(accepted[0])} is hps for a"):
        write_comparison(entries, tmp_path / "out")
    report = write_comparison(entries, tmp_path / "out", despite=accepted)
    assert ("diversity" in report.metrics) == (differs is None)


def test_nobody_is_asked_who_saw_a_diversity_that_was_not_measured(parts: list[Report], tmp_path: Path) -> None:
    other = with_setting(parts[1], "evaluation", "diversity_by", "hps")
    report = write_comparison([entry(tmp_path, "a", parts[0]), entry(tmp_path, "b", other)], tmp_path / "out")
    assert "reward" in report.metrics and "diversity" not in report.metrics


def test_texts_cut_at_another_length_are_refused(parts: list[Report], tmp_path: Path) -> None:
    changed = with_setting(parts[1], "model", "max_sequence_length", 77)
    with pytest.raises(ConfigError, match=r"model\.max_sequence_length is 512 for a, 77 for b"):
        write_comparison([entry(tmp_path, "a", parts[0]), entry(tmp_path, "b", changed)], tmp_path / "out")


def test_the_spread_may_be_what_was_wanted(parts: list[Report], tmp_path: Path) -> None:
    """It is a metric of the set, which no single image has."""
    entries = [entry(tmp_path, n, p.model_copy(update={"wanted": "spread"})) for n, p in zip("ab", parts, strict=True)]
    report = write_comparison(entries, tmp_path / "out")
    assert report.wanted == "spread" and report.reason.startswith("Spread is") and "wanted" not in report.reason


def test_other_versions_of_what_drew_and_scored_are_named(parts: list[Report], tmp_path: Path) -> None:
    other = {"code": {"version": "1"}, "packages": {"python": "3", "torch": "2"}}
    moved = parts[1].model_copy(update={"provenance": parts[1].provenance.model_copy(update=other)})
    entries = [entry(tmp_path, "a", parts[0]), entry(tmp_path, "b", moved)]
    assert write_comparison(entries, tmp_path / "out").differences == {
        "code.version": {"a": "0", "b": "1"},
        "packages.torch": {"a": None, "b": "2"},
    }


def test_what_people_said_stays_in_a_comparison_that_is_made_again(parts: list[Report], tmp_path: Path) -> None:
    one, two = (entry(tmp_path, name, report) for name, report in zip("ab", parts, strict=True))
    out = tmp_path / "out"
    report = write_comparison([one, two], out)
    study = Study(
        study="s", reference="a", candidate="b", confidence=0.95, num_pairs=1, num_voters=1, preferences=[], ballots=[]
    )
    write_report(report.model_copy(update={"study": study}), out)
    assert write_comparison([two, one], out).study == study
    other = parts[1].models[1].model_copy(update={"transformer_sha256": 64 * "9"})
    retrained = parts[1].model_copy(update={"models": [parts[1].models[0], other]})
    known, rebased = (
        parts[1].model_copy(
            update={"models": [parts[1].models[0], parts[1].models[1].model_copy(update={"base_sha256": 64 * digit})]}
        )
        for digit in "12"
    )
    assert write_comparison([one, entry(tmp_path, "b", known)], out).study == study
    for changed in (retrained, rebased):
        with pytest.raises(ConfigError, match="holds a study, what people said of b against a, .* give another --out"):
            write_comparison([one, entry(tmp_path, "b", changed)], out)
    assert Report.model_validate_json((out / "report.json").read_text()).study == study


def test_prompts_embedded_in_another_precision_are_refused_and_another_device_is_named(
    parts: list[Report], tmp_path: Path
) -> None:
    changed = with_setting(parts[1], "prompts", "dtype", "bf16")
    elsewhere = parts[1].provenance.model_copy(update={"device": "NVIDIA H200"})
    first, other = entry(tmp_path, "a", parts[0]), entry(tmp_path, "b", changed)
    with pytest.raises(ConfigError, match=r"prompts\.dtype is fp32 for a, bf16 for b"):
        write_comparison([first, other], tmp_path / "out")
    moved = entry(tmp_path, "c", parts[1].model_copy(update={"provenance": elsewhere}))
    assert write_comparison([first, moved], tmp_path / "out").differences == {
        "device": {"a": "CPU", "c": "NVIDIA H200"}
    }


def test_drift_is_compared_only_where_all_drifted_from_the_first_model(parts: list[Report], tmp_path: Path) -> None:
    one, two = (with_metrics(report, "drift") for report in parts)
    base, *others = (entry(tmp_path, name, report) for name, report in zip("xab", (one, one, two), strict=True))
    base = replace(base, label="base")
    assert "drift" in write_comparison([base, *others], tmp_path / "shared").metrics
    assert "drift" not in write_comparison(others, tmp_path / "of-the-first").metrics
    moved = two.models[0].model_copy(update={"base_sha256": 64 * "9"})
    elsewhere = entry(tmp_path, "c", two.model_copy(update={"models": [moved, *two.models[1:]]}))
    assert "drift" not in write_comparison([base, elsewhere], tmp_path / "of-another").metrics


def test_any_model_of_a_report_can_be_named(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "run", make_report(num_prompts=5), size=16)
    report = write_comparison(
        [load_entry("run#base", tmp_path / "run", "base"), load_entry("run", tmp_path / "run")], tmp_path / "out"
    )
    assert report.metrics["reward"].change == pytest.approx(make_report(num_prompts=5).metrics["reward"].change)
    with pytest.raises(ConfigError, match="holds no model 'champion'; choose from base, candidate"):
        load_entry("run", tmp_path / "run", "champion")


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no report\.json in"):
        load_entry("x", tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 1}')
    with pytest.raises(ConfigError, match="is no report of this version of srpo"):
        load_entry("x", tmp_path)
