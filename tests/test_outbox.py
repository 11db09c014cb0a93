"""Entries reach MLflow in order and once, whatever happens to the server or to the process that wrote them."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.runs import RunRecord
from srpo import outbox
from srpo.config import RunConfig
from srpo.errors import EXIT_RETRY
from srpo.outbox import Outbox, unsent
from srpo.tracking import TrackedRun, Tracker, open_run
from tests.conftest import CONFIG
from tests.durable.faulty_proxy import FaultyProxy
from tests.infra.loopback import mlflow_server


class Server:
    """Takes entries while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.taken: list[int] = []
        self.refused = threading.Event()
        """Whether it was ever asked while it was not."""

    def take(self, entry: dict[str, Any]) -> None:
        if not self.up:
            self.refused.set()
            raise ConnectionError
        self.taken.append(entry["step"])


def put(box: Outbox, steps: range) -> None:
    for step in steps:
        box.put({"kind": "metrics", "metrics": {"loss": 1 / step}, "step": step})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.01)


def test_what_a_server_misses_is_sent_in_order_when_it_is_back(tmp_path: Path) -> None:
    server = Server()
    box = Outbox(tmp_path, server.take)
    put(box, range(1, 4))
    server.up = False
    put(box, range(4, 8))
    assert server.refused.wait(10)
    server.up = True
    put(box, range(8, 10))
    assert box.close(10) == 0
    assert server.taken == list(range(1, 10))


