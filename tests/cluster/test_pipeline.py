"""The pipeline on the stack `kubernetes`, as a user runs it: ZenML, its orchestrator, MLflow, S3 and the pods are real.

The cluster behind them is the one on loopback, where each pod has an empty disk of its own.
"""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.site import ROOT, Site, objects, settings, wait_for
from tests.conftest import SHORT
from tests.s3 import BUCKET, s3_client

pytestmark = pytest.mark.slow


def run(name: str, *more: str) -> list[str]:
    """`run` of an experiment of this name, whose model has it too."""
    overrides = (*SHORT, "train.num_updates=6", f"name={name}", f"registry.model_name={name}")
    return ["run", "--config", str(ROOT / "configs/shapes.yaml"), *settings(*overrides, *more)]


ON_CLUSTER = ("--stack", "kubernetes")


def test_a_pod_killed_while_it_trains_is_replaced_and_the_version_is_as_if_it_had_not(
    kubernetes: Site, tmp_path: Path
) -> None:
    process = kubernetes.start(*run("killed"), *ON_CLUSTER)
    wait_for(lambda: checkpoints(kubernetes, "killed"))
    killed = pods(kubernetes, "killed", "train")[0]["metadata"]["name"]
    kubernetes.cluster.node.kill(killed)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert phases(kubernetes, "killed", "train") == ["Failed", "Succeeded"]
    for step in ("evaluate", "register"):
        assert phases(kubernetes, "killed", step) == ["Succeeded"]
    for step in ("download", "embed"):  # none, where an earlier run of this server has left their results
        assert phases(kubernetes, "killed", step) in ([], ["Succeeded"])
    assert "step train ended with exit code 137" in output and "killed version 1" in output
    assert kubernetes.versions("killed") == ["1"]
    undisturbed = local_result(kubernetes, tmp_path, "killed")
    assert remote_result(kubernetes, "killed")["transformer"]["files"] == undisturbed["transformer"]["files"]
    assert state(kubernetes, "killed") == "done"


def test_what_trying_again_cannot_mend_is_not_tried_again(kubernetes: Site) -> None:
    code, output = kubernetes.call(*run("stops", "train.learning_rate=1e30"), *ON_CLUSTER)
    (train,) = pods(kubernetes, "stops", "train")
    assert code == 42 and train["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 42
    assert "not finite" in output.splitlines()[-1] and state(kubernetes, "stops") == "failed"


def test_interrupting_the_command_removes_the_pods(kubernetes: Site) -> None:
    process = kubernetes.start(*run("interrupted"), *ON_CLUSTER)
    wait_for(lambda: pods(kubernetes, "interrupted", "train"))
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130 and "run --resume interrupted-" in output
    wait_for(lambda: all(ended.poll() is not None for ended in kubernetes.cluster.node.processes.values()))
    assert state(kubernetes, "interrupted") == "interrupted"


def test_a_detached_run_is_watched_and_taken_up_by_whoever_asks_for_it(kubernetes: Site, tmp_path: Path) -> None:
    code, output = kubernetes.call(*run("detached"), *ON_CLUSTER, "--detach")
    assert code == 0, output
    (name,) = re.findall(r"run --resume (\S+)", output)
    assert state(kubernetes, "detached") == "running"
    wait_for(lambda: checkpoints(kubernetes, "detached"))
    (job,) = kubernetes.cluster.store.list("jobs", "srpo", f"run_name={name},step_name=train")
    kubernetes.cluster.store.delete("jobs", "srpo", job["metadata"]["name"])
    wait_for(lambda: state(kubernetes, "detached") == "failed")
    another_machine = replace(kubernetes, folder=tmp_path)
    assert state(another_machine, "detached", *ON_CLUSTER) == "failed"

    resuming = kubernetes.start("run", "--resume", name)
    again = f"{name}-attempt-2"
    wait_for(lambda: pods(kubernetes, again, "train"))
    resuming.kill()  # a terminal that is closed; the run goes on
    resuming.communicate()
    code, output = another_machine.call("run", "--resume", name, *ON_CLUSTER)
    assert code == 0, output
    assert list(tmp_path.glob(".srpo/runs/*/evaluation/report.html"))
    assert "resuming after update" in output and "detached version 1" in output
    assert phases(kubernetes, again, "train") == ["Succeeded"]
    assert not pods(kubernetes, again, "download") and not pods(kubernetes, f"{name}-attempt-3", "train")
    assert state(kubernetes, "detached") == "done"


def test_a_run_that_nobody_watched_is_done_all_the_same(kubernetes: Site) -> None:
    code, output = kubernetes.call(*run("unwatched"), *ON_CLUSTER, "--detach", "--until", "download")
    assert code == 0, output
    wait_for(lambda: state(kubernetes, "unwatched") == "done")


def state(site: Site, name: str, *options: str) -> str:
    """What `status` says of the newest run of an experiment."""
    code, output = site.call("status", "--json", *options)
    assert code == 0, output
    runs = json.loads(output[output.index("{") :])["runs"]
    return str(next(run["state"] for run in runs if run["name"].startswith(f"{name}-")))


def pods(site: Site, run: str, step: str) -> list[dict[str, Any]]:
    """Pods of a step of the runs whose name begins so, oldest first."""
    return [pod for pod in site.cluster.pods(step) if pod["metadata"]["labels"]["run_name"].startswith(run)]


def phases(site: Site, run: str, step: str) -> list[str]:
    return [pod["status"]["phase"] for pod in pods(site, run, step)]


def checkpoints(site: Site, name: str) -> list[str]:
    """Manifests of an experiment's checkpoints in S3, which make them visible."""
    keys = objects(site, f"zenml/srpo/runs/{name}-")
    return [key for key in keys if "/checkpoints/" in key and key.endswith("manifest.json")]


def remote_result(site: Site, name: str) -> dict[str, dict[str, Any]]:
    """What the training said in the end, as it lies in the bucket."""
    (key,) = [key for key in objects(site, f"zenml/srpo/runs/{name}-") if "/train/result.json/" in key]
    return dict(json.loads(s3_client(site.environment).get_object(Bucket=BUCKET, Key=key)["Body"].read()))


def local_result(site: Site, folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """What the same training said on this machine, where nobody disturbs it."""
    path = local_folder(site, folder, name) / "result.json"
    return dict(json.loads(path.read_text()))


def local_folder(site: Site, folder: Path, name: str, *overrides: str) -> Path:
    """Folder of the same training on this machine."""
    alone = {key: value for key, value in site.environment.items() if not key.startswith("ZENML_STORE")}
    code, output = replace(site, folder=folder, environment=alone).call(*run(name, *overrides), "--until", "train")
    assert code == 0, output
    (found,) = folder.glob(".srpo/runs/*/train")
    return found
