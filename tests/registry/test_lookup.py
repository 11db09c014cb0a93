"""References to versions, in a real MLflow store that others use as well."""

import pytest

from pipelines.place import Place
from srpo.errors import ConfigError
from srpo.registry import champion_moves, find_version, holder, promote, rollback, surplus, versions
from srpo.tracking import connect
from tests.registry.versions import fill

FIRST_PAGE = 100
"""Models that one search of MLflow's gives unless it is asked for the next ones."""


@pytest.fixture
def crowded(own_place: Place) -> str:
    """A store whose last model, `zebra`, is on the second page."""
    client = connect(own_place.mlflow_uri)
    for number in range(FIRST_PAGE):
        client.create_registered_model(f"other-{number}")
    fill(own_place.mlflow_uri, "zebra", 3)
    return own_place.mlflow_uri


def test_a_model_is_found_however_many_others_there_are(crowded: str) -> None:
    promote(crowded, "zebra/1", "by number")
    assert find_version(crowded, "zebra@champion").version == find_version(crowded, "champion").version == "1"
    assert [entry.reference for entry in versions(crowded)] == ["zebra/3", "zebra/2", "zebra/1"]
    assert [entry.version for entry in surplus(crowded, keep=1)] == ["2"]
    assert champion_moves(crowded)["zebra"][1] == "1"
    assert len(champion_moves(crowded)) == FIRST_PAGE + 1
    champion = holder(crowded, "zebra", "champion")
    assert champion is not None and champion.version == "1"
    assert holder(crowded, "zebra", "challenger") is holder(crowded, "nobody", "champion") is None
    promote(crowded, "zebra/2", "sharper")
    assert rollback(crowded, "zebra", "too sharp").after == "1"


def test_tags_of_other_peoples_models_are_not_read_as_ours(own_place: Place) -> None:
    client = connect(own_place.mlflow_uri)
    client.create_registered_model("theirs", tags={"champion.since": "2024-05-01"})
    client.create_model_version("theirs", "s3://elsewhere/model", tags={"gate": "passed"})
    (version,) = versions(own_place.mlflow_uri)
    assert (version.reference, version.gate, version.ours) == ("theirs/1", (), False)
    assert champion_moves(own_place.mlflow_uri) == {"theirs": ([], None)}


def test_a_name_with_an_apostrophe_is_a_name(own_place: Place) -> None:
    uri, name = own_place.mlflow_uri, "it's"
    with pytest.raises(ConfigError, match="it's/2 is no folder and names no registered model; registered: none yet"):
        find_version(uri, f"{name}/2")
    fill(uri, name, 2)
    promote(uri, f"{name}/2", "sharper")
    assert find_version(uri, f"{name}@champion").reference == "it's/2"
    assert [entry.reference for entry in versions(uri)] == ["it's/2", "it's/1"]


@pytest.mark.parametrize("reference", ["it's/3", "a\"b'/1", "' OR name LIKE '%/1"])
def test_a_reference_with_quotes_to_nothing_is_one_sentence(store: str, reference: str) -> None:
    with pytest.raises(ConfigError, match="names no registered model"):
        promote(store, reference, "why not")
