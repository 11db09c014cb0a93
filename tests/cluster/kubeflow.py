"""Kubeflow Pipelines' API on loopback, behind a cluster's proxy as its client reaches it; what is submitted is kept."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.infra.loopback import JsonHandler, listening

CONTEXT = "kubeflow"
PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/"


class Kubeflow:
    """Experiments and runs; none is ever started."""

    def __init__(self, folder: Path, url: str) -> None:
        self.runs: list[dict[str, Any]] = []
        self.recurring: list[dict[str, Any]] = []
        self.url = url
        self.kubeconfig = folder / "kubeflow.yaml"
        named = {"cluster": {"server": self.url}, "user": {}, "context": {"cluster": CONTEXT, "user": CONTEXT}}
        lists = {f"{kind}s": [{"name": CONTEXT, kind: value}] for kind, value in named.items()}
        self.kubeconfig.write_text(yaml.safe_dump({**lists, "current-context": CONTEXT}))

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """One request as the v2beta1 API takes it; None if it is not one of those that ZenML makes."""
        match method, path:
            case "GET", "healthz":
                return {"multi_user": False}
            case "GET", "experiments":
                return {"experiments": []}
            case "POST", "experiments":
                return body | {"experiment_id": str(uuid.uuid4())}
            case "POST", "runs":
                self.runs.append(body | {"run_id": str(uuid.uuid4()), "state": "PENDING"})
                return self.runs[-1]
            case "POST", "recurringruns":
                self.recurring.append(body | {"recurring_run_id": str(uuid.uuid4())})
                return self.recurring[-1]
        return None


@contextmanager
def kubeflow_api(folder: Path) -> Iterator[Kubeflow]:
    """The API, and a kubeconfig whose context `kubeflow` leads to it."""

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self._respond({})

        def do_POST(self) -> None:
            self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _respond(self, body: dict[str, Any]) -> None:
            path = self.path.partition("?")[0]
            inside = path.startswith(PROXY)
            answer = kubeflow.answer(self.command, path.rpartition("/apis/v2beta1/")[2], body) if inside else None
            self.reply(404 if answer is None else 200, answer or {})

    with listening(Handler) as url:
        kubeflow = Kubeflow(folder, url)
        yield kubeflow
