"""An MLflow server that goes away in the middle of a run: training goes on, and what it logged arrives, in order, once.

The server is a real one on loopback; it is killed, and started again on the same database.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.place import Place
from srpo.artifacts import TrainJob
from srpo.config import RunConfig
from srpo.errors import EXIT_RETRY
from srpo.outbox import unsent
from srpo.record import read_journal
from srpo.tracking import open_run
from tests.conftest import CONFIG, SHORT
from tests.durable.nodes import start, wait_for_update
from tests.infra.loopback import MlflowServer
from tests.jobs import place

COMMAND = [sys.executable, str(CONFIG.parent.parent / "run_pipeline.py")]
STACK = """
import sys
from zenml.client import Client
from zenml.enums import StackComponentType as Kind
client, (_, artifacts, uri) = Client(), sys.argv
tracking = {"tracking_uri": uri, "tracking_token": "token"}
components = {
    Kind.ORCHESTRATOR: ("local", {}), Kind.ARTIFACT_STORE: ("local", {"path": artifacts}),
    Kind.EXPERIMENT_TRACKER: ("mlflow", tracking), Kind.MODEL_REGISTRY: ("mlflow", {}),
}
for kind, (flavor, settings) in components.items():
    client.create_stack_component("srpo-served", flavor, kind, settings)
client.create_stack("srpo-served", dict.fromkeys(components, "srpo-served"))
"""
"""Steps on this machine, numbers on a server."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "server").mkdir()
    server = MlflowServer(["mlflow", "server", "--workers=1"], {}, tmp_path / "server")
    server.start()
    yield server
    server.stop()


def assert_complete(server: MlflowServer, run_id: str, folder: Path) -> None:
    """What the journals say is what MLflow shows: every metric of every update once, in order, and each strip once."""
    client = MlflowClient(server.url)
    for name, prefix in (("metrics.jsonl", "train"), ("heldout.jsonl", "held_out")):
        entries = read_journal(folder / name)
        for metric in entries[-1].keys() - {"update", "violations"}:
            history = client.get_metric_history(run_id, f"{prefix}/{metric}")
            expected = [(entry["update"], pytest.approx(entry[metric])) for entry in entries if metric in entry]
            assert [(each.step, each.value) for each in history] == expected, metric
    strips = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    assert len(strips) == len(read_journal(folder / "heldout.jsonl"))


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_has_every_number_once(
    job: TrainJob, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = open_run(server.url, None, "restarted", RunConfig(name="world"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_RUN_ID", tracked.run_id)
    folder = tmp_path / "train"
    process = start(place(job, folder, num_updates=30, schedule="constant"))
    wait_for_update(process, folder, 3)
    server.kill()
    wait_for_update(process, folder, 6)
    assert unsent(folder) > 0, "training goes on without the server"
    server.start()
    assert process.wait(600) == 0
    assert unsent(folder) == 0
    assert [entry["update"] for entry in read_journal(folder / "metrics.jsonl")] == list(range(1, 31))
    assert_complete(server, tracked.run_id, folder)


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def register_stack(work: Path, uri: str) -> None:
    (work / "stack.py").write_text(STACK)  # ZenML wants a main module that is a file
    place = Place(work / ".srpo")
    command = [sys.executable, "stack.py", str(place.artifacts), uri]
    subprocess.run(command, cwd=work, env=os.environ | place.environment() | place.offline(), check=True)


def train_while_it_goes_away(server: MlflowServer, work: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole run whose server is killed after the first update; its folder, and how it ended."""
    chosen = (*SHORT, "train.num_updates=8", "storage.max_wait_s=1", f"registry.lease={work / 'lease'}")
    options = [part for setting in chosen for part in ("--set", setting)]
    command = [*COMMAND, "run", "--config", str(CONFIG), *options, "--stack", "srpo-served"]
    process = subprocess.Popen(command, cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not any(map(read_journal, work.glob(".srpo/runs/*/train/metrics.jsonl"))):
        time.sleep(0.05)
    server.kill()
    output, errors = process.communicate()
    (folder,) = (work / ".srpo" / "runs").iterdir()
    return folder, subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.mark.slow
def test_a_run_that_lost_its_server_ends_with_all_its_numbers_and_a_version(
    server: MlflowServer, tmp_path: Path
) -> None:
    """Evaluation, which asks for the champion first, stops; `sync` sends the rest, and the run goes on to a version."""
    work = tmp_path / "work"
    work.mkdir()
    register_stack(work, server.url)
    folder, ended = train_while_it_goes_away(server, work)
    assert ended.returncode == EXIT_RETRY, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert "the MLflow server does not answer; nothing is lost" in ended.stderr
    assert json.loads((folder / "run.json").read_text())["state"] == "failed"
    assert (folder / "train" / "result.json").exists() and unsent(folder / "train") > 0
    again = call(work, "sync", "--seconds", "1")
    assert again.returncode == EXIT_RETRY and f"entries of {folder.name}; try again later" in again.stderr
    server.start()
    run_id = json.loads((folder / "run.json").read_text())["tracked"]["run_id"]
    assert f"{folder.name}: MLflow has everything" in call(work, "sync").stdout
    assert_complete(server, run_id, folder / "train")
    resumed = call(work, "run", "--resume", folder.name)
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    assert "version 1" in resumed.stdout
    assert_complete(server, run_id, folder / "train")
    assert [version.run_id for version in MlflowClient(server.url).search_model_versions("name='shapes'")] == [run_id]
    assert "nothing is waiting" in call(work, "sync").stdout
