"""Versions in a real MLflow registry, and the pictures they make."""

import os
from pathlib import Path

import mlflow
import pandas
import pytest
from mlflow import MlflowClient
from zenml.client import Client

from pipelines.outcome import Outcome
from pipelines.place import Place
from srpo.artifacts import Registered, Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.generate import Painter
from srpo.prompts import PromptSets
from srpo.reference import find_model
from srpo.registry import (
    GateResult,
    champion_moves,
    find_version,
    load_evaluation,
    load_manifest,
    register,
    rollback,
    sampling_of,
    versions,
)
from srpo.registry.history import made_tag
from srpo.report.schema import Report, Undrawn
from srpo.tracking import TrackedRun, open_run

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def uri(place: Place) -> str:
    return place.mlflow_uri


def again(
    outcome: Outcome,
    passed: bool,
    tracked: TrackedRun,
    folder: Path,
    champion: str | None = None,
    undrawn: Undrawn | None = None,
) -> Registered:
    """Register the finished run's model once more, as another run, compared with `champion`, with another verdict."""
    assert outcome.trained
    assert outcome.evaluated
    steps = Client().get_pipeline_run(outcome.record.attempts[-1]).steps
    weights: Weights = steps["download"].outputs["weights"][0].load()
    prompts: PromptSets = steps["embed"].outputs["prompts"][0].load()
    report = Report.model_validate_json(Path(outcome.evaluated.report_json).read_text())
    path = folder / f"{tracked.run_id}.json"
    path.write_text(report.model_copy(update={"champion": champion, "undrawn": undrawn}).model_dump_json())
    evaluated = outcome.evaluated.model_copy(update={"passed": passed, "report_json": str(path)})
    return register(outcome.record.config, weights, prompts, outcome.trained, evaluated, tracked)


def new_run(uri: str, config: RunConfig, place: Place, name: str) -> TrackedRun:
    return open_run(uri, place.mlflow_artifacts_uri, name, config)


def champion_of(uri: str, name: str) -> str | None:
    """`models:/name/version`."""
    found = MlflowClient(uri).get_registered_model(name).aliases.get("champion")
    return None if found is None else f"models:/{name}/{found}"


def test_a_version_that_passed_is_champion_and_one_that_did_not_is_only_challenger(
    finished: Outcome, uri: str, place: Place, tmp_path: Path
) -> None:
    config, client = finished.record.config, MlflowClient(uri)
    name = config.registry.model_name
    before = champion_of(uri, name)
    good = again(finished, True, new_run(uri, config, place, "good"), tmp_path, before)
    bad = again(finished, False, new_run(uri, config, place, "bad"), tmp_path, champion_of(uri, name))
    assert str(client.get_model_version_by_alias(name, "champion").version) == good.version
    assert str(client.get_model_version_by_alias(name, "challenger").version) == bad.version
    assert (good.alias, good.outcome) == ("champion", f"champion, in place of {before or 'none'}")
    assert (bad.alias, bad.licences.keys()) == ("challenger", {"model", "reward"})
    moves, _ = champion_moves(uri)[name]
    assert (moves[-1].kind, moves[-1].after) == ("gate", good.version)
    assert finished.evaluated and moves[-1].reason == finished.evaluated.reason


def test_what_passed_against_a_champion_of_yesterday_must_be_evaluated_again(
    finished: Outcome, uri: str, place: Place, tmp_path: Path
) -> None:
    config = finished.record.config
    name = config.registry.model_name
    known = champion_of(uri, name)
    first = again(finished, True, new_run(uri, config, place, "first"), tmp_path, known)
    late = again(finished, True, new_run(uri, config, place, "late"), tmp_path, known)
    assert champion_of(uri, name) == f"models:/{name}/{first.version}"
    assert late.alias == "challenger"
    assert "evaluate again against it (`run --from evaluate`)" in late.outcome
    assert f"the champion is now models:/{name}/{first.version}" in late.outcome


