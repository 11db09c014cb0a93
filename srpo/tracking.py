"""MLflow tracking: one MLflow run per run of the pipeline, continued by whatever resumes it.

The run is opened once, and its address travels as a small manifest (`TrackedRun`) or in the environment variables
that MLflow itself reads (`MLFLOW_TRACKING_URI`, `MLFLOW_RUN_ID`), so that the training processes log to it too. mlflow
is imported only where something is logged.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from srpo.config import RunConfig
from srpo.config.base import flatten
from srpo.outbox import Outbox
from srpo.provenance import code_version
from srpo.strict import Strict

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_VARIABLE = "MLFLOW_RUN_ID"
MAX_PARAM_LENGTH = 6000  # MLflow refuses longer values
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # mlflow looks when it is imported, and writes into HOME else


class TrackedRun(Strict):
    """Where a run is logged."""

    uri: str
    """MLflow's tracking URI."""
    run_id: str
    """MLflow's id of the run."""

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """Name this run in the environment, for the code and the processes started meanwhile."""
        before = {name: os.environ.get(name) for name in (URI_VARIABLE, RUN_VARIABLE)}
        os.environ.update({URI_VARIABLE: self.uri, RUN_VARIABLE: self.run_id})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


class Tracker:
    """Logs to one MLflow run; without one (`run` is None) every method does nothing."""

    def __init__(self, run: TrackedRun | None, buffer: Path | None = None) -> None:
        """`buffer`: a folder that keeps what a server over HTTP has not taken yet (`srpo.outbox`); None: all waits."""
        self.run = run
        self._folder = buffer or Path()
        self._client = connect(run.uri) if run else None
        self._outbox = Outbox(buffer, self._send_kept) if run and buffer and run.uri.startswith("http") else None

    @classmethod
    def from_environment(cls, buffer: Path | None = None) -> Self:
        """The run that the environment names; a tracker that does nothing where it names none."""
        uri, run_id = os.environ.get(URI_VARIABLE), os.environ.get(RUN_VARIABLE)
        return cls(TrackedRun(uri=uri, run_id=run_id) if uri and run_id else None, buffer)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings; nested mappings become dotted names."""
        if self.run and self._client:
            from mlflow.entities import Param

            flat = [Param(name, str(value)[:MAX_PARAM_LENGTH]) for name, value in flatten(params).items()]
            self._client.log_batch(self.run.run_id, params=flat)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers at one step."""
        self._log({"kind": "metrics", "metrics": dict(metrics), "step": step})

    def log_image(self, path: Path, key: str, step: int) -> None:
        """A picture file that belongs to one step; MLflow's page shows a slider over the steps."""
        self._log({"kind": "image", "path": os.path.relpath(path, self._folder), "key": key, "step": step})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags of the run."""
        self._log({"kind": "tags", "tags": dict(tags)})

    def close(self, seconds: float) -> int:
        """Wait for a server, at most so long; what it has not taken by then, in entries, waits on disk for a `sync`."""
        return self._outbox.close(seconds) if self._outbox else 0

    def _log(self, entry: dict[str, Any]) -> None:
        """By way of the outbox, or at once where there is none."""
        if self._outbox:
            self._outbox.put(entry)
        elif self._client:
            self._send(entry | {"time": int(time.time() * 1000)})

    def _send_kept(self, entry: dict[str, Any]) -> None:
        """One entry of the outbox; not a picture that somebody has tidied up, or that arrived unheard."""
        if entry["kind"] != "image" or ((self._folder / entry["path"]).exists() and not self._has_image(entry)):
            self._send(entry)

    def _send(self, entry: dict[str, Any]) -> None:
        """What the outbox keeps, to MLflow; `time` in milliseconds since the epoch."""
        assert self.run and self._client
        if entry["kind"] == "metrics":
            from mlflow.entities import Metric

            metrics = [Metric(key, value, entry["time"], entry["step"]) for key, value in entry["metrics"].items()]
            self._client.log_batch(self.run.run_id, metrics)
        elif entry["kind"] == "image":
            from PIL import Image

            with Image.open(self._folder / entry["path"]) as file:
                image = file.convert("RGB")
            where = {"key": entry["key"], "step": entry["step"], "timestamp": entry["time"]}
            self._client.log_image(self.run.run_id, image, **where, synchronous=True)
        elif entry["kind"] == "tags":
            for key, value in entry["tags"].items():
                self._client.set_tag(self.run.run_id, key, value)

    def _has_image(self, entry: dict[str, Any]) -> bool:
        """Whether MLflow has a picture whole, by the names that it gives to what belongs to it."""
        assert self.run and self._client
        name, last = "{key}+step+{step}+timestamp+{time}+".format_map(entry), "+compressed.webp"
        names = (Path(file.path).name for file in self._client.list_artifacts(self.run.run_id, "images"))
        return any(each.startswith(name) and each.endswith(last) for each in names)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or all files of a folder."""
        if self.run and self._client:
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self.run.run_id, str(path), folder)

    def log_table(self, table: Mapping[str, list[Any]], path: str) -> None:
        """Columns of one length, as a table that MLflow's page shows, in place of what is at `path` already."""
        if not (self.run and self._client):
            return
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        rows = [list(row) for row in zip(*table.values(), strict=True)]
        self._client.log_dict(self.run.run_id, {"columns": list(table), "data": rows}, path)
        shown = json.loads(self._client.get_run(self.run.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if (entry := {"path": path, "type": "table"}) not in shown:
            self._client.set_tag(self.run.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*shown, entry]))


def open_run(uri: str, artifact_uri: str | None, name: str, config: RunConfig) -> TrackedRun:
    """A new MLflow run in the experiment `config.name`, with the config as params and the code version as tags.

    `artifact_uri`: where a new experiment keeps its files; None leaves it to the tracking server.
    """
    client = connect(uri)
    experiment = client.get_experiment_by_name(config.name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(config.name, artifact_uri)
    run = client.create_run(experiment_id, run_name=name, tags=code_version())
    tracked = TrackedRun(uri=uri, run_id=run.info.run_id)
    Tracker(tracked).log_params(config.model_dump(mode="json"))
    client.log_dict(tracked.run_id, config.model_dump(mode="json"), "config.yaml")
    return tracked


def set_status(run: TrackedRun, status: str) -> None:
    """MLflow's state of a run: RUNNING, FINISHED, FAILED or KILLED. One that has ended keeps its end."""
    client = connect(run.uri)
    if status == "RUNNING":
        client.update_run(run.run_id, status=status)
    elif client.get_run(run.run_id).info.status == "RUNNING":
        client.set_terminated(run.run_id, status=status)


def known_runs(uri: str, run_ids: Sequence[str]) -> set[str]:
    """Those of some runs that a store has, deleted ones too."""
    from mlflow.exceptions import MlflowException

    client, known = connect(uri), set()
    for run_id in run_ids:
        try:
            known.add(client.get_run(run_id).info.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise  # a server that does not answer knows them perhaps
    return known


def is_unanswered(error: BaseException) -> bool:
    """Whether an error says that an MLflow server cannot be reached, or cannot answer now."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    return isinstance(error.__context__, OSError) or error.error_code == "TEMPORARILY_UNAVAILABLE"


def connect(uri: str) -> "MlflowClient":
    """A client of an MLflow store, tracking and registry."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)
