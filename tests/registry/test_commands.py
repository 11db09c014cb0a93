"""`promote`, `rollback`, `delete`, `gc` and `status` as people and scripts use them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipelines.commands import models
from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.status import age, show_status
from srpo.registry.history import Move
from tests.registry.versions import champion, fill
from tests.runs import call


@pytest.fixture
def client(place: Place, finished: Outcome) -> Iterator[MlflowClient]:
    """A second model with three versions beside the finished run's."""
    client = fill(place.mlflow_uri, "by-hand", 3)
    for number in "123":
        client.set_model_version_tag("by-hand", number, "licence.model", "[non-commercial]")
    yield client
    client.delete_registered_model("by-hand")


def test_forward_back_and_away(client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("promote", "by-hand/1", "--reason", "first") == 0
    shown = capsys.readouterr().out
    assert shown.index("licence of the model: [non-commercial]") < shown.index("version 1 is champion")
    assert call("promote", "by-hand/2", "--reason", "sharper", "--json") == 0
    move = Move.model_validate_json(capsys.readouterr().out)
    assert (move.before, move.after, move.reason) == ("1", "2", "sharper")
    assert call("rollback", "by-hand", "--reason", "too sharp") == 0
    assert "by-hand: version 1 is champion, in place of 2" in capsys.readouterr().out
    assert champion(client, "by-hand") == "1"
    assert call("delete", "by-hand/3", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"versions": ["by-hand/3"], "folders": [], "bytes": 0}
    assert call("status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert [entry["version"] for entry in status["versions"] if entry["name"] == "by-hand"] == ["2", "1"]
    moves = [move for move in status["moves"] if move["model"] == "by-hand"]
    assert [(move["kind"], move["happened"]) for move in moves] == [
        ("promote", True),
        ("promote", True),
        ("rollback", True),
    ]
    assert call("status") == 0
    shown = capsys.readouterr().out
    assert "by-hand/1" in shown and "too sharp" in shown


def test_a_version_of_a_stacks_registry_goes_alone(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    there = fill(uri, "by-hand", 2)
    monkeypatch.setattr(models, "registry_uri", lambda _, stack: uri if stack == "far" else None)
    there.set_registered_model_alias("by-hand", "champion", "1")
    assert call("delete", "by-hand/1", "--stack", "far", "--yes") == 42
    assert "is champion and stays" in capsys.readouterr().err
    assert call("delete", "by-hand/2", "--stack", "far", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"versions": ["by-hand/2"], "folders": [], "bytes": 0}
    left = [len(store.search_model_versions("name = 'by-hand'")) for store in (there, client)]
    assert left == [1, 3]


def test_versions_are_shown_where_no_run_is_left(
    client: MlflowClient, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_status(Console(), Place(tmp_path), place.mlflow_uri)
    shown = capsys.readouterr().out
    assert "no runs in" in shown and "by-hand/3" in shown


def test_status_shows_gate_and_margins(finished: Outcome, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert finished.registered
    assert call("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)["versions"]
    entry = next(version for version in found if version["version"] == finished.registered.version)
    assert entry["size"] > 4_000_000
    assert entry["gate"] and all(result["held"] == (result["margin"] >= 0) for result in entry["gate"])


def test_gc_asks_and_a_refusal_changes_nothing(
    client: MlflowClient, finished: Outcome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("gc", "--keep", "0", "--dry-run", "--json") == 0
    assert {f"by-hand/{number}" for number in "123"} <= set(json.loads(capsys.readouterr().out)["versions"])
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    assert call("gc", "--keep", "0") != 0
    assert "would go: version by-hand/3" in capsys.readouterr().out
    assert call("gc", "--keep", "0", "--json") != 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "", "JSON alone, once something has been removed"
    assert "would go: version by-hand/3" in printed.err
    assert len(client.search_model_versions("name = 'by-hand'")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "nobody/1", "--reason", "x"], "nobody/1 is no folder and names no registered model"),
        (["promote", "by-hand/1", "--reason", " "], "--reason must have"),
        (["rollback", "--reason", "x"], "name one; registered: by-hand"),
        (["rollback", "nobody", "--reason", "x"], "no registered model is named 'nobody'"),
        (["rollback", "by-hand", "--reason", "x"], "no earlier champion"),
        (["delete", "by-hand/9", "--yes"], "by-hand/9 is no folder"),
        (["delete", "shapes@challenger", "--yes"], "challenger and stays; a newer run takes over the alias"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    client: MlflowClient, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 42
    assert message in capsys.readouterr().err


def test_ages() -> None:
    now = datetime.now(UTC)
    shown = [age(now - timedelta(**passed)) for passed in ({"seconds": 5}, {"minutes": 90}, {"days": 3, "hours": 1})]
    assert shown == ["now", "1 h", "3 d"]
