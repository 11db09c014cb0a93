"""Versions in a real MLflow registry, and the pictures they make."""

import os

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines.execute import Outcome
from pipelines.place import Place
from srpo.artifacts import Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.generate import Generator
from srpo.prompts import PromptSets
from srpo.reference import find_model
from srpo.registry import load_manifest, register, sampling_of, versions
from srpo.tracking import TrackedRun, open_run

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def uri(place: Place) -> str:
    return place.mlflow_uri


def again(outcome: Outcome, passed: bool, tracked: TrackedRun) -> str:
    """Register the finished run's model once more, as another run with another verdict; returns the version."""
    assert outcome.trained
    assert outcome.evaluated
    from zenml.client import Client

    steps = Client().get_pipeline_run(outcome.record.attempts[-1]).steps
    weights: Weights = steps["download"].outputs["weights"][0].load()
    prompts: PromptSets = steps["embed"].outputs["prompts"][0].load()
    evaluated = outcome.evaluated.model_copy(update={"passed": passed})
    return register(outcome.record.config, weights, prompts, outcome.trained, evaluated, tracked).version


def new_run(uri: str, config: RunConfig, place: Place, name: str) -> TrackedRun:
    return open_run(uri, place.mlflow_artifacts_uri, name, config)


def test_a_version_that_passed_is_champion_and_one_that_did_not_is_only_challenger(
    finished: Outcome, uri: str, place: Place
) -> None:
    config, client = finished.record.config, MlflowClient(uri)
    name = config.registry.model_name
    good = again(finished, True, new_run(uri, config, place, "good"))
    bad = again(finished, False, new_run(uri, config, place, "bad"))
    assert str(client.get_model_version_by_alias(name, "champion").version) == good
    assert str(client.get_model_version_by_alias(name, "challenger").version) == bad


def test_registering_a_run_twice_makes_one_version(finished: Outcome, uri: str, place: Place) -> None:
    tracked = new_run(uri, finished.record.config, place, "twice")
    assert again(finished, True, tracked) == again(finished, True, tracked)


def test_one_line_of_mlflow_makes_the_pictures_that_generate_makes(
    finished: Outcome, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.registered
    name = finished.registered.name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (loaded,) = mlflow.pyfunc.load_model(f"models:/{name}@challenger").predict([PROMPT])
    files = find_model(f"models:/{name}@challenger", None, uri)
    generator, sampling = files.generator(), files.sampling
    (generated,) = generator.images([PROMPT], sampling)
    assert loaded.tobytes() == generated.tobytes()
    config = finished.record.config
    (base,) = Generator(config.model, load_manifest(uri, "shapes@challenger").base.path).images(
        [PROMPT], sampling_of(config)
    )
    assert loaded.size == base.size == (32, 32)
    assert loaded.tobytes() != base.tobytes()


def test_a_picture_depends_on_its_own_seed_and_not_on_its_neighbours(finished: Outcome, uri: str) -> None:
    files = find_model("shapes@challenger", None, uri)
    generator, sampling = files.generator(), files.sampling
    _, second = generator.images(["a green ring on a red background", PROMPT], sampling)
    (alone,) = generator.images([PROMPT], sampling.model_copy(update={"seed": sampling.seed + 1}))
    assert second.tobytes() == alone.tobytes()


def test_the_versions_say_which_run_and_verdict_they_come_from(finished: Outcome, uri: str) -> None:
    first = versions(uri)[-1]
    assert (first.version, first.run_name) == ("1", finished.record.name)
    assert finished.evaluated
    assert first.verdict == finished.evaluated.verdict


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
