"""Notices over a real HTTP server on loopback: what arrives, what does not hold a run up, what no log shows."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines import notify
from pipelines.commands.runs import _execute
from pipelines.notify import Notice, ended, failure_told, page_of, tell
from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.runs import load_run
from pipelines.stacks import NAME
from srpo.config import NotifyConfig, RunConfig
from srpo.errors import BusyError, ConfigError, DiskFullError, GpuMemoryError, OutOfSightError, RemoteRunError
from srpo.report.schema import Report
from srpo.tracking import TrackedRun
from tests.conftest import CONFIG, SHORT
from tests.infra.loopback import NOBODY
from tests.runs import call

SECRET = "very-secret"
NOTICE = Notice(event="kept", text="the champion stays", model="srpo")


class Hook(ThreadingHTTPServer):
    """Keeps what it is sent; answers with the statuses of a list, the last of them from then on, after a while."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.bodies: list[dict[str, Any]] = []
        self.statuses, self.delay = [200], 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{SECRET}"


class Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        time.sleep(self.server.delay)
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    from pipelines.stacks import activate_local_stack

    activate_local_stack(place)
    server = Hook()
    monkeypatch.setenv("HOOK", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def told() -> NotifyConfig:
    return NotifyConfig(webhook_env="HOOK")


def test_a_finished_run_tells_its_verdict_with_the_report_s_numbers(
    hook: Hook, told: NotifyConfig, finished: Outcome
) -> None:
    notice = ended(finished)
    assert notice
    tell(told, notice)
    (body,) = hook.bodies
    assert finished.registered
    assert finished.evaluated
    report = Report.model_validate_json(Path(finished.evaluated.report_json).read_text())
    expected = report.metrics[report.wanted]
    assert body["numbers"]["base"] == {
        "metric": report.wanted,
        "before": expected.reference,
        "after": expected.candidate,
        "lower": expected.lower,
        "upper": expected.upper,
    }
    assert body["version"] == f"models:/{finished.registered.name}/{finished.registered.version}"
    assert body["event"] == {"promote": "champion", "keep": "kept"}.get(report.verdict or "", report.verdict)
    assert body["verdict"] == report.verdict
    assert body["run"] == finished.record.name
    assert Path(urlsplit(body["report"]).path).read_text().startswith("<!doctype html>")
    assert finished.evaluated.reason in body["text"]


def test_on_a_server_the_link_leads_there_without_a_password() -> None:
    """The place of the run's page, whoever the tracking URI logs in as."""
    uri = "https://user:secret@mlflow.example/base/"
    assert notify.run_page(uri, "7", "abc") == "https://mlflow.example/base/#/experiments/7/runs/abc/artifacts"


def test_a_server_that_is_away_takes_the_link_not_the_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert page_of(TrackedRun(uri=NOBODY, run_id="1")) is None


def test_only_events_that_are_asked_for_are_told(hook: Hook, told: NotifyConfig) -> None:
    tell(told.model_copy(update={"events": ("champion",)}), NOTICE)
    assert hook.bodies == []
    tell(told, NOTICE)
    assert [body["event"] for body in hook.bodies] == ["kept"]


@pytest.mark.parametrize(("statuses", "warned"), [([503, 200], False), ([503], True), ([302], True)])
def test_one_more_attempt_and_then_a_line_without_the_url(
    hook: Hook, told: NotifyConfig, statuses: list[int], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hook.statuses = list(statuses)
    with caplog.at_level(logging.INFO):
        tell(told, NOTICE)
    assert len(hook.bodies) == 2
    assert (f"did not reach the webhook: it answered with status {statuses[-1]}" in caplog.text) is warned
    assert SECRET not in caplog.text


def test_a_webhook_that_does_not_answer_holds_nothing_up(
    hook: Hook, told: NotifyConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 0.3)
    hook.delay = 30
    started = time.monotonic()
    tell(told, NOTICE)
    assert time.monotonic() - started < 5
    hook.shutdown()
    hook.server_close()
    tell(told, NOTICE)
    assert caplog.text.count("did not reach the webhook") == 2
    assert SECRET not in caplog.text


def test_a_stack_s_alerter_is_told_too(
    hook: Hook, told: NotifyConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from zenml.client import Client
    from zenml.enums import StackComponentType

    from pipelines.schedules import active
    from tests.alerter import Listener

    client, name, alerter = Client(), "alerting", StackComponentType.ALERTER
    client.create_flavor("tests.alerter.ListenerFlavor", alerter)
    client.create_stack_component(name, "listener", alerter, {})
    needed = StackComponentType.ORCHESTRATOR, StackComponentType.ARTIFACT_STORE
    parts = {kind: client.active_stack_model.components[kind][0].name for kind in needed}
    client.create_stack(name, {**parts, alerter: name})
    with active(client, name):
        tell(told, NOTICE)
        assert Listener.heard == [NOTICE.text]
        monkeypatch.setattr(Listener, "delivers", False)
        tell(NotifyConfig(), NOTICE)
    assert len(hook.bodies) == 1
    assert "did not reach the alerter: ConnectionError" in caplog.text


def test_zenml_that_is_away_takes_the_alerter_not_the_webhook(
    hook: Hook, told: NotifyConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise ConnectionError("ZenML is away")

    monkeypatch.setattr("zenml.client.Client", away)
    with pytest.raises(OSError, match="^the first cause$"), failure_told(RunConfig(notify=told), "weekly"):
        raise OSError("the first cause")
    assert [body["event"] for body in hook.bodies] == ["failed"]
    assert "did not reach the alerter: ConnectionError" in caplog.text
    tell(told, NOTICE)  # of a good run, which stays one


def test_failures_are_told_and_go_on_their_way(hook: Hook, told: NotifyConfig) -> None:
    config = RunConfig(notify=told)
    for error, said in (
        (ConfigError("the folder is gone"), "weekly failed: ConfigError: the folder is gone"),
        (GpuMemoryError("draw less"), "weekly failed: GpuMemoryError: draw less"),
        (DiskFullError("free some"), "weekly failed: DiskFullError: free some"),
        (RuntimeError(f"password {SECRET}"), "weekly failed: RuntimeError, see its log"),
        (RemoteRunError(f"its pod wrote {SECRET}"), "weekly failed: RemoteRunError, see its log"),
    ):
        with pytest.raises(type(error)), failure_told(config, "weekly"):
            raise error
        assert hook.bodies[-1]["text"] == said
        assert hook.bodies[-1]["event"] == "failed"
    for no_failure in (KeyboardInterrupt(), OutOfSightError("it may go on"), BusyError("another is at it")):
        with pytest.raises(type(no_failure)), failure_told(config, "weekly"):
            raise no_failure
    assert len(hook.bodies) == 5


def test_the_end_of_a_run_is_told_once_however_often_it_is_shown(
    hook: Hook, told: NotifyConfig, finished: Outcome, place: Place
) -> None:
    config = finished.record.config.model_copy(update={"notify": told})
    record = finished.record.changed(config=config, stack=NAME)
    try:
        for _ in range(2):
            _execute(load_run(place, record.name))
        assert len(hook.bodies) == 1
        load_run(place, record.name).changed(told=False)  # as another machine records it, which looks at it
        _execute(load_run(place, record.name))
        assert len(hook.bodies) == 1
    finally:
        finished.record.save()


def test_a_webhook_that_cannot_be_one_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for change in (*SHORT, "notify.webhook_env=HOOK") for word in ("--set", change)]
    monkeypatch.delenv("HOOK", raising=False)
    assert call("plan", "--config", str(CONFIG), *settings) == 42
    assert "the environment variable HOOK is not set" in capsys.readouterr().err
    monkeypatch.setenv("HOOK", f"file:///{SECRET}")
    assert call("plan", "--config", str(CONFIG), *settings) == 42
    shown = capsys.readouterr().err
    assert "HOOK holds no http(s) URL" in shown
    assert SECRET not in shown


def test_the_command_tells_nothing_new_and_what_fails_before_a_run(hook: Hook, finished: Outcome, place: Place) -> None:
    name = finished.record.config.registry.model_name
    changes = (*SHORT, "notify.webhook_env=HOOK", "notify.events=[nothing_new, failed]")
    settings = [word for change in changes for word in ("--set", change)]
    assert call("run", "--if-new-data", "--config", str(CONFIG), *settings) == 0
    assert [body["event"] for body in hook.bodies] == ["nothing_new"]
    assert hook.bodies[0]["text"].startswith(f"{name}: nothing new: ")
    assert call("run", "--if-new-data", "--config", str(CONFIG), *settings, "--set", "prompts.train=/none.txt") == 42
    assert hook.bodies[-1]["event"] == "failed"
    assert "/none.txt" in hook.bodies[-1]["text"]