def test_what_cannot_be_compared_with_the_champion_is_not_sent_to_be_evaluated_again(
    finished: Outcome, uri: str, place: Place, tmp_path: Path
) -> None:
    config = finished.record.config
    name = config.registry.model_name
    again(finished, True, new_run(uri, config, place, "reigning"), tmp_path, champion_of(uri, name))
    champion = champion_of(uri, name)
    undrawn = Undrawn(reference=str(champion), problem="its base is another model")
    alone = again(finished, True, new_run(uri, config, place, "alone"), tmp_path, undrawn=undrawn)
    assert champion_of(uri, name) == champion
    assert "--from evaluate" not in alone.outcome
    assert alone.outcome.endswith("was left out: its base is another model; `promote` decides by hand")


@pytest.mark.parametrize("by", ["rollback", "hand"])
def test_a_run_that_goes_on_does_not_bring_back_what_was_taken_back(
    finished: Outcome, uri: str, place: Place, tmp_path: Path, by: str
) -> None:
    """By `rollback`, or by hand in MLflow's own page after the run was killed between the alias and its note."""
    config = finished.record.config
    name = config.registry.model_name
    old = again(finished, True, new_run(uri, config, place, "old"), tmp_path, champion_of(uri, name))
    tracked = new_run(uri, config, place, "taken back")
    new = again(finished, True, tracked, tmp_path, champion_of(uri, name))
    if by == "rollback":
        rollback(uri, name, "its greens are off")
    else:
        MlflowClient(uri).delete_registered_model_tag(name, made_tag(champion_moves(uri)[name][0][-1]))
        assert again(finished, True, tracked, tmp_path, champion_of(uri, name)).outcome == "champion"
        MlflowClient(uri).set_registered_model_alias(name, "champion", old.version)
    assert again(finished, True, tracked, tmp_path, champion_of(uri, name)).outcome == "was champion before"
    assert champion_of(uri, name) == f"models:/{name}/{old.version}"
    newest = again(finished, False, new_run(uri, config, place, "newest"), tmp_path)
    assert (new.alias, new.uri) == ("champion", f"models:/{name}/{new.version}")
    once_more = again(finished, True, tracked, tmp_path)
    assert (once_more.version, once_more.alias, once_more.uri) == (new.version, "", new.uri)
    assert str(MlflowClient(uri).get_model_version_by_alias(name, "challenger").version) == newest.version


def test_a_version_remembers_its_gate_with_margins(finished: Outcome, uri: str) -> None:
    assert finished.evaluated and finished.registered
    report = Report.model_validate_json(Path(finished.evaluated.report_json).read_text())
    version = find_version(uri, f"{finished.registered.name}/{finished.registered.version}")
    assert [(result.metric, result.threshold, result.held) for result in version.gate] == [
        (check.metric, check.threshold, check.held) for check in report.checks
    ]
    assert all(result.held == (result.margin is not None and result.margin >= 0) for result in version.gate)
    broken = GateResult(metric="spread", against="base", limit="min_ratio", threshold=0.6, value=0.55, held=False)
    kept = GateResult(metric="clipped", against="base", limit="max_change", threshold=0.1, value=-0.02, held=True)
    summary = version.model_copy(update={"gate": (broken, kept)}).gate_summary
    assert summary == "1 of 2 held; spread against base: min_ratio 0.6, short by 0.05"
    assert str(kept) == "clipped against base: max_change 0.1, spare 0.12"
    tie = GateResult(metric="relative", against="champion", limit="min_change", threshold=0, value=0, held=False)
    assert str(tie) == "relative against champion: min_change 0, reached, but not exceeded"


def test_without_weights_there_is_no_version(finished: Outcome, uri: str, place: Place, tmp_path: Path) -> None:
    assert finished.trained
    weights, before = finished.trained.transformer.path, len(versions(uri))
    moved = weights.rename(tmp_path / "moved")
    try:
        with pytest.raises(ConfigError, match="a version without them could make no picture"):
            again(finished, True, new_run(uri, finished.record.config, place, "weightless"), tmp_path)
    finally:
        moved.rename(weights)
    assert len(versions(uri)) == before


