"""The champion by hand, in a real MLflow store: forward, back, and what a crash leaves."""

import getpass
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from srpo.artifacts import FileEntry
from srpo.errors import ConfigError, UnreachableError
from srpo.lease import lease
from srpo.registry import (
    GateResult,
    Move,
    champion_moves,
    delete,
    promote,
    rollback,
    surplus,
    that_happened,
    versions,
)
from srpo.registry.champion import Standing
from srpo.registry.history import LONGEST_REASON, settle
from srpo.registry.lookup import open_model
from srpo.registry.manifest import MANIFEST
from srpo.tracking import connect
from tests.registry.versions import champion, fill, weightless


def moves_of(store: str, name: str) -> list[Move]:
    """The moves that happened."""
    return that_happened(*champion_moves(store)[name])


def test_a_second_rollback_goes_one_further_back(store: str, name: str) -> None:
    client = fill(store, name, 3)
    for version in "123":
        promote(store, f"{name}/{version}", f"try {version}")
    assert rollback(store, name, "3 is worse").after == "2"
    assert rollback(store, name, "so is 2").after == "1"
    assert champion(client, name) == "1"
    with pytest.raises(ConfigError, match="no earlier champion"):
        rollback(store, name, "and 1?")
    promote(store, f"{name}/3", "after all")
    assert rollback(store, name, "no").after == "1"


def test_any_version_can_be_made_champion_again(store: str, name: str) -> None:
    client = fill(store, name, 4)
    promote(store, f"{name}/4", "first")
    promote(store, f"models:/{name}/1", "an old one")
    assert champion(client, name) == "1"
    with pytest.raises(ConfigError, match="version 1 of .* is the champion already"):
        promote(store, f"{name}@champion", "again")


def test_a_version_whose_weights_are_gone_is_not_promoted(store: str, name: str, tmp_path: Path) -> None:
    client = fill(store, name, 1)
    file = FileEntry(path="model.safetensors", size=3, sha256=hashlib.sha256(b"abc").hexdigest())
    (tmp_path / MANIFEST).write_text(weightless([file], str(tmp_path)).model_dump_json())
    client.create_model_version(name, str(tmp_path))
    for content in (None, b"abd"):
        if content:
            (tmp_path / file.path).write_bytes(content)
        with pytest.raises(ConfigError, match="have changed or are not on this machine, and a version without them"):
            promote(store, f"{name}/2", "sharper")
    client.create_model_version(name, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=rf"the manifest of models:/{name}/3 cannot be read"):
        promote(store, f"{name}/3", "sharper")
    assert moves_of(store, name) == []
    (tmp_path / file.path).write_bytes(b"abc")
    assert promote(store, f"{name}/2", "sharper").after == "2"


def test_a_champion_whose_weights_are_gone_is_not_gone_back_to(store: str, name: str, tmp_path: Path) -> None:
    client = fill(store, name, 1)
    file = FileEntry(path="model.safetensors", size=3, sha256=hashlib.sha256(b"abc").hexdigest())
    (tmp_path / MANIFEST).write_text(weightless([file], str(tmp_path)).model_dump_json())
    client.create_model_version(name, str(tmp_path))
    (tmp_path / file.path).write_bytes(b"abc")
    promote(store, f"{name}/2", "sharper")
    promote(store, f"{name}/1", "softer")
    (tmp_path / file.path).unlink()
    with pytest.raises(ConfigError, match="have changed or are not on this machine"):
        rollback(store, name, "too soft")
    assert champion(client, name) == "1" and len(moves_of(store, name)) == 2
    (tmp_path / file.path).write_bytes(b"abc")
    assert rollback(store, name, "too soft").after == "2"


def test_the_history_says_who_when_from_where_and_why(store: str, name: str) -> None:
    fill(store, name, 2)
    promote(store, f"{name}/1", "ein Grund: schöner")
    promote(store, f"{name}/2", "sharper")
    first, second = moves_of(store, name)
    assert (first.number, first.before, first.after, first.reason) == (1, None, "1", "ein Grund: schöner")
    assert (second.number, second.before, second.after, second.kind) == (2, "1", "2", "promote")
    assert (second.user, second.host, second.verdict) == (getpass.getuser(), socket.gethostname(), "keep")
    assert first.time <= second.time and first.time.utcoffset() is not None


