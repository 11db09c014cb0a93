"""Any number of models on the same prompts and noise, with one model, two, and three of different kinds."""

from pathlib import Path

import pytest

from srpo.config import RunConfig, parse_config
from srpo.errors import ConfigError
from srpo.evaluation.lineup import evaluate_models, find_contender
from srpo.report.schema import Report
from srpo.shapes import WEIGHTS_DIR
from tests.evaluation.inputs import make_other, make_trained

PROMPTS = "prompt,category\n" + "".join(
    f"a {word} circle,circles\n" for word in ("red", "green", "blue", "cyan", "pink")
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, flux_folder: Path, hps_folder: Path) -> RunConfig:
    prompts = tmp_path_factory.mktemp("prompts") / "some.csv"
    prompts.write_text(PROMPTS + "a grey dog,\n", encoding="utf-8")
    data = {
        "model": {"source": str(flux_folder), "height": 32, "width": 32, "max_sequence_length": 12},
        "reward": {"source": str(hps_folder / "HPS_tiny.pt"), "architecture": str(hps_folder / "tiny.json")},
        "prompts": {"held_out": str(prompts)},
        "evaluation": {"num_steps": 2, "seeds_per_prompt": 1, "num_resamples": 100, "num_report_images": 2},
    }
    return parse_config(data, "test")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, flux_folder: Path) -> list[str]:
    """A whole folder, and two transformers of the same base."""
    folder = tmp_path_factory.mktemp("models")
    trained = make_trained(folder / "training", flux_folder).transformer.path
    return [str(flux_folder), str(trained), str(make_other(folder / "other", trained).path)]


@pytest.fixture(scope="module")
def three(config: RunConfig, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("lineup")
    report = evaluate_models(models, config, folder / "three", folder / "embeddings", folder / "scores", base=models[0])
    return report, folder


def test_the_others_stand_against_the_first(three: tuple[Report, Path], models: list[str]) -> None:
    report, folder = three
    assert [model.label for model in report.models] == models
    assert len({model.transformer_sha256 for model in report.models}) == 3
    assert len({model.base_sha256 for model in report.models}) == 1
    assert [(found.reference, found.candidate) for found in report.contrasts] == [
        (models[0], models[1]),
        (models[0], models[2]),
    ]
    assert report.verdict in ("promote", "keep", "collapsed")
    assert {check.against for check in report.checks} == {models[0]}
    assert report.trained_metrics == [], "nobody says what these models were trained with"
    assert Report.model_validate_json((folder / "three" / "report.json").read_text(encoding="utf-8")) == report
    assert (folder / "three" / "report.html").stat().st_size > 1000


def test_a_base_is_for_what_is_no_whole_model(config: RunConfig) -> None:
    world = parse_config(config.model_dump(mode="json") | {"model": {"height": 32, "width": 32}}, "test")
    whole, lone = (
        find_contender(reference, world, base="builtin:shapes")
        for reference in ("builtin:shapes", str(WEIGHTS_DIR / "flux" / "transformer"))
    )
    assert whole.transformer is None
    assert lone.transformer is not None
    assert whole.transformer_sha256 == lone.transformer_sha256
    assert whole.base == lone.base


def test_every_prompt_of_the_file_is_used_and_grouped_by_its_category(three: tuple[Report, Path]) -> None:
    report, _ = three
    assert [image.category for image in report.images] == ["circles"] * 5 + [""]
    assert all(list(found.categories) == ["circles"] for found in report.contrasts)
    of_five = report.contrasts[0].categories["circles"]["reward"]
    scores = [[image.scores[model.label]["reward"] for image in report.images[:5]] for model in report.models[:2]]
    assert of_five.change == pytest.approx(sum(scores[1]) / 5 - sum(scores[0]) / 5)


def test_one_model_has_levels_no_contrast_and_no_verdict(
    three: tuple[Report, Path], config: RunConfig, models: list[str]
) -> None:
    seen: list[tuple[str, int, int]] = []
    both, folder = three
    report = evaluate_models(
        models[:1],
        config,
        folder / "one",
        folder / "embeddings",
        folder / "scores",
        progress=lambda *done: seen.append(done),
    )
    assert (report.contrasts, report.metrics, report.checks, report.verdict) == ([], {}, [], None)
    assert report.models[0].metrics == both.models[0].metrics
    assert report.reason.startswith(f"Relative of {models[0]}: ")
    assert seen == [], "its images were there already"
    assert (folder / "one" / "report.html").exists()


def test_fewer_prompts_are_those_of_all_categories_with_the_noise_of_their_places(
    three: tuple[Report, Path], config: RunConfig, models: list[str]
) -> None:
    seen: list[tuple[str, int, int]] = []
    both, folder = three
    fewer = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"num_prompts": 5})})
    stores = folder / "embeddings", folder / "scores"
    report = evaluate_models(models[:1], fewer, folder / "fewer", *stores, progress=lambda *done: seen.append(done))
    assert [image.category for image in report.images] == ["circles"] * 4 + [""]
    of_all = {image.prompt_index: image for image in both.images}
    for image in report.images:
        there = of_all[image.prompt_index]
        assert (image.prompt, image.seed) == (there.prompt, there.seed)
        assert image.scores[models[0]]["reward"] == there.scores[models[0]]["reward"]
    assert seen == [], "so that nothing was drawn anew"
    again = evaluate_models(models[:1], fewer, folder / "anew", folder / "embeddings")
    for image, before in zip(again.images, report.images, strict=True):
        own = {label: pytest.approx(scores, abs=1e-6) for label, scores in before.scores.items()}
        assert image.scores == own, "each with the embedding of its own prompt"


@pytest.mark.parametrize(
    ("references", "change", "problem"),
    [
        ([0, 0], {}, "is named twice"),
        (["nobody@champion"], {}, "nothing is registered here yet"),
        ([1], {}, "is no whole diffusers folder; if it is a part of one, give --base"),
        ([0], {"evaluation": {"num_prompts": 4}}, "give 4 prompts, but an interval needs at least 5"),
        ([0], {"evaluation": {"world": "shapes"}}, "or set evaluation.world to null"),
        ([0], {"evaluation": {"wanted": "beauty"}}, "no metric named 'beauty'"),
        ([0], {"model": {"height": 33}}, "33"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_drawn(
    config: RunConfig,
    models: list[str],
    tmp_path: Path,
    references: list[int | str],
    change: dict[str, dict[str, object]],
    problem: str,
) -> None:
    if "num_prompts" in change.get("evaluation", {}):
        data = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=change["evaluation"])})
    else:
        full = config.model_dump(mode="json")
        data = parse_config(full | {key: full[key] | values for key, values in change.items()}, "test")
    named = [models[item] if isinstance(item, int) else item for item in references]
    with pytest.raises(ConfigError, match=problem):
        evaluate_models(named, data, tmp_path / "out", tmp_path / "embeddings")
    assert not (tmp_path / "out").exists()
