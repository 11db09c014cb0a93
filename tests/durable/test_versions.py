"""A registered version whose transformer lies in the durable copy alone, as after a run on a cluster."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from srpo.config import StorageConfig
from srpo.durable import Mirror
from srpo.errors import UnreachableError
from srpo.evaluation.champion import find_champion
from srpo.evaluation.run import evaluate
from srpo.hub import verify
from srpo.registry import register
from srpo.start import find_start, pinned
from srpo.tracking import open_run
from tests.durable.conftest import REMOTE
from tests.evaluation.inputs import HELD_OUT, Inputs, make_inputs, make_other

VERSION = "models:/srpo/1"


@pytest.fixture
def world(
    node: Callable[[str], Mirror], tmp_path: Path, flux_folder: Path, hps_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Inputs, str]:
    """A run's inputs and the store where its model is champion, seen from another machine: its own disk is gone."""
    first = node("first").root / "runs" / "first"
    first.mkdir(parents=True)
    config, weights, prompts, trained = make_inputs(
        first, flux_folder, hps_folder, HELD_OUT, seeds_per_prompt=1, num_report_images=1
    )
    config = config.model_copy(update={"storage": StorageConfig(remote=REMOTE)})
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    evaluated = evaluate(config, weights, prompts, trained, first / "evaluation", registry_uri=uri)
    tracked = open_run(uri, (tmp_path / "artifacts").as_uri(), "first", config)
    node("first").push(Path(trained.output_dir))
    register(config, weights, prompts, trained, evaluated.model_copy(update={"passed": True}), tracked)
    shutil.rmtree(trained.output_dir)
    monkeypatch.chdir(node("second").root.parent)
    return (config, weights, prompts, trained), uri


def test_training_starts_from_it(world: tuple[Inputs, str], tmp_path: Path) -> None:
    (config, weights, _, trained), uri = world
    champion = config.model_copy(update={"train": config.train.model_copy(update={"start": "champion"})})
    here = Path.cwd() / ".srpo"
    again = pinned(champion, uri)
    assert again.train.start == VERSION
    assert pinned(champion, uri, earlier=config).train.start == "base", "a run that goes on starts from what it did"
    assert list(here.rglob("*.safetensors")) == [], "what is only looked at is not brought"
    start = find_start(again, uri, weights.model)
    assert start and start.path == here / trained.transformer.path.relative_to(tmp_path / "first" / ".srpo")
    assert start.sha256 == trained.transformer.sha256
    verify(start)


def test_a_candidate_with_another_copy_is_compared_with_it(
    world: tuple[Inputs, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config, weights, _, trained), uri = world
    other = make_other(tmp_path / "other", weights.model.path / "transformer")
    elsewhere = config.model_copy(update={"storage": StorageConfig()})
    challenger = trained.model_copy(update={"transformer": other})
    found = find_champion(elsewhere, weights, challenger, uri)
    assert found and found.contender and found.contender.transformer, found and found.problem
    assert found.contender.transformer.path.is_relative_to(Path.cwd())

    def away(*_: object) -> None:
        raise UnreachableError("s3 is away")

    monkeypatch.setattr(Mirror, "here", away)
    with pytest.raises(UnreachableError):  # it may pass: hours of drawing without the champion would be in vain
        find_champion(elsewhere, weights, challenger, uri)
