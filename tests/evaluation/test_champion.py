"""The registry's champion, from a real MLflow store, as the third model of an evaluation."""

import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from srpo import registry
from srpo.artifacts import Trained
from srpo.config import RunConfig
from srpo.evaluation.champion import Champion, find_champion
from srpo.evaluation.run import evaluate
from srpo.registry import register
from srpo.report.schema import Report, Undrawn
from srpo.tracking import open_run
from tests.evaluation.inputs import HELD_OUT, Inputs, load, make_inputs, make_other

REFERENCE = "models:/srpo/1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, flux_folder: Path, hps_folder: Path) -> tuple[Inputs, str, Report]:
    """The inputs of a run, the store where its model became champion, and the report before that."""
    folder = tmp_path_factory.mktemp("champion")
    inputs = make_inputs(folder, flux_folder, hps_folder, HELD_OUT, seeds_per_prompt=1, num_report_images=1)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracked = open_run(uri, (folder / "artifacts").as_uri(), "first", inputs[0])
    evaluated = evaluate(*inputs, folder / "evaluation", scores_dir=folder / "scores", registry_uri=uri)
    report = load(evaluated)
    register(*inputs, evaluated.model_copy(update={"passed": True}), tracked)
    return inputs, uri, report


def other(trained: Trained, folder: Path) -> Trained:
    """Another candidate."""
    return trained.model_copy(update={"transformer": make_other(folder, trained.transformer.path)})


def test_before_anything_is_champion_there_is_none(world: tuple[Inputs, str, Report]) -> None:
    assert world[2].champion is None
    assert [model.label for model in world[2].models] == ["base", "candidate"]


def test_the_champion_is_drawn_compared_and_has_its_own_gate(world: tuple[Inputs, str, Report], tmp_path: Path) -> None:
    (config, weights, prompts, trained), uri, first = world
    challenger = other(trained, tmp_path / "other")
    report = load(evaluate(config, weights, prompts, challenger, tmp_path / "evaluation", registry_uri=uri))
    assert report.champion == REFERENCE
    assert [(model.label, model.reference) for model in report.models][2] == ("champion", REFERENCE)
    assert report.models[2].transformer_sha256 == trained.transformer.sha256
    assert [(found.reference, found.candidate) for found in report.contrasts] == [
        ("base", "candidate"),
        ("champion", "candidate"),
    ]
    for image, before in zip(report.images, first.images, strict=True):
        assert image.scores["champion"] == before.scores["candidate"], "the same model, prompt and noise"
    (check,) = [check for check in report.checks if check.against == "champion"]
    assert (check.metric, check.limit, check.threshold) == ("relative", "min_change", 0.0)
    assert check.held == (check.value is not None and check.value > 0)


def test_the_champion_is_drawn_with_the_settings_of_now(world: tuple[Inputs, str, Report], tmp_path: Path) -> None:
    """As if it were the candidate; else nothing could ever succeed it once they have changed."""
    (config, weights, prompts, trained), uri, first = world
    now = config.model_copy(
        update={
            "model": config.model.model_copy(update={"height": 64}),
            "evaluation": config.evaluation.model_copy(update={"num_steps": 3}),
        }
    )
    report = load(
        evaluate(now, weights, prompts, other(trained, tmp_path / "other"), tmp_path / "new", registry_uri=uri)
    )
    assert (report.champion, report.undrawn) == (REFERENCE, None)
    itself = load(evaluate(now, weights, prompts, trained, tmp_path / "itself"))
    for image, alone, before in zip(report.images, itself.images, first.images, strict=True):
        assert image.scores["champion"] == alone.scores["candidate"] != before.scores["candidate"]
    light = config.model_copy(update={"model": config.model.model_copy(update={"weights": "bf16"})})
    found = find_champion(light, weights, other(trained, tmp_path / "light"), uri)
    assert found and found.contender and found.contender.model.weights == "bf16"


def test_a_candidate_that_is_the_champion_is_not_compared_with_itself(
    world: tuple[Inputs, str, Report], tmp_path: Path
) -> None:
    inputs, uri, _ = world
    evaluated = evaluate(*inputs, tmp_path / "evaluation", registry_uri=uri)
    report = load(evaluated)
    assert (report.champion, len(report.models)) == (None, 2)
    assert report.reason.endswith(f"; the champion {REFERENCE} was left out: it has the very same weights.")
    tracked = open_run(uri, (tmp_path / "artifacts").as_uri(), "again", inputs[0])
    registered = register(*inputs, evaluated.model_copy(update={"passed": True}), tracked)
    assert registered.outcome == (
        f"challenger only: it passed, but the champion {REFERENCE} was left out: it has the very same "
        "weights; `promote` decides by hand"
    )


def test_a_champion_that_cannot_be_compared_says_why(world: tuple[Inputs, str, Report], tmp_path: Path) -> None:
    (config, weights, _, trained), uri, _ = world
    challenger = other(trained, tmp_path / "other")

    def problem(config: RunConfig, base: str = "") -> str:
        model = weights.model.model_copy(update={"files": weights.model.files[1:]}) if base else weights.model
        found = find_champion(config, weights.model_copy(update={"model": model}), challenger, uri)
        assert found and (found.contender is None) == bool(found.problem)
        assert found.undrawn == (Undrawn(reference=REFERENCE, problem=found.problem) if found.problem else None)
        return found.problem

    assert problem(config) == ""
    family = config.model_copy(update={"model": config.model.model_copy(update={"family": "qwen_image"})})
    assert "its base is another model" in problem(family)
    assert "its base is another model" in problem(config, "another")
    elsewhere = config.model_copy(update={"registry": config.registry.model_copy(update={"model_name": "else"})})
    assert find_champion(elsewhere, weights, challenger, uri) is None
    moved = trained.transformer.path.rename(tmp_path / "moved")
    assert "its files cannot be read" in problem(config)
    shutil.move(moved, trained.transformer.path)


def test_a_champion_whose_manifest_is_gone_or_of_another_form_is_not_drawn(
    world: tuple[Inputs, str, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config, weights, _, trained), uri, _ = world
    run_id = registry.find_version(uri, REFERENCE).run_id
    (manifest,) = Path(uri.removeprefix("sqlite:///")).with_name("artifacts").glob(f"{run_id}/**/manifest.json")
    content = manifest.read_text(encoding="utf-8")

    def champion() -> Champion | None:
        return find_champion(config, weights, trained, uri)

    try:
        manifest.write_text(content.replace('"schema_version": 1', '"schema_version": 2'), encoding="utf-8")
        of_another_form = champion()
        manifest.unlink()
        gone = champion()
    finally:
        manifest.write_text(content, encoding="utf-8")
    for found in (of_another_form, gone):
        assert found and found.undrawn and found.undrawn.reference == REFERENCE
        assert found.problem.startswith("the manifest of models:/") and "cannot be read (" in found.problem

    def away(*_: object) -> None:
        try:
            raise ConnectionRefusedError
        except OSError:
            raise MlflowException("no answer")  # noqa: B904

    monkeypatch.setattr("srpo.evaluation.champion.load_manifest", away)
    with pytest.raises(MlflowException, match="no answer"):
        champion()
