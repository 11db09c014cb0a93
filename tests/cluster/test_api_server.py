"""The loopback cluster behaves as Kubernetes documents it: checked through Kubernetes' own Python client."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_server import Cluster, running_cluster
from tests.cluster.pods import isolation

kubernetes = pytest.importorskip("kubernetes")
pytestmark = pytest.mark.skipif(not isolation(), reason="unshare may not make mounts here, which pods need")
IMAGE = {"LANG": "C.UTF-8"}
POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
    ]
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), IMAGE) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Any:
    return kubernetes.config.new_client_from_config(str(cluster.kubeconfig))


def job(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "srpo", "command": ["sh", "-c", script]}
    pod = {"restartPolicy": "Never", "containers": [container]} | spec.pop("pod", {})
    container |= spec.pop("container", {})
    return {"metadata": {"name": name}, "spec": {"template": {"spec": pod}, "backoffLimit": 3} | spec}


def run(api: Any, body: dict[str, Any]) -> Any:
    """Create a Job and wait until it has ended."""
    batch = kubernetes.client.BatchV1Api(api)
    batch.create_namespaced_job("srpo", body)
    return ended(api, body["metadata"]["name"])


def ended(api: Any, name: str) -> Any:
    for _ in range(200):
        found = kubernetes.client.BatchV1Api(api).read_namespaced_job(name, "srpo")
        if found.status.completion_time:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} did not end")


def pods(api: Any, name: str) -> list[Any]:
    found = kubernetes.client.CoreV1Api(api).list_namespaced_pod("srpo", label_selector=f"job-name={name}").items
    return list(found)


def log(api: Any, pod: Any) -> str:
    return str(kubernetes.client.CoreV1Api(api).read_namespaced_pod_log(pod.metadata.name, "srpo"))


def outcome(found: Any) -> tuple[str, str]:
    return found.status.conditions[-1].type, found.status.conditions[-1].reason


def test_a_pod_has_its_own_name_and_environment_secrets_and_volumes(api: Any, cluster: Cluster, tmp_path: Path) -> None:
    kubernetes.client.CoreV1Api(api).create_namespaced_secret(
        "srpo", {"metadata": {"name": "token"}, "data": {"value": "czNjcmV0"}}
    )
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    mount = tmp_path / "work"
    body = job(
        "own",
        f"hostname; echo $TOKEN $LANG; echo kept > {mount}/file",
        container={"env": [secret], "volumeMounts": [{"name": "work", "mountPath": str(mount)}]},
        pod={"volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]},
    )
    assert outcome(run(api, body)) == ("Complete", "CompletionsReached")
    (pod,) = pods(api, "own")
    assert log(api, pod) == f"{pod.metadata.name}\ns3cret C.UTF-8\n"
    assert (cluster.node.claim("work") / "file").read_text() == "kept\n" and not list(mount.iterdir())


def test_a_failed_pod_is_tried_again_up_to_the_limit(api: Any) -> None:
    assert outcome(run(api, job("flaky", "exit 1", backoffLimit=1))) == ("Failed", "BackoffLimitExceeded")
    assert [pod.status.phase for pod in pods(api, "flaky")] == ["Failed", "Failed"]


def test_exit_code_42_ends_the_job_at_once(api: Any) -> None:
    assert outcome(run(api, job("permanent", "exit 42", podFailurePolicy=POLICY))) == ("Failed", "PodFailurePolicy")
    (pod,) = pods(api, "permanent")
    assert pod.status.container_statuses[0].state.terminated.exit_code == 42


def test_a_preempted_pod_does_not_count(api: Any, cluster: Cluster, tmp_path: Path) -> None:
    script = f"test -e {tmp_path}/again && exit 0; touch {tmp_path}/again; sleep 60"
    kubernetes.client.BatchV1Api(api).create_namespaced_job(
        "srpo", job("evicted", script, backoffLimit=0, podFailurePolicy=POLICY)
    )
    while not (tmp_path / "again").exists():
        time.sleep(0.05)
    cluster.jobs.preempt(cluster.store.list("pods", "srpo", "job-name=evicted")[0])
    assert outcome(ended(api, "evicted")) == ("Complete", "CompletionsReached")
    assert [pod.status.phase for pod in pods(api, "evicted")] == ["Failed", "Succeeded"]


def test_indexed_pods_know_their_place(api: Any) -> None:
    run(api, job("many", "echo $JOB_COMPLETION_INDEX", completions=3, parallelism=3, completionMode="Indexed"))
    assert sorted(log(api, pod).strip() for pod in pods(api, "many")) == ["0", "1", "2"]


def test_deleting_a_job_ends_its_pods(api: Any, cluster: Cluster) -> None:
    batch = kubernetes.client.BatchV1Api(api)
    batch.create_namespaced_job("srpo", job("endless", "sleep 600"))
    while not cluster.node.processes.keys() & (names := {pod.metadata.name for pod in pods(api, "endless")}):
        time.sleep(0.05)
    batch.delete_namespaced_job("endless", "srpo")
    (name,) = names
    assert cluster.node.processes[name].wait(10) != 0 and pods(api, "endless") == []


def test_what_the_schema_refuses_is_refused(api: Any) -> None:
    with pytest.raises(kubernetes.client.ApiException) as refused:
        run(api, job("wrong", "true", colour="red"))
    assert refused.value.status == 422 and "colour" in refused.value.body
