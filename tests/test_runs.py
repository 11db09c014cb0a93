"""Records of runs: which are believed to be running, and what one damaged record does to the others."""

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from zenml.client import Client
from zenml.enums import ExecutionStatus, StoreType
from zenml.zen_stores.sql_zen_store import SqlZenStore

from pipelines import elsewhere, execute
from pipelines.cluster import remote
from pipelines.collect import unreferenced
from pipelines.earlier import earlier_outputs, same_origin
from pipelines.execute import refreshed, submit
from pipelines.outcome import _seconds
from pipelines.place import Place
from pipelines.runs import FILE, RunRecord, held, load_run, load_runs, unreadable_runs
from pipelines.stacks import NAME, activate_local_stack
from srpo.alone import alone_in
from srpo.config import EvaluationConfig, PromptsConfig, RunConfig, ScoreConfig
from srpo.control_words import control_words
from srpo.errors import BusyError, ConfigError, OutOfSightError
from srpo.tracking import TrackedRun


def record(place: Place, name: str) -> RunRecord:
    return RunRecord(
        name=name,
        config=RunConfig(),
        created="2026-01-01T00:00:00Z",
        folder=str(place.runs / name),
        tracked=TrackedRun(uri="", run_id=""),
        steps=("train",),
    ).save()


def test_running_is_believed_only_while_somebody_is_at_it(tmp_path: Path) -> None:
    mine = record(Place(tmp_path), "mine")
    assert mine.actual_state == "interrupted"
    with held(Place(tmp_path), mine):
        assert mine.actual_state == "running"
    with alone_in(mine.training):
        assert mine.actual_state == "running"
    assert mine.actual_state == "interrupted"


