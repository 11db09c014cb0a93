"""Whether there is something new to train on, against versions in a real MLflow registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import fingerprint
from pipelines.earlier import same_origin
from pipelines.execute import new_run
from pipelines.new_data import from_champion, look
from pipelines.outcome import Outcome
from pipelines.place import Place
from srpo.config import RunConfig, parse_config
from srpo.control_words import words_hash
from srpo.plan import make_plan
from srpo.registry import promote
from srpo.start import find_start
from srpo.tracking import connect
from tests.conftest import CIRCLES, CONFIG, SHORT
from tests.runs import call, run


@pytest.fixture(scope="module")
def own(finished: Outcome, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run on a prompt file of its own, under a registered model of its own."""
    prompts = tmp_path_factory.mktemp("prompts") / "train.txt"
    prompts.write_text("\n".join(text for text in CIRCLES if "yellow" not in text))  # that one is held out
    config = finished.record.config
    return config.model_copy(
        update={
            "prompts": config.prompts.model_copy(update={"train": str(prompts)}),
            "registry": config.registry.model_copy(update={"model_name": "new-data"}),
        }
    )


@pytest.fixture(scope="module")
def champion(own: RunConfig, place: Place) -> Outcome:
    """The first version of that model, promoted by hand whatever its gate said."""
    assert look(own, place.mlflow_uri).champion is None
    outcome = run(place, own)
    if outcome.registered and outcome.registered.alias != "champion":
        promote(place.mlflow_uri, "new-data/1", "the test needs one")
    return outcome


@pytest.fixture
def train_file(own: RunConfig) -> Iterator[Path]:
    """The run's prompts, which are afterwards as they were."""
    path = Path(own.prompts.train)
    same = path.read_text()
    yield path
    path.write_text(same)


def test_without_a_champion_there_is_everything_to_learn(finished: Outcome, own: RunConfig, place: Place) -> None:
    nobody = own.model_copy(update={"registry": own.registry.model_copy(update={"model_name": "nobody"})})
    assert look(nobody, place.mlflow_uri).anything


def test_the_same_data_is_nothing_new_and_each_change_is_named(
    own: RunConfig, champion: Outcome, place: Place, train_file: Path
) -> None:
    same = train_file.read_text()
    found = look(own, place.mlflow_uri)
    assert (found.champion, found.changed) == ("models:/new-data/1", ())
    assert not found.anything
    train_file.write_text(f"{same}\na white circle on a blue background")
    assert look(own, place.mlflow_uri).changed == ("prompts or images",)
    train_file.write_text(same)  # content counts, not the time of change
    assert not look(own, place.mlflow_uri).anything
    words = own.preference.model_copy(update={"positive": ("Vivid",)})
    assert look(own.model_copy(update={"preference": words}), place.mlflow_uri).changed == ("control words",)


def test_a_champion_of_unknown_data_is_not_taken_for_up_to_date(
    own: RunConfig, champion: Outcome, place: Place
) -> None:
    client = connect(place.mlflow_uri)
    tags = client.get_model_version("new-data", "1").tags
    client.delete_model_version_tag("new-data", "1", "data_hash")
    try:
        assert look(own, place.mlflow_uri).changed == ("prompts or images",)
    finally:
        client.set_model_version_tag("new-data", "1", "data_hash", tags["data_hash"])


def test_what_a_challenger_was_trained_on_is_not_new(
    own: RunConfig, champion: Outcome, place: Place, train_file: Path
) -> None:
    """Without that, data on which a version lost would be trained on again each week."""
    same, client = train_file.read_text(), connect(place.mlflow_uri)
    train_file.write_text(f"{same}\na black circle on a blue background")
    tags = client.get_model_version("new-data", "1").tags | {"data_hash": fingerprint.of_data(own)}
    assert look(own, place.mlflow_uri).anything
    version = client.create_model_version("new-data", "runs:/none/model", tags=tags).version
    client.set_registered_model_alias("new-data", "challenger", version)
    try:
        found = look(own, place.mlflow_uri)
        assert str(found).startswith(f"nothing new: the challenger models:/new-data/{version} was")
        train_file.write_text(f"{same}\na grey circle on a blue background")
        assert look(own, place.mlflow_uri).anything
    finally:
        client.delete_model_version("new-data", version)
        client.set_registered_model_alias("new-data", "challenger", "1")


def test_a_retraining_starts_from_the_champion_of_its_first_moment(
    own: RunConfig, champion: Outcome, place: Place
) -> None:
    again = from_champion(own)
    assert again.train.start == "champion"
    record = new_run(place, make_plan(again, place.root))
    assert record.config.train.start == "models:/new-data/1"
    assert champion.trained
    start = find_start(record.config, place.mlflow_uri)
    assert start == champion.trained.transformer
    assert same_origin(record, again, ["trained"])  # `--from evaluate` takes up what was trained, whoever is champion
    assert not same_origin(record, own, ["trained"])
    recomputed = again.train.model_copy(update={"gradient_checkpointing": "full", "compile": True})
    assert same_origin(record, again.model_copy(update={"train": recomputed}), ["trained"]), "in less memory"
    from_base = own.model_copy(update={"train": own.train.model_copy(update={"start": "base"})})
    assert from_champion(parse_config({"train": {"start": "base"}}, "here")).train.start == "base"
    nobody = again.model_copy(update={"registry": again.registry.model_copy(update={"model_name": "nobody"})})
    assert new_run(place, make_plan(nobody, place.root)).config == from_base.model_copy(
        update={"registry": nobody.registry}
    )


def test_the_words_hash_knows_the_content_of_a_words_file(own: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    hashes = set()
    for line in (",1,1,Bright,", ",1,1,Vivid,"):
        path.write_text(f"prompt,first_update,last_update,positive,negative\n{line}\n")
        words = own.preference.model_copy(update={"words_file": str(path)})
        hashes.add(words_hash(own.model_copy(update={"preference": words})))
    assert len({*hashes, words_hash(own)}) == 3


def test_nothing_new_is_a_good_end_without_a_run(
    own: RunConfig, champion: Outcome, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(place.runs.glob("*")), set(place.embeddings.glob("*"))
    changes = (*SHORT, f"prompts.train={own.prompts.train}", "registry.model_name=new-data")
    settings = [argument for change in changes for argument in ("--set", change)]
    assert call("run", "--if-new-data", "--config", str(CONFIG), *settings) == 0
    assert "nothing new" in capsys.readouterr().out
    assert (set(place.runs.glob("*")), set(place.embeddings.glob("*"))) == before
    assert call("run", "--if-new-data", "--until", "train") == 42