def test_the_pause_doubles_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 1.0)
    server, pauses = Server(), list[float]()

    def wait(_: Outbox, seconds: float) -> None:
        pauses.append(seconds)
        server.up = len(pauses) == 8

    server.up = False
    monkeypatch.setattr(Outbox, "_wait", wait)
    taken = threading.Event()
    box = Outbox(tmp_path, lambda entry: server.take(entry) or taken.set())
    put(box, range(1, 2))
    assert taken.wait(10) and box.close(10) == 0
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_an_entry_says_when_it_was_made_in_milliseconds(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    box = Outbox(tmp_path, sent.append)
    put(box, range(1, 2))
    assert box.close(10) == 0
    assert abs(sent[0]["time"] / 1000 - time.time()) < 60


def test_other_numbers_of_the_same_step_are_another_entry(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    box = Outbox(tmp_path, sent.append)
    for metrics in ({"a": 1}, {"b": 1}, {"a": 2}):
        box.put({"kind": "metrics", "metrics": metrics, "step": 1})
    assert box.close(10) == 0
    assert [entry["metrics"] for entry in sent] == [{"a": 1}, {"b": 1}]


def test_what_is_under_way_when_it_closes_does_not_move_another_s_mark_back(tmp_path: Path) -> None:
    """The step's own entries hang; the training, which goes on in the same folder, has sent them and more."""
    answered, mark = threading.Event(), tmp_path / "mlflow.sent"
    box = Outbox(tmp_path, lambda entry: answered.wait(10))
    put(box, range(1, 2))
    assert box.close(0) == 1
    mark.write_text("1000")
    answered.set()
    box.thread.join(10)
    assert mark.read_text() == "1000"


def test_another_process_sends_what_is_left_and_repeats_nothing(tmp_path: Path) -> None:
    server = Server()
    first = Outbox(tmp_path, server.take)
    put(first, range(1, 4))
    assert first.close(10) == 0
    server.up = False
    second = Outbox(tmp_path, server.take)
    put(second, range(2, 6))  # a resumed training repeats updates
    assert second.close(0.05) == 2
    assert unsent(tmp_path) > 0
    server.up = True
    assert Outbox(tmp_path, server.take).close(10) == 0
    assert server.taken == [1, 2, 3, 4, 5]
    assert unsent(tmp_path) == 0


def test_a_tag_takes_its_last_value_and_a_number_its_first(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    box = Outbox(tmp_path, sent.append)
    for reason in ("damaged", "", "damaged"):
        box.put({"kind": "tags", "tags": {"stopped": reason}})
        box.put({"kind": "metrics", "metrics": {"loss": len(reason)}, "step": 1})
    assert box.close(10) == 0
    assert [entry["tags"]["stopped"] for entry in sent if "tags" in entry] == ["damaged", "", "damaged"]
    assert [entry["metrics"]["loss"] for entry in sent if "metrics" in entry] == [7]


def test_a_last_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    server = Server()
    first = Outbox(tmp_path, server.take)
    put(first, range(1, 3))
    assert first.close(10) == 0
    with (tmp_path / outbox.FILE).open("a") as file:
        file.write('{"kind": "metr')
    second = Outbox(tmp_path, server.take)
    put(second, range(3, 4))
    assert second.close(10) == 0
    assert server.taken == [1, 2, 3]


def test_a_mark_beyond_the_log_is_taken_back(tmp_path: Path) -> None:
    """A machine stop may take the end of a log, whose mark is flushed to disk; more is written, and then resumed."""
    server = Server()
    (tmp_path / outbox.FILE).touch()
    (tmp_path / outbox.MARK).write_text("100")
    server.up = False
    first = Outbox(tmp_path, server.take)
    put(first, range(1, 4))
    assert first.close(0.05) == 3
    server.up = True
    assert Outbox(tmp_path, server.take).close(10) == 0
    assert server.taken == [1, 2, 3]


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """In front of a real MLflow server."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "server").mkdir()
    with mlflow_server(["mlflow", "server", "--workers=1"], {}, tmp_path / "server") as url:
        proxy = FaultyProxy(url)
        yield proxy
        proxy.close()


@pytest.mark.slow
def test_mlflow_has_everything_once_after_it_was_away(tmp_path: Path, proxy: FaultyProxy) -> None:
    tracked = open_run(proxy.url, None, "first", RunConfig(name="world"))
    folder = tmp_path / "train"
    (folder / "samples").mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(folder / "samples" / "strip.png")
    tracker = Tracker(TrackedRun(uri=proxy.url, run_id=tracked.run_id), folder)
    for step in range(1, 6):
        proxy.fault = "reset" if step >= 3 else "none"
        tracker.log_metrics({"train/loss": 1 / step}, step)
    tracker.log_image(folder / "samples" / "strip.png", "samples", 5)
    tracker.set_tags({"stopped": "early"})
    assert tracker.close(0.5) > 0
    proxy.fault = "none"
    assert Tracker(tracked, folder).close(60) == 0
    (folder / "mlflow.sent").write_text("0")  # as if no answer had come back
    assert Tracker(tracked, folder).close(60) == 0
    client = MlflowClient(proxy.url)
    history = client.get_metric_history(tracked.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(step, 1 / step) for step in range(1, 6)]
    assert client.get_run(tracked.run_id).data.tags["stopped"] == "early"
    assert len([file for file in client.list_artifacts(tracked.run_id, "images") if "png" in file.path]) == 1


def sync(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONFIG.parent.parent / "run_pipeline.py"), "sync", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_says_what_waits_and_asks_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens at the run's address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = tmp_path / ".srpo" / "runs" / "one"
    record = RunRecord(
        name="one",
        config=RunConfig(),
        created=datetime.now(UTC),
        folder=str(folder),
        tracked=TrackedRun(uri="http://127.0.0.1:9", run_id="0" * 32),
        steps=("train",),
        state="failed",
    ).save()
    server = Server()
    server.up = False
    box = Outbox(record.path / "train", server.take)
    put(box, range(1, 3))
    assert box.close(0.05) == 2
    done = sync(tmp_path, "--seconds", "0.5")
    assert done.returncode == EXIT_RETRY
    assert "MLflow has not taken the last 2 entries of one" in done.stderr
    server.up = True
    assert Outbox(record.path / "train", server.take).close(10) == 0
    assert "nothing is waiting" in sync(tmp_path, "one").stdout
    record.model_copy(update={"name": "far", "folder": str(folder.with_name("far")), "stack": "cluster"}).save()
    assert "not looked at, because pods have written them: far" in sync(tmp_path).stdout
