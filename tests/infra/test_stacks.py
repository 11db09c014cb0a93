"""Stack files: read strictly, registered twice without a change, asked whether they answer; ZenML, S3, MLflow real."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from pipelines.cluster.stack_files import (
    STACKS,
    StackFile,
    fill,
    parse_stack,
    read_stack,
    register,
    stack_names,
    validate,
)
from pipelines.cluster.stack_health import (
    QUESTIONS,
    Finding,
    UnhealthyError,
    ask_bucket,
    ask_cluster,
    ask_folder,
    ask_images,
    ask_kubeflow,
    ask_tracker,
    examine,
)
from pipelines.commands.common import registered
from pipelines.place import ZENML, Place
from srpo.errors import ConfigError
from tests.infra.loopback import NOBODY, mlflow_server, serving
from tests.infra.manifests import ROOT, manifests_of, pod_problems
from tests.runs import call
from tests.s3 import BUCKET

SITE = {
    "SRPO_BUCKET": BUCKET,
    "SRPO_MLFLOW_URI": NOBODY,
    "SRPO_REGISTRY": "localhost:9",
    "SRPO_KUBERNETES_CONTEXT": "test",
    "SRPO_KUBEFLOW_URI": NOBODY,
}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SITE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def client(place: Place) -> Iterator[Any]:
    """ZenML's client with the secrets of the local stack; what the test registers is removed."""
    from zenml.client import Client
    from zenml.utils.source_utils import set_custom_source_root

    set_custom_source_root(str(ROOT))  # a worker's main module is no file, from which ZenML would take it
    zenml = Client()
    zenml.create_secret("srpo-s3", {"key": "key", "secret": "very-secret"})
    zenml.create_secret("srpo-mlflow", {"token": "token"})
    yield zenml
    for name in ("srpo-s3", "srpo-mlflow"):
        zenml.delete_secret(name)
    for found in zenml.list_stacks(name="srpo-local-s3"):
        zenml.delete_stack(found.id, recursive=True)


@pytest.fixture
def locked(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Only the stack holds the keys to it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return bucket


def changed(stack: StackFile, part: str, **configuration: object) -> StackFile:
    component = getattr(stack, part)
    return stack.model_copy(update={part: component.model_copy(update={"configuration": configuration})})


@pytest.mark.parametrize("name", ["kubeflow", "kubernetes", "local"])
def test_every_stack_is_read_and_can_be_asked(name: str) -> None:
    assert name in stack_names()
    for kind, component in read_stack(name).components.items():
        assert (str(kind), component.flavor) in QUESTIONS


def test_the_kubernetes_steps_are_as_restricted_as_the_manifests() -> None:
    settings = read_stack("kubernetes").orchestrator.configuration
    accounts = {it["metadata"]["name"] for it in manifests_of("base") if it["kind"] == "ServiceAccount"}
    assert {settings["service_account_name"], settings["step_pod_service_account_name"]} <= accounts
    claims = {it["metadata"]["name"] for it in manifests_of("base") if it["kind"] == "PersistentVolumeClaim"}
    open_ = {
        "pod_settings": ["no requests", "no limits"],  # which the run adds, see test_remote_plan.py
        "orchestrator_pod_settings": ["holds a token of the cluster"],
    }
    for key, expected in open_.items():
        pod = settings[key]
        container = {"securityContext": pod["container_security_context"], "resources": pod.get("resources", {})}
        more = pod["additional_pod_spec_args"]
        spec = {
            "containers": [container],
            "securityContext": more["security_context"],
            "automountServiceAccountToken": more.get("automount_service_account_token"),
            "volumes": pod["volumes"],
        }
        assert pod_problems(spec) == expected
        assert [source["secretRef"]["name"] for source in pod["env_from"]] == ["credentials"]
        used = {it["persistentVolumeClaim"]["claimName"] for it in pod["volumes"] if "persistentVolumeClaim" in it}
        assert used == {"weights-cache"} and used <= claims, "a volume of its own for each pod's settings of ZenML"
    assert settings["pod_failure_policy"]["rules"][1]["onExitCodes"]["values"] == [42]


def test_a_cluster_whose_api_fails_for_a_while_ends_no_run() -> None:
    """ZenML's own three tries are over in three seconds."""
    stack = read_stack("kubernetes")
    assert stack.step_operator
    for component in (stack.orchestrator, stack.step_operator):
        assert component.configuration["max_api_retries"] == 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "srpo-local"}, "that of the stack that `run` makes"),
        ({"colour": "red"}, "colour"),
        ({"orchestrator": None}, "orchestrator"),
        ({"orchestrator": {"flavor": "kubernetes"}}, "orchestrator kubernetes needs a container_registry"),
    ],
)
def test_a_wrong_file_is_refused(change: dict[str, object], message: str) -> None:
    text = yaml.safe_dump(yaml.safe_load((STACKS / "local.yaml").read_text()) | change)
    with pytest.raises(ConfigError, match=message):
        parse_stack(text, "local")