def test_of_two_that_go_on_with_a_run_the_second_leaves_it_alone(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it looked at it before the first one began."""
    monkeypatch.setattr("srpo.alone.ENDING", 0.1)
    looked_at = record(Place(tmp_path), "mine")
    with held(Place(tmp_path), looked_at):
        begun = looked_at.next_attempt()
        with pytest.raises(BusyError, match=f"process {os.getpid()} on .* is at work in"):
            execute.execute(Place(tmp_path), looked_at, 0.0)
    with pytest.raises(BusyError, match="another process has just gone on with mine"):
        execute.execute(Place(tmp_path), looked_at, 0.0)
    assert load_runs(Place(tmp_path)) == [begun]


def test_a_record_that_names_a_process_can_be_read(tmp_path: Path) -> None:
    mine = record(Place(tmp_path), "mine")
    before = json.loads((mine.path / FILE).read_text()) | {"process": 1, "process_started": 0.5}
    (mine.path / FILE).write_text(json.dumps(before))
    assert load_runs(Place(tmp_path)) == [mine]


def test_a_copy_of_a_working_folder_leaves_the_first_one_alone(place: Place, tmp_path: Path) -> None:
    """Its records and its stack name the files of the first."""
    first, copy = Place(tmp_path / "first"), Place(tmp_path / "copy")
    record(first, "mine")
    shutil.copytree(first.root, copy.root)
    with pytest.raises(ConfigError, match=f"run mine was made in {first.runs / 'mine'} and refers to what is there"):
        load_run(copy, "mine")
    assert unreadable_runs(copy) == ["mine"] and unreadable_runs(first) == []
    with pytest.raises(ConfigError, match=r"mine in .* was made elsewhere"):
        unreferenced(copy, [])
    activate_local_stack(place)
    with pytest.raises(ConfigError, match=f"{copy.root} is a copy, whose runs would be written into {place.root}"):
        activate_local_stack(copy)
    (tmp_path / "link").symlink_to(first.root)
    assert load_run(Place(tmp_path / "link"), "mine")


def test_folders_that_share_a_zenml_server_have_stacks_of_their_own(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the server is the store of one of them."""
    activate_local_stack(place)
    with monkeypatch.context() as shared:
        shared.setattr(SqlZenStore, "TYPE", StoreType.REST)
        for each in (Place(tmp_path / ".srpo"), place):
            assert activate_local_stack(each) == each.mlflow_uri
    activate_local_stack(place)


def test_a_zenml_project_above_the_folder_stays_as_it_was(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    Client.initialize(tmp_path)
    Client(root=tmp_path).activate_stack("default")
    (settings,) = tmp_path.glob(".zen/config.yaml")
    before = settings.read_bytes()
    (below := tmp_path / "below").mkdir()
    with monkeypatch.context() as inside:
        inside.chdir(below)
        client.activate_root()  # as ZenML does it at its start
        activate_local_stack(place)
    client.activate_root()
    assert settings.read_bytes() == before
    assert client.active_stack_model.name == NAME


def test_results_of_another_words_file_are_not_taken(tmp_path: Path) -> None:
    """The settings name the file, which does not tell that its content has changed."""
    file = tmp_path / "words.csv"
    file.write_text("prompt,positive\na castle,Moonlit\n")
    config = RunConfig.model_validate({"preference": {"words_file": str(file)}})
    words = control_words(config.preference).digest
    made = record(Place(tmp_path), "made").changed(config=config, words=words)
    assert same_origin(made, config, ["weights", "prompts", "trained"])
    file.write_text("prompt,positive\na castle,Sunlit\n")
    assert not same_origin(made, config, ["weights", "prompts", "trained"])
    assert same_origin(made, config, ["weights", "prompts"]), "which no word has made"


def test_results_of_another_stack_are_not_taken(tmp_path: Path) -> None:
    """They lie where its pods can reach them."""
    place, given = Place(tmp_path), {"weights": "1", "prompts": "2"}
    far = record(place, "made").changed(stack="far", given=given)
    assert earlier_outputs(place, far.config, "train", "far") == given
    for other in (None, "further"):
        with pytest.raises(ConfigError, match="--from train needs"):
            earlier_outputs(place, far.config, "train", other)


def test_over_nodes_a_training_takes_as_long_as_its_pods() -> None:
    start = datetime(2026, 1, 1)
    nodes = SimpleNamespace(start_time=start, end_time=start + timedelta(hours=2))
    taken = SimpleNamespace(status=ExecutionStatus.COMPLETED, run_metadata={"seconds": 3.0})
    assert _seconds({"train_nodes": nodes, "train": taken}, "train") == 7200.0
    assert _seconds({"train": taken}, "train") == 3.0


def test_another_machine_knows_what_a_run_goes_on_from_and_its_words(tmp_path: Path) -> None:
    here, there = Place(tmp_path / "here"), Place(tmp_path / "there")
    given = {"weights": "1", "prompts": "2"}
    mine = record(here, "two").changed(stack="far", continues="one", words="abc", given=given)
    request = execute._request(here, mine, given).model_dump(mode="json")
    parameters = {"config": mine.config.model_dump(mode="json"), "request": request}
    first = SimpleNamespace(config=SimpleNamespace(parameters=parameters), created=datetime(2026, 1, 1))
    found = elsewhere._record(there, "two", "far", ["two"], first)
    assert found.model_dump(exclude={"attempts", "folder"}) == mine.model_dump(exclude={"attempts", "folder"})
    assert found.path == there.runs / "two"


def test_one_unreadable_record_hides_no_other(tmp_path: Path) -> None:
    place = Place(tmp_path)
    record(place, "good")
    (place.runs / "old").mkdir()
    (place.runs / "old" / FILE).write_text('{"schema_version": 0}')
    assert [run.name for run in load_runs(place)] == ["good"]
    assert unreadable_runs(place) == ["old"]


def test_a_recorded_run_names_all_that_it_reads(tmp_path: Path) -> None:
    place = Place(tmp_path)
    score = ScoreConfig(family="aesthetic", source="head.pth", companion="hf://google/siglip")
    scored = RunConfig(evaluation=EvaluationConfig(scores={"beauty": score}))
    record(place, "plain")
    record(place, "scored").model_copy(update={"config": scored}).save()
    remote = scored.model_copy(update={"prompts": PromptsConfig(train="hf://us/prompts/train.txt")})
    record(place, "remote").model_copy(update={"config": remote}).save()
    assert not any(text.startswith("hf://") for text in place.recorded_inputs("plain"))
    assert {"builtin:shapes", "head.pth", "hf://google/siglip"} <= set(place.recorded_inputs("scored"))
    assert set(remote.inputs) <= set(place.recorded_inputs("remote"))
    assert place.recorded_inputs("none") == ()


def test_a_run_that_nobody_can_be_asked_of_is_not_called_failed(tmp_path: Path) -> None:
    mine = record(Place(tmp_path), "mine")
    with pytest.raises(OutOfSightError), execute._state_kept(mine):
        raise OutOfSightError("no answer")
    assert load_runs(Place(tmp_path))[0].state == "running"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_record_that_cannot_be_written_hides_no_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    told: list[str] = []
    mine = record(Place(tmp_path), "mine")
    monkeypatch.setattr("pipelines.runs.write_atomic", full)
    monkeypatch.setattr(execute, "on_cluster", lambda: False)
    monkeypatch.setattr(execute, "_tell", lambda _, status: told.append(status))
    with pytest.raises(kind), execute._state_kept(mine):
        raise kind
    assert told == ["FAILED" if kind is RuntimeError else "KILLED"]


def test_a_submission_that_broke_off_can_be_resumed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZenML knows nothing of it, or the record has no attempt yet; the process may still be at it."""
    monkeypatch.setattr(execute, "activate", lambda *_: None)  # a stack of a cluster
    activate_local_stack(place)
    at_it = record(Place(tmp_path), "mine").changed(stack="far")
    for one in (at_it, at_it.next_attempt()):
        with alone_in(one.path):
            assert refreshed(place, one).state == "running"
        assert refreshed(place, one).state == "interrupted"


@pytest.mark.parametrize(
    ("before", "status", "after"),
    [
        ("failed", ExecutionStatus.RUNNING, "running"),
        ("interrupted", ExecutionStatus.PROVISIONING, "running"),
        ("interrupted", ExecutionStatus.STOPPING, "interrupted"),
        ("failed", ExecutionStatus.INITIALIZING, "failed"),
        ("interrupted", ExecutionStatus.FAILED, "interrupted"),
        ("running", ExecutionStatus.FAILED, "failed"),
        ("running", ExecutionStatus.STOPPED, "interrupted"),
    ],
)
def test_of_a_run_that_is_not_done_the_cluster_has_the_last_word(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, status: ExecutionStatus, after: str
) -> None:
    """A server that failed for a moment must not end it for good, beside which a second one would be begun."""
    monkeypatch.setattr(execute, "activate", lambda *_: None)
    monkeypatch.setattr(execute, "on_cluster", lambda: True)
    monkeypatch.setattr(execute, "state_of", lambda _: status)
    monkeypatch.setattr(execute, "_tell", lambda *_: None)
    lost = record(Place(tmp_path), "mine").changed(stack="far", state=before, attempts=("mine",), error="500")
    assert refreshed(place, lost).state == load_runs(Place(tmp_path))[0].state == after


def test_mlflow_away_before_the_submission_leaves_no_running_run(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(execute, "set_status", away)
    activate_local_stack(place)
    monkeypatch.setattr(execute, "activate", lambda *_: None)
    with pytest.raises(ConnectionError):
        submit(Place(tmp_path), record(Place(tmp_path), "mine"))
    assert load_runs(Place(tmp_path))[0].state == "failed"


def test_of_a_run_that_ended_before_it_began_the_cluster_knows(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod never started, so that ZenML's server takes it for under way; a schedule would wait for it for ever."""
    monkeypatch.setattr(elsewhere, "adopt", lambda *_: None)
    monkeypatch.setattr(elsewhere, "on_cluster", lambda: True)
    first = record(Place(tmp_path), "first").changed(stack="far", attempts=("first",))
    under_way = SimpleNamespace(name="first", status=ExecutionStatus.PROVISIONING)
    client = SimpleNamespace(get_pipeline_run=lambda _: under_way)
    monkeypatch.setattr(remote, "Client", lambda: client)
    model = first.config.registry.model_name

    def ask(_: object) -> object:
        raise NotImplementedError

    monkeypatch.setattr(remote, "refresh_run_status", ask)
    found = elsewhere.at_work(Place(tmp_path), "far", model)
    assert found and found.name == "first", "the server is believed where the cluster cannot be asked"
    assert elsewhere.at_work(Place(tmp_path), "far", "another model") is None
    ended = SimpleNamespace(name="first", status=ExecutionStatus.FAILED)
    monkeypatch.setattr(remote, "refresh_run_status", lambda _: ended)
    assert elsewhere.at_work(Place(tmp_path), "far", model) is None


def test_what_a_machine_runs_itself_is_not_taken_over(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else could watch it, and would call it finished while it trains."""
    activate_local_stack(place)
    monkeypatch.setattr(elsewhere, "state_of", lambda _: ExecutionStatus.RUNNING)
    monkeypatch.setattr(elsewhere, "depaginate", lambda *_, **__: pytest.fail("the runs of others were asked for"))
    mine = record(Place(tmp_path), "mine").changed(stack=NAME, attempts=("mine",))
    assert elsewhere.at_work(Place(tmp_path), NAME, mine.config.registry.model_name) is None
