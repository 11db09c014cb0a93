"""Why a pod ended or does not start, in one sentence: statuses as Kubernetes' documentation and sources word them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import MaxRetryError
from zenml.enums import ExecutionStatus, StackComponentType
from zenml.exceptions import CredentialsNotValid, LogStoreUnavailableError

from pipelines.cluster import pods, remote
from pipelines.cluster.pods import failure_cause, is_permanent, waiting_cause
from pipelines.cluster.remote import PATIENCE, cancel, for_pods, state_of, watch
from srpo.config import load_config
from srpo.errors import ConfigError, OutOfSightError
from tests.cluster.api_server import Cluster, running_cluster
from tests.cluster.store import ApiError

kubernetes = pytest.importorskip("kubernetes")
CONFIG = Path(__file__).parents[2] / "configs/shapes.yaml"


def pod(phase: str, state: dict[str, Any] | None = None, **condition: str) -> Any:
    """A pod of the step `train` as the client returns it."""
    status: dict[str, Any] = {"phase": phase, "conditions": [condition] if condition else []}
    if state is not None:
        container = {"name": "main", "image": "r/srpo:1", "imageID": "", "ready": False, "restartCount": 0}
        status["containerStatuses"] = [container | {"state": state}]
    limits = {"resources": {"limits": {"memory": "64Gi"}}}
    body = {
        "metadata": {"name": "p", "labels": {"step_name": "train"}},
        "spec": {"containers": [{"name": "main", **limits}]},
        "status": status,
    }
    response = type("Response", (), {"data": kubernetes.client.rest.json.dumps(body)})
    return kubernetes.client.ApiClient().deserialize(response, "V1Pod")


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            pod("Pending", type="PodScheduled", status="False", reason="Unschedulable", message="0/3 nodes available"),
            "no node can take the pod of step train: 0/3 nodes available",
        ),
        (
            pod("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}),
            "the image r/srpo:1 of step train cannot be pulled: Back-off pulling image",
        ),
        (pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), ""),
        (pod("Running", {"running": {}}), ""),
    ],
)
def test_why_a_pod_does_not_start(found: Any, sentence: str) -> None:
    assert waiting_cause(found) == sentence
    assert failure_cause(found, "") == ""


@pytest.mark.parametrize(
    ("found", "log", "sentence"),
    [
        (
            pod("Failed", ended(137, "OOMKilled")),
            "",
            "step train ran out of memory (64Gi); give it more in `resources`",
        ),
        (
            pod("Failed", ended(143), type="DisruptionTarget", status="True", reason="PreemptionByScheduler"),
            "",
            "the pod of step train was preempted (PreemptionByScheduler)",
        ),
        (pod("Failed", ended(42)), "loading\nerror: no GPU\nbye\n", "no GPU"),
        (pod("Failed", ended(1)), "loading\nKeyError: x\n\n", "step train ended with exit code 1: KeyError: x"),
        (pod("Failed", ended(137)), "", "step train ended with exit code 137: it wrote nothing"),
        (pod("Succeeded", ended(0, "Completed")), "error: seen", ""),
    ],
)
def test_why_a_pod_failed(found: Any, log: str, sentence: str) -> None:
    assert failure_cause(found, log) == sentence
    assert waiting_cause(found) == ""


def test_only_exit_code_42_is_permanent() -> None:
    assert is_permanent(pod("Failed", ended(42)))
    assert not is_permanent(pod("Failed", ended(1))) and not is_permanent(pod("Pending"))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("prompts.train=/home/me/prompts.txt", "model.source=models/mine"), "/home/me/prompts.txt, .*models/mine"),
        (("train.start=runs/earlier/transformer",), "runs/earlier/transformer"),
        ((f"reward.architecture={CONFIG}",), str(CONFIG)),
    ],
)
def test_a_run_that_only_this_machine_could_follow_is_refused(overrides: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=f"pods cannot see {named} of this machine"):
        for_pods(load_config(CONFIG, overrides), "s3://bucket/zenml/srpo")


@pytest.mark.parametrize("start", ["base", "champion", "models:/shapes/3"])
def test_what_pods_can_start_from_is_not(start: str) -> None:
    assert for_pods(load_config(CONFIG, (f"train.start={start}",)), "s3://bucket/zenml/srpo").train.start == start


def test_what_pods_make_lasts_where_the_stack_keeps_its_artifacts() -> None:
    config = for_pods(load_config(CONFIG), "s3://bucket/zenml/srpo")
    assert (config.storage.remote, config.registry.lease) == ("s3://bucket/zenml/srpo", "s3://bucket/zenml/srpo/lease")
    named = for_pods(load_config(CONFIG, ("storage.remote=s3://other/place",)), "s3://bucket/zenml/srpo")
    assert named.storage.remote == "s3://other/place"


AWAY = (
    ConnectionError("ZenML does not answer"),
    MaxRetryError(HTTPConnectionPool("cluster"), "/pods"),
    RuntimeError("500 HTTP Error received from server"),
    LogStoreUnavailableError("503 as ZenML's client takes it"),
    CredentialsNotValid("401"),
    ValueError("Bad response from API. Expected json, got <html>"),
)
RUN = SimpleNamespace(id="1", steps={}, status=ExecutionStatus.COMPLETED)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ZenML's server says when it is asked for a run, one after the other; the last again and again."""
    said: list[Any] = []

    def answer(_: str) -> Any:
        found = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(remote, "Client", lambda: SimpleNamespace(get_pipeline_run=answer))
    monkeypatch.setattr(remote, "Pods", lambda run: SimpleNamespace(unread=list))
    monkeypatch.setattr(remote, "POLL", 0.01)
    return said