def test_all_missing_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SITE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="variables SRPO_BUCKET, SRPO_MLFLOW_URI;"):
        fill(read_stack("local"))


def test_registering_twice_changes_nothing_and_once_more_what_differs(client: Any, site: None) -> None:
    stack, before = fill(read_stack("local")), client.active_stack_model.name
    assert set(register(client, stack).values()) == {"created"}
    assert set(register(client, stack).values()) == {"unchanged"}
    moved = changed(stack, "artifact_store", path="s3://elsewhere/zenml")
    done = register(client, moved)
    assert done.pop("artifact_store") == "updated" and set(done.values()) == {"unchanged"}
    registered = client.get_stack("srpo-local-s3").components
    (store,) = registered[next(kind for kind in registered if kind == "artifact_store")]
    assert store.configuration == {"path": "s3://elsewhere/zenml"}, "keys that the file lost are gone"
    assert len(registered) == 4 and client.active_stack_model.name == before


def test_nothing_is_registered_of_a_stack_with_a_mistake(client: Any, site: None) -> None:
    stack = fill(read_stack("local"))
    mistakes = {
        f"secret is written in clear; make a secret ({ZENML} secret create NAME --interactive)": changed(
            stack, "artifact_store", path="s3://a", key="{{srpo-s3.key}}", secret="x1y2"
        ),
        f"ZenML has no secret srpo-s3 with an entry 'other'; make it: {ZENML} secret create srpo-s3 ": changed(
            stack, "artifact_store", path="s3://a", key="{{srpo-s3.other}}"
        ),
        "ZenML has no secret none with an entry 'token'": changed(
            stack, "experiment_tracker", tracking_uri="http://a", tracking_token="{{none.token}}"
        ),
        "pathh": changed(stack, "artifact_store", pathh="s3://a"),
        "no flavor 'none'": stack.model_copy(
            update={"orchestrator": stack.orchestrator.model_copy(update={"flavor": "none"})}
        ),
    }
    for message, mistaken in mistakes.items():
        with pytest.raises(ConfigError, match=re.escape(message)) as refused:
            register(client, mistaken)
        assert "x1y2" not in str(refused.value)
    assert client.list_stacks(name="srpo-local-s3").total == 0
    assert client.list_stack_components(name="srpo-local-s3").total == 0


def test_what_a_person_is_told_to_call_reaches_the_zenml_that_srpo_asks(tmp_path: Path) -> None:
    configuration = Place(tmp_path / ".srpo").environment()["ZENML_CONFIG_PATH"]
    assert ZENML.replace("$PWD", str(tmp_path)) == f"ZENML_CONFIG_PATH={configuration} zenml"


