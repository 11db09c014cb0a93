"""The pipeline on the stack `kubernetes`, as a user runs it: ZenML, its orchestrator, MLflow, S3 and the pods are real.

The cluster behind them is the one on loopback, where each pod has an empty disk of its own.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx2
import pytest

from tests.cluster.pods import isolation
from tests.cluster.servers import BUCKET
from tests.cluster.site import ROOT, Site, objects, site
from tests.conftest import SHORT

pytest.importorskip("kubernetes")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not isolation(), reason="unshare may not make mounts here, which pods need"),
]
SETTINGS = [part for override in (*SHORT, "train.num_updates=6") for part in ("--set", override)]
RUN = ["run", "--config", str(ROOT / "configs/shapes.yaml"), *SETTINGS]
WITHIN = 900
"""Seconds that a pod may take to come that far."""


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


def test_a_pod_killed_while_it_trains_is_replaced_and_the_version_is_as_if_it_had_not(
    kubernetes: Site, tmp_path: Path
) -> None:
    process = kubernetes.start(*RUN, "--stack", "kubernetes")
    wait_for(lambda: checkpoints(kubernetes))
    (killed,) = kubernetes.cluster.pods("train")
    kubernetes.cluster.node.kill(killed["metadata"]["name"])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    phases = {
        step: [pod["status"]["phase"] for pod in kubernetes.cluster.pods(step)]
        for step in ("download", "embed", "train", "evaluate", "register")
    }
    assert phases.pop("train") == ["Failed", "Succeeded"] and set(map(tuple, phases.values())) == {("Succeeded",)}
    assert "step train ended with exit code 137" in output and "shapes version 1" in output
    assert registered(kubernetes) == ["1"]
    undisturbed = local_result(kubernetes, tmp_path)
    assert remote_result(kubernetes)["transformer"]["sha256"] == undisturbed["transformer"]["sha256"]
    assert kubernetes.call("status")[1].count("done") == 1


def test_what_trying_again_cannot_mend_is_not_tried_again(kubernetes: Site) -> None:
    bound = "monitor.bounds=[{metric: clipped, max_change: -1.0}]"
    code, output = kubernetes.call(*RUN, "--set", bound, "--set", "name=stops", "--stack", "kubernetes")
    last = kubernetes.cluster.pods("train")[-1]
    assert code == 42 and last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 42
    assert "clipped" in output.splitlines()[-1]


def test_interrupting_the_command_removes_the_pods(kubernetes: Site) -> None:
    before = len(kubernetes.cluster.store.list("pods", ""))
    process = kubernetes.start(*RUN, "--set", "name=interrupted", "--stack", "kubernetes")
    wait_for(lambda: len(kubernetes.cluster.store.list("pods", "")) > before + 1)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130 and "run --resume interrupted-" in output
    wait_for(lambda: all(ended.poll() is not None for ended in kubernetes.cluster.node.processes.values()))


def wait_for(condition: object) -> None:
    assert callable(condition)
    until = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < until, "did not come that far"
        time.sleep(0.1)


def checkpoints(kubernetes: Site) -> list[str]:
    """Manifests of the checkpoints in S3, which make them visible."""
    return [
        key for key in objects(kubernetes, "zenml/srpo/") if "/checkpoints/" in key and key.endswith("manifest.json")
    ]


def registered(kubernetes: Site) -> list[str]:
    """Versions of the model `shapes` in MLflow's registry."""
    url = f"{kubernetes.environment['SRPO_MLFLOW_URI']}/api/2.0/mlflow/model-versions/search"
    found = httpx2.get(url, params={"filter": "name='shapes'"}, timeout=30).json()
    return [version["version"] for version in found["model_versions"]]


def remote_result(kubernetes: Site) -> dict[str, dict[str, str]]:
    """What the training said in the end, as it lies in the bucket."""
    (key,) = [key for key in objects(kubernetes, "zenml/srpo/") if "/train/result.json/" in key]
    s3 = boto3.session.Session().client("s3", endpoint_url=kubernetes.environment["AWS_ENDPOINT_URL"])
    return dict(json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()))


def local_result(kubernetes: Site, folder: Path) -> dict[str, dict[str, str]]:
    """What the same training said on this machine, where nobody disturbs it."""
    path = local_folder(kubernetes, folder) / "result.json"
    return dict(json.loads(path.read_text()))


def local_folder(kubernetes: Site, folder: Path, *more: str) -> Path:
    """Folder of the same training on this machine."""
    alone = {key: value for key, value in kubernetes.environment.items() if not key.startswith("ZENML_STORE")}
    code, output = Site(kubernetes.cluster, folder, alone).call(*RUN, *more, "--until", "train")
    assert code == 0, output
    (found,) = folder.glob(".srpo/runs/*/train")
    return found