def test_a_run_that_took_its_report_from_an_earlier_one_has_it_too(
    finished: Outcome, uri: str, place: Place, tmp_path: Path
) -> None:
    """As `run --from register` does."""
    assert finished.trained and finished.evaluated
    client, folder = MlflowClient(uri), Path(finished.evaluated.report_json).parent
    steps = Client().get_pipeline_run(finished.record.attempts[-1]).steps
    weights, prompts = (
        steps[step].outputs[name][0].load() for step, name in (("download", "weights"), ("embed", "prompts"))
    )
    tracked = new_run(uri, finished.record.config, place, "from register")
    version = register(finished.record.config, weights, prompts, finished.trained, finished.evaluated, tracked)
    found = load_evaluation(uri, version.uri, tmp_path)
    for name in ("report.json", "report.html"):
        assert (found / name).read_bytes() == (folder / name).read_bytes()
    pictures = {path.name for path in (folder / "images").iterdir()}
    assert {path.name for path in (found / "images").iterdir()} == pictures != set()
    own = finished.record.tracked.run_id
    before = client.list_artifacts(own, "evaluation")
    register(finished.record.config, weights, prompts, finished.trained, finished.evaluated, finished.record.tracked)
    assert client.list_artifacts(own, "evaluation") == before


def test_registering_a_run_twice_makes_one_version(finished: Outcome, uri: str, place: Place, tmp_path: Path) -> None:
    tracked = new_run(uri, finished.record.config, place, "twice")
    first, second = (again(finished, False, tracked, tmp_path) for _ in range(2))
    assert first == second


def test_one_line_of_mlflow_makes_the_pictures_that_generate_makes(
    finished: Outcome, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.registered
    name = finished.registered.name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}@challenger")
    (loaded,) = model.predict([PROMPT])
    files = find_model(f"models:/{name}@challenger", None, uri)
    painter, sampling = files.painter(), files.sampling
    (generated,) = painter.images([PROMPT], sampling)
    assert loaded.tobytes() == generated.tobytes()
    for asked in (PROMPT, pandas.DataFrame({"prompt": [PROMPT]})):
        (again,) = model.predict(asked)
        assert again.tobytes() == generated.tobytes()
    for wrong in (pandas.DataFrame({"prompt": [PROMPT], "seed": [1]}), {"prompt": [PROMPT]}, [1]):
        with pytest.raises(ConfigError, match="prompts must be a text, a list of texts, or a table"):
            model.predict(wrong)
    config = finished.record.config
    (base,) = Painter(config.model, load_manifest(uri, "shapes@challenger").base.path).images(
        [PROMPT], sampling_of(config)
    )
    assert loaded.size == base.size == (32, 32)
    assert loaded.tobytes() != base.tobytes()


def test_a_picture_depends_on_its_own_seed_and_not_on_its_neighbours(finished: Outcome, uri: str) -> None:
    files = find_model("shapes@challenger", None, uri)
    painter, sampling = files.painter(), files.sampling
    _, second = painter.images(["a green ring on a red background", PROMPT], sampling)
    (alone,) = painter.images([PROMPT], sampling.model_copy(update={"seed": sampling.seed + 1}))
    assert second.tobytes() == alone.tobytes()


def test_the_versions_say_which_run_and_verdict_they_come_from(finished: Outcome, uri: str) -> None:
    assert finished.evaluated and finished.registered
    own = next(entry for entry in versions(uri) if entry.uri == finished.registered.uri)
    assert own.run_name == finished.record.name
    assert own.verdict == finished.evaluated.verdict


@pytest.mark.parametrize("reference", ["nobody@champion", "nothing", "models:/shapes/999"])
def test_a_reference_to_nothing_says_what_there_is(reference: str, finished: Outcome, uri: str) -> None:
    with pytest.raises(ConfigError, match="shapes@challenger"):
        load_manifest(uri, reference)


def test_a_version_whose_weights_have_changed_is_refused(finished: Outcome, uri: str) -> None:
    manifest = load_manifest(uri, "shapes@challenger")
    path = manifest.transformer.path / "config.json"
    content = path.read_bytes()
    try:
        path.write_bytes(content + b" ")
        with pytest.raises(ConfigError, match="has changed"):
            find_model("shapes@challenger", None, uri)
    finally:
        path.write_bytes(content)
    assert os.path.getsize(path) == len(content)