@pytest.mark.parametrize("name", ["kubernetes", "kubeflow"])
def test_stacks_of_a_cluster_are_valid(client: Any, site: None, name: str) -> None:
    pytest.importorskip("kubernetes", reason="kubernetes is not installed")
    if name == "kubeflow":
        pytest.importorskip("kfp", reason="kfp is not installed")
    assert len(validate(client, fill(read_stack(name)))) == {"kubernetes": 7, "kubeflow": 5}[name]


@pytest.mark.skipif(importlib.util.find_spec("kubernetes") is not None, reason="kubernetes is installed")
def test_what_a_cluster_needs_is_said(client: Any, site: None) -> None:
    with pytest.raises(ConfigError, match="pip install --constraint constraints.txt .*cluster"):
        validate(client, fill(read_stack("kubernetes")))


def test_a_bucket_is_written_and_left_as_it_was(locked: Any) -> None:
    values = {"path": f"s3://{BUCKET}/zenml", "key": "key", "secret": "very-secret"}
    assert "written" in ask_bucket(values)
    assert "Contents" not in locked.list_objects_v2(Bucket=BUCKET)
    with pytest.raises(UnhealthyError, match="NoSuchBucket"):
        ask_bucket(values | {"path": "s3://not-there/zenml"})


def test_a_bucket_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOBODY)
    with pytest.raises(UnhealthyError, match="Could not connect") as refused:
        ask_bucket({"path": "s3://b", "key": "key", "secret": "very-secret"})
    assert "very-secret" not in str(refused.value)


def test_a_folder_is_written(tmp_path: Path) -> None:
    assert "can be written" in ask_folder({"path": str(tmp_path / "new")})
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UnhealthyError, match="cannot be written"):
        ask_folder({"path": str(tmp_path / "file")})


def test_a_container_registry_may_ask_for_a_login() -> None:
    with serving({"/v2/": (401, {})}) as url:
        assert "answers" in ask_images({"uri": f"{url.removeprefix('http://')}/team"})
    with serving({}) as url, pytest.raises(UnhealthyError, match="404"):
        ask_images({"uri": url.removeprefix("http://")})


def test_a_tracker_that_is_not_there_or_no_mlflow() -> None:
    with pytest.raises(UnhealthyError, match="does not answer") as refused:
        ask_tracker({"tracking_uri": NOBODY, "tracking_token": "very-secret"})
    assert "very-secret" not in str(refused.value)
    with serving({}) as url, pytest.raises(UnhealthyError, match="50"):
        ask_tracker({"tracking_uri": url})


def test_a_cluster_is_asked_for_its_namespace_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes", reason="kubernetes is not installed")
    nodes = [{"metadata": {"name": "a"}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}} for gpus in ("1", "4")]
    answers = {
        "/api/v1/namespaces/srpo": (200, {"metadata": {"name": "srpo"}}),
        "/api/v1/nodes": (200, {"items": nodes}),
        "/apis/v2beta1/healthz": (200, {}),
    }
    with serving(answers) as url:
        named = {"name": "test", "cluster": {"server": url}, "context": {"cluster": "test", "user": "test"}, "user": {}}
        kinds = {"clusters": "cluster", "contexts": "context", "users": "user"}
        config: dict[str, Any] = {kind: [{"name": "test", key: named[key]}] for kind, key in kinds.items()}
        (tmp_path / "config").write_text(json.dumps(config | {"current-context": "test"}))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
        values = {"kubernetes_context": "test", "kubernetes_namespace": "srpo"}
        assert ask_cluster(values) == "namespace srpo; 2 nodes with 5 GPUs"
        kubeflow = {"kubernetes_context": "test", "kubeflow_namespace": "srpo", "kubeflow_hostname": url}
        assert "5 GPUs" in ask_kubeflow(kubeflow)
        with pytest.raises(UnhealthyError, match="404"):
            ask_cluster(values | {"kubernetes_namespace": "other"})
        with pytest.raises(UnhealthyError, match="no way to the cluster"):
            ask_cluster(values | {"kubernetes_context": "other"})
        for node in nodes:
            node["status"]["allocatable"] = {"cpu": "8"}
        assert "2 nodes with 0 GPUs now; an autoscaler may add nodes" in ask_cluster(values), "a pool scaled to zero"