def test_a_crash_between_entry_and_alias_is_told_apart_and_needs_no_mending(
    store: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fill(store, name, 2)
    promote(store, f"{name}/1", "first")

    def crash(*_: object) -> None:
        raise MlflowException("the server went away")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_registered_model_alias", crash)
        with pytest.raises(MlflowException):
            promote(store, f"{name}/2", "cut short")
    assert champion(client, name) == "1"
    written, _ = champion_moves(store)[name]
    assert [move.reason for move in written] == ["first", "cut short"]
    settle(client, *champion_moves(store)[name])
    assert [move.reason for move in moves_of(store, name)] == ["first"]
    promote(store, f"{name}/2", "once more")
    assert [(move.number, move.reason) for move in moves_of(store, name)] == [(1, "first"), (3, "once more")]
    assert rollback(store, name, "back").after == "1"


def test_a_champion_taken_back_in_mlflows_page_was_champion(store: str, name: str) -> None:
    client = fill(store, name, 2)
    promote(store, f"{name}/1", "first")
    promote(store, f"{name}/2", "sharper")
    client.set_registered_model_alias(name, "champion", "1")
    assert [move.after for move in moves_of(store, name)] == ["1", "2"]
    assert Standing(client, name).champions == ["1", "2"]
    assert Standing(client, name).previous is None, "a rollback does not bring it back"


def test_a_crash_between_alias_and_note_leaves_a_move_that_happened(
    store: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fill(store, name, 2)
    promote(store, f"{name}/1", "first")
    set_tag = MlflowClient.set_registered_model_tag

    def crash(client: MlflowClient, name: str, key: str, value: str) -> None:
        if ".made." in key:
            raise MlflowException("the server went away")
        set_tag(client, name, key, value)

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_registered_model_tag", crash)
        with pytest.raises(MlflowException):
            promote(store, f"{name}/2", "not noted")
    assert champion(client, name) == "2"
    assert [move.made for move in moves_of(store, name)] == [True, False]
    settle(client, *champion_moves(store)[name])
    assert [move.made for move in moves_of(store, name)] == [True, True]
    client.set_registered_model_alias(name, "champion", "1")
    settle(client, *champion_moves(store)[name])
    assert [move.after for move in moves_of(store, name)] == ["1", "2"]


class Lost:
    """A lease that another has taken over."""

    def confirm(self) -> None:
        raise UnreachableError("taken over")


@contextmanager
def lost(*_: object) -> Iterator[Lost]:
    yield Lost()


Act = Callable[[str, str], object]
ACTS = [
    pytest.param(lambda store, name: promote(store, f"{name}/2", "better"), id="promote"),
    pytest.param(lambda store, name: rollback(store, name, "worse"), id="rollback"),
    pytest.param(lambda store, name: delete(store, f"{name}/2"), id="delete"),
]


def state(store: str, name: str) -> tuple[object, list[str]]:
    return champion_moves(store)[name], [entry.version for entry in versions(store) if entry.name == name]


@pytest.fixture
def three(store: str, name: str) -> None:
    """Version 3 is champion, 1 was it before."""
    fill(store, name, 3)
    promote(store, f"{name}/1", "first")
    promote(store, f"{name}/3", "next")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("act", ACTS)
def test_what_another_holds_is_waited_for_and_left_as_it_is(
    store: str, name: str, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    before = state(store, name)
    for module in ("champion", "retention"):
        monkeypatch.setattr(f"srpo.registry.{module}.lease", partial(lease, wait=0.2))
    held = pytest.raises(UnreachableError, match="another process has held")
    with lease(store, None, name), ThreadPoolExecutor() as another, held:
        another.submit(act, store, name).result()
    assert state(store, name) == before


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("act", ACTS)
def test_who_has_lost_the_lease_writes_nothing(
    store: str, name: str, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    before = state(store, name)
    for module in ("champion", "retention"):
        monkeypatch.setattr(f"srpo.registry.{module}.lease", lost)
    with pytest.raises(UnreachableError, match="taken over"):
        act(store, name)
    assert state(store, name) == before


def test_a_version_that_broke_very_many_limits_can_be_promoted(store: str, name: str) -> None:
    """Its move says as much of them as a database keeps of a tag."""
    client = fill(store, name, 1)
    broken = GateResult(metric="m", against="base", limit="min_change", threshold=0, value=-1, held=False)
    client.set_model_version_tag(name, "1", "gate", json.dumps([broken.model_dump()] * 100))
    gate = promote(store, f"{name}/1", "all the same").gate
    assert gate.startswith("0 of 100 held; m against base: min_change 0, short by 1;")
    assert len(gate) == LONGEST_REASON
    assert moves_of(store, name)[0].gate == gate


def test_a_rollback_passes_over_what_was_deleted(store: str, name: str) -> None:
    fill(store, name, 3)
    for version in "123":
        promote(store, f"{name}/{version}", "next")
    delete(store, f"{name}/2")
    assert rollback(store, name, "back").after == "1"


def test_a_version_with_an_alias_stays(store: str, name: str) -> None:
    client = fill(store, name, 2)
    promote(store, f"{name}/1", "first")
    client.set_registered_model_alias(name, "mine", "2")
    with pytest.raises(ConfigError, match="is champion and stays; make another version champion first"):
        delete(store, f"{name}/1")
    with pytest.raises(ConfigError, match="is mine and stays"):
        delete(store, f"{name}/2")
    assert len([entry for entry in versions(store) if entry.name == name]) == 2


def test_surplus_is_what_is_old_has_no_alias_and_is_not_what_a_rollback_leads_to(store: str, name: str) -> None:
    client = fill(store, name, 7)
    client.create_model_version(name, "runs:/none/of-somebody-else")
    promote(store, f"{name}/1", "was champion once")
    promote(store, f"{name}/2", "a rollback leads here")
    promote(store, f"{name}/3", "champion")
    client.set_registered_model_alias(name, "mine", "5")
    assert [entry.version for entry in surplus(store, 2) if entry.name == name] == ["6", "4", "1"]
    assert [entry.version for entry in surplus(store, 5) if entry.name == name] == ["1"]


@pytest.mark.parametrize("reference", ["nobody", "nobody/1", "nobody@champion"])
def test_wrong_names_say_what_there_is(store: str, name: str, reference: str) -> None:
    fill(store, name, 1)
    promote(store, f"{name}/1", "first")
    with pytest.raises(ConfigError, match=name):
        promote(store, reference, "why")
    with pytest.raises(ConfigError, match=name):
        rollback(store, "nobody", "why")
    with pytest.raises(ConfigError, match=name):
        delete(store, reference)


def test_all_writers_to_a_model_name_the_same_lease(store: str, name: str) -> None:
    client = connect(store)
    open_model(client, store, name, "/shared/leases")
    open_model(client, store, name, "file:///shared/leases")
    with pytest.raises(ConfigError, match="moves under the lease /shared/leases, this run says null"):
        open_model(client, store, name, None)
