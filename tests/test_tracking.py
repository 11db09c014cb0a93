"""MLflow tracking against a real SQLite store."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from srpo.config import RunConfig
from srpo.config.base import flatten
from srpo.provenance import code_version
from srpo.tracking import TrackedRun, Tracker, open_run, set_status


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> TrackedRun:
    folder = tmp_path_factory.mktemp("mlflow")
    return open_run(f"sqlite:///{folder}/mlflow.db", (folder / "files").as_uri(), "first", RunConfig(name="world"))


@pytest.fixture
def client(tracked: TrackedRun) -> MlflowClient:
    return MlflowClient(tracked.uri)


def test_a_new_run_carries_every_setting_and_the_code_version(tracked: TrackedRun, client: MlflowClient) -> None:
    run = client.get_run(tracked.run_id)
    assert run.data.params["train.learning_rate"] == "5e-06"
    assert set(run.data.params) == set(flatten(RunConfig().model_dump(mode="json")))
    assert code_version().items() <= run.data.tags.items()
    assert client.get_experiment(run.info.experiment_id).name == "world"


def test_metrics_pictures_and_files_arrive(tracked: TrackedRun, client: MlflowClient, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "strip.png")
    (tmp_path / "report.html").write_text("<p>")
    tracker = Tracker(tracked)
    for step in (1, 2):
        tracker.log_metrics({"train/loss": 1 / step}, step)
    tracker.log_image(tmp_path / "strip.png", "samples", 2)
    tracker.log_artifact(tmp_path / "report.html", "evaluation")
    assert [(m.step, m.value) for m in client.get_metric_history(tracked.run_id, "train/loss")] == [(1, 1.0), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(tracked.run_id, "evaluation")] == ["evaluation/report.html"]
    assert any("samples" in file.path for file in client.list_artifacts(tracked.run_id, "images"))


def test_an_entry_of_the_outbox_keeps_its_own_time_and_arrives_once(tracked: TrackedRun, client: MlflowClient) -> None:
    entry = {"kind": "metrics", "metrics": {"train/kept": 0.5}, "step": 3, "time": 1_700_000_000_123}
    for _ in range(2):
        Tracker(tracked)._send(entry)
    (point,) = client.get_metric_history(tracked.run_id, "train/kept")
    assert (point.step, point.value, point.timestamp) == (3, 0.5, 1_700_000_000_123)


def test_a_setting_that_is_too_long_for_mlflow_is_cut(
    tracked: TrackedRun, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # as with a server that refuses them
    Tracker(tracked).log_params({"long": 7000 * "x"})
    assert client.get_run(tracked.run_id).data.params["long"] == 6000 * "x"


def test_a_picture_is_known_by_its_key_step_and_time(tracked: TrackedRun, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "strip.png")
    tracker = Tracker(tracked, tmp_path)
    entry = {"kind": "image", "path": "strip.png", "key": "known", "step": 2, "time": 1_700_000_000_123}
    tracker._send(entry)
    assert tracker._has_image(entry)
    for other in ({"key": "other"}, {"step": 3}, {"time": 1_700_000_000_124}):
        assert not tracker._has_image(entry | other)


def test_of_kept_pictures_each_is_sent_once_and_one_that_is_gone_is_passed_over(
    tracked: TrackedRun, client: MlflowClient, tmp_path: Path
) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "strip.png")
    entry = {"kind": "image", "path": "strip.png", "key": "kept", "step": 2, "time": 1_700_000_000_123}
    for later in ({}, {}, {"path": "gone.png", "step": 3}):
        Tracker(tracked, tmp_path)._send_kept(entry | later)
    kept = [file.path for file in client.list_artifacts(tracked.run_id, "images") if "kept" in file.path]
    assert len([path for path in kept if path.endswith(".png")]) == 1


def test_the_environment_names_the_run_only_inside_the_block(
    tracked: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "before")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    with tracked.in_environment():
        assert Tracker.from_environment().run == tracked
    assert Tracker.from_environment().run is None


def test_without_a_run_nothing_is_logged_and_nothing_breaks(tmp_path: Path) -> None:
    tracker = Tracker(None)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_artifact(tmp_path / "missing")


def test_a_resumed_run_is_running_again(tracked: TrackedRun, client: MlflowClient) -> None:
    set_status(tracked, "FAILED")
    assert client.get_run(tracked.run_id).info.status == "FAILED"
    set_status(tracked, "RUNNING")
    run = client.get_run(tracked.run_id).info
    assert run.status == "RUNNING"
    set_status(tracked, "FINISHED")
    ended = client.get_run(tracked.run_id).info.end_time
    set_status(tracked, "FINISHED")  # by a machine that has only now heard of it
    assert client.get_run(tracked.run_id).info.end_time == ended
    assert client.get_run(tracked.run_id).info.status == "FINISHED"


def test_nothing_is_sent_or_written_elsewhere_by_who_uses_the_library_alone(tmp_path: Path) -> None:
    """In a process that no srpo command has prepared."""
    (home := tmp_path / "home").mkdir()
    used = "import sys, srpo.tracking; srpo.tracking.connect(sys.argv[1]).create_experiment('first')"
    bare = {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", used, f"sqlite:///{tmp_path}/mlflow.db"]
    subprocess.run(command, env=bare, cwd=tmp_path, check=True, capture_output=True)
    assert not list(home.rglob("*"))


def test_a_table_takes_the_place_of_the_one_before(
    tracked: TrackedRun, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow finds it by a tag of the run, in the store that the process has been told of last."""
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", tracked.uri)
    tracker, path = Tracker(tracked), "evaluation/metrics.json"
    for value in (1.0, 2.0):
        tracker.log_table({"metric": ["luminance", "content"], "change": [value, None]}, path)
    table = client.load_table(client.get_run(tracked.run_id).info.experiment_id, path, [tracked.run_id])
    assert table["metric"].tolist() == ["luminance", "content"]
    assert table["change"][0] == 2