def test_a_cluster_that_does_not_answer_is_unwell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes")
    cluster = {"name": "gone", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "gone", "context": {"cluster": "gone", "user": "gone"}}
    config = {"clusters": [cluster], "contexts": [context], "users": [{"name": "gone", "user": {}}]}
    (tmp_path / "config").write_text(
        json.dumps(config | {"apiVersion": "v1", "kind": "Config", "current-context": "gone"})
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    with pytest.raises(UnhealthyError, match="the cluster does not answer"):
        ask_cluster({"kubernetes_context": "gone", "kubernetes_namespace": "srpo"})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("local", "srpo-local-s3"),
        ("kubernetes", "srpo-kubernetes"),
        ("srpo-kubernetes", "srpo-kubernetes"),
        ("a-team's-own", "a-team's-own"),
        (None, None),
    ],
)
def test_a_stack_is_named_by_its_file_or_as_zenml_knows_it(given: str | None, name: str | None) -> None:
    assert registered(given) == name


def test_the_command_line_registers_and_says_what_is_unwell(
    client: Any, site: None, locked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("stack", "up", "local") == 75, "a server that does not answer may answer later"
    shown = capsys.readouterr()
    assert "artifact_store (created): well" in shown.out and "very-secret" not in shown.out + shown.err
    assert "experiment_tracker, model_registry did not answer" in shown.err
    assert call("stack", "list") == 0
    shown = capsys.readouterr()
    assert "local: srpo-local-s3 (registered)" in shown.out and "srpo-kubernetes (not registered)" in shown.out
    assert call("stack", "check", "nowhere") == 42
    assert call("stack", "up", "kubernetes") == 42
    shown = capsys.readouterr()
    assert f"srpo-kubernetes needs a ZenML server, which its pods reach too: {ZENML} login URL" in shown.err


@pytest.mark.slow
def test_the_tracking_server_of_the_manifests_answers(
    client: Any, site: None, locked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container's command and settings, on SQLite and a bucket on loopback; then every component is well."""
    manifests = {it["kind"]: it for it in manifests_of("base") if it["metadata"]["name"] == "mlflow"}
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    with mlflow_server(container["command"], manifests["ConfigMap"]["data"], tmp_path) as url:
        monkeypatch.setenv("SRPO_MLFLOW_URI", url)
        assert [finding for finding in examine(client, fill(read_stack("local"))) if not finding.healthy] == [
            Finding("experiment_tracker", False, f"{url}/api/2.0/mlflow/experiments/search answers 403 Forbidden"),
            Finding("model_registry", False, f"{url}/api/2.0/mlflow/registered-models/search answers 403 Forbidden"),
        ], "the port of this test is not one of the allowed hosts"
        listing = f"{url}/api/2.0/mlflow/registered-models/search"
        assert httpx2.get(listing, headers={"Host": "mlflow.mlflow:5000"}).is_success
        assert httpx2.get(listing, headers={"Host": "localhost:5000"}).is_success
        search, body = f"{url}/ajax-api/2.0/mlflow/experiments/search", {"max_results": 1}
        browser = {"Host": "mlflow.mlflow.svc:5000", "Origin": "http://mlflow.mlflow.svc:5000"}
        assert httpx2.post(search, json=body, headers=browser).is_success
        assert httpx2.post(search, json=body, headers=browser | {"Origin": "http://elsewhere"}).status_code == 403
    open_to_us = manifests["ConfigMap"]["data"] | {"MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*"}
    with mlflow_server(container["command"], open_to_us, tmp_path) as url:
        monkeypatch.setenv("SRPO_MLFLOW_URI", url)
        findings = examine(client, fill(read_stack("local")))
        assert len(findings) == 4 and all(finding.healthy for finding in findings)