def test_a_run_is_watched_on_where_nobody_answers_for_a_while(answers: list[Any]) -> None:
    answers += [*AWAY, RUN]
    watch("run")
    assert answers == [RUN]


@pytest.mark.parametrize("away", AWAY, ids=lambda error: type(error).__name__)
def test_a_run_goes_out_of_sight_where_nobody_answers_for_long(
    answers: list[Any], away: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.1)
    answers += [away]
    with pytest.raises(OutOfSightError, match="run may go on, but nobody answers"):
        watch("run")


@pytest.fixture
def pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> Iterator[tuple[Cluster, Any]]:
    """A run on a cluster whose orchestrator's pod has not begun, so that ZenML cannot stop it; and one beside it."""
    created = datetime.now(UTC).replace(tzinfo=None)  # as ZenML has it
    run = SimpleNamespace(id="mine", name="run", created=created, orchestrator_run_id=None)
    run.status = ExecutionStatus.PROVISIONING
    orchestrator = SimpleNamespace(flavor_name="kubernetes", config=SimpleNamespace(kubernetes_namespace="srpo"))
    client = SimpleNamespace(
        active_stack=SimpleNamespace(orchestrator=orchestrator),
        active_stack_model=SimpleNamespace(components={StackComponentType.ORCHESTRATOR: [orchestrator]}),
        get_pipeline_run=lambda _: run,
    )
    for module in (pods, remote):
        monkeypatch.setattr(module, "Client", lambda: client)
    monkeypatch.setattr(remote, "Pods", pods.Pods)

    def publish(_: str, status: ExecutionStatus, __: str) -> SimpleNamespace:
        run.status = status
        return run

    monkeypatch.setattr(remote, "publish_pipeline_run_status_update", publish)
    with running_cluster(tmp_path, {}) as cluster:
        config = str(cluster.kubeconfig)
        orchestrator.get_kube_client = lambda: kubernetes.config.new_client_from_config(config)
        main = made_job(cluster, "main", "mine")
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "main", "uid": main["metadata"]["uid"]}
        made_job(cluster, "step", "mine", ownerReferences=[owner])
        made_job(cluster, "other", "theirs")
        yield cluster, run


def made_job(cluster: Cluster, name: str, run: str, **meta: Any) -> dict[str, Any]:
    """A Job that nothing works on."""
    container = {"name": "main", "image": "srpo"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": name, "labels": {"run_id": run}, **meta}
    return cluster.store.create("jobs", "srpo", {"metadata": metadata, "spec": {"template": template}})


@pytest.mark.parametrize(
    ("status", "begun"), [(ExecutionStatus.PROVISIONING, None), (ExecutionStatus.STOPPING, "begun")]
)
def test_a_run_that_has_not_begun_or_that_zenml_could_not_stop_is_stopped_too(
    pending: tuple[Cluster, Any], status: ExecutionStatus, begun: str | None
) -> None:
    cluster, run = pending
    run.status, run.orchestrator_run_id = status, begun
    cancel("run")
    assert [job["metadata"]["name"] for job in cluster.store.list("jobs", "srpo")] == ["other"]
    assert run.status == ExecutionStatus.STOPPED
    cancel("run")  # again, where nothing is left


@pytest.mark.parametrize("refusal", [ApiError(403, "Forbidden", "jobs"), ConnectionError("away")])
def test_a_run_that_could_not_be_stopped_is_not_said_to_be(
    pending: tuple[Cluster, Any], refusal: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, run = pending

    def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(cluster, "answer", refuse)
    with pytest.raises(OutOfSightError, match="run was not stopped and may go on"):
        cancel("run")
    assert run.status == ExecutionStatus.PROVISIONING


@pytest.mark.parametrize(
    ("status", "end"),
    [(ExecutionStatus.RUNNING, ExecutionStatus.FAILED), (ExecutionStatus.STOPPING, ExecutionStatus.STOPPED)],
)
def test_a_run_whose_jobs_are_gone_is_at_work_no_more(
    pending: tuple[Cluster, Any], status: ExecutionStatus, end: ExecutionStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its orchestrator died unheard, and the cluster has forgotten it; a schedule would wait for it for ever."""
    cluster, run = pending
    monkeypatch.setattr(remote, "refresh_run_status", lambda run: run)  # which finds no Job either
    run.status, begun = status, run.created
    run.created = begun - timedelta(seconds=2 * PATIENCE)
    assert state_of("run") == status, "its Jobs are there"
    cluster.store.delete("jobs", "srpo", "main")  # and what it owns
    run.created = begun
    assert state_of("run") == status, "they may still be made"
    run.created = begun - timedelta(seconds=2 * PATIENCE)
    with monkeypatch.context() as away:
        away.setattr(cluster, "answer", forbidden)
        assert state_of("run") == status, "nobody could say"
    assert state_of("run") == end


def forbidden(*_: object) -> None:
    raise ApiError(403, "Forbidden", "jobs")
