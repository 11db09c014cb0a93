"""Does each component of a stack answer? One question per kind and flavor, which leaves nothing behind."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import httpx2
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError
from zenml.client import Client

from pipelines.cluster.kubeflow import GPU
from pipelines.cluster.stack_files import StackFile, resolve_secrets
from srpo.errors import ConfigError

SECONDS = 10
"""How long one answer may take."""
Values = dict[str, Any]


class Finding(NamedTuple):
    """What came of one component."""

    component: str
    healthy: bool
    text: str


class UnhealthyError(Exception):
    """A component does not answer as it should; the message is one sentence without any secret."""


def examine(client: Client, stack: StackFile) -> list[Finding]:
    """Ask every component; the model registry is asked where the experiment tracker is."""
    tracker = resolve_secrets(client, stack.experiment_tracker)
    findings = []
    for kind, component in stack.components.items():
        values = resolve_secrets(client, component) if kind != "model_registry" else tracker
        try:
            findings.append(Finding(str(kind), True, _question(str(kind), component.flavor)(values)))
        except UnhealthyError as error:
            findings.append(Finding(str(kind), False, str(error)))
    return findings


def _question(kind: str, flavor: str) -> Callable[[Values], str]:
    if (kind, flavor) not in QUESTIONS:
        known = ", ".join(name for of, name in QUESTIONS if of == kind)
        raise ConfigError(f"no way to check a {kind} of flavor {flavor!r}; choose from {known}")
    return QUESTIONS[kind, flavor]


def ask_folder(values: Values) -> str:
    """A folder that files can be written to."""
    path = Path(values["path"])
    probe = path / f".srpo-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UnhealthyError(f"{path} cannot be written: {error.strerror}") from None
    return f"{path} can be written"


def ask_bucket(values: Values) -> str:
    """A bucket in which an object can be written, read and deleted."""
    bucket, _, prefix = values["path"].removeprefix("s3://").rstrip("/").partition("/")
    settings = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"max_attempts": 1})
    named = {"key": "aws_access_key_id", "secret": "aws_secret_access_key", "token": "aws_session_token"}
    given = {name: values[key] for key, name in named.items() if values.get(key)} | (values.get("client_kwargs") or {})
    probe = {"Bucket": bucket, "Key": f"{prefix}/.srpo-{uuid.uuid4().hex}".lstrip("/")}
    try:
        s3 = boto3.session.Session().client(
            "s3", config=settings.merge(Config(**values.get("config_kwargs") or {})), **given
        )
        s3.put_object(**probe, Body=b"srpo")
        body = s3.get_object(**probe)["Body"].read()
        s3.delete_object(**probe)
    except (BotoCoreError, ClientError) as error:
        raise UnhealthyError(f"{values['path']}: {error}") from None
    if body != b"srpo":
        raise UnhealthyError(f"{values['path']} gives back something else than was written")
    return f"{values['path']}: an object was written, read and deleted"


def ask_tracker(values: Values) -> str:
    """A tracking server that lets us list experiments."""
    _mlflow(values, "experiments/search", {"max_results": 1})
    return f"{values['tracking_uri']} answers"


def ask_registry(values: Values) -> str:
    """The model registry of the same server."""
    _mlflow(values, "registered-models/search", None)
    return f"{values['tracking_uri']} answers"


def _mlflow(values: Values, path: str, body: Values | None) -> None:
    uri, token = values["tracking_uri"].rstrip("/"), values.get("tracking_token")
    user = values.get("tracking_username")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    auth = (user, values["tracking_password"]) if user else None
    url = f"{uri}/api/2.0/mlflow/{path}"
    _answer("POST" if body else "GET", url, json=body, headers=headers, auth=auth)


def ask_images(values: Values) -> str:
    """A container registry; one that wants a login first is there too."""
    uri = values["uri"].removeprefix("https://")
    host = uri.removeprefix("http://").partition("/")[0]
    local = uri.startswith("http://") or host.partition(":")[0] in ("localhost", "127.0.0.1")
    _answer("GET", f"{'http' if local else 'https'}://{host}/v2/", also=(401,))
    return f"{host} answers"


def _answer(method: str, url: str, also: tuple[int, ...] = (), **arguments: Any) -> None:
    try:
        response = httpx2.request(method, url, timeout=SECONDS, **arguments)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UnhealthyError(f"{url} does not answer: {error}") from None
    if not response.is_success and response.status_code not in also:
        raise UnhealthyError(f"{url} answers {response.status_code} {response.reason_phrase}")


def ask_cluster(values: Values) -> str:
    """A cluster with the namespace; it may have no GPU now, where nodes come when pods want them."""
    from kubernetes import client, config  # type: ignore[import-untyped]

    namespace = values.get("kubernetes_namespace") or values.get("kubeflow_namespace")
    try:
        api = client.CoreV1Api(config.new_client_from_config(context=values.get("kubernetes_context")))
        api.read_namespace(namespace, _request_timeout=SECONDS)
        nodes = api.list_node(_request_timeout=SECONDS).items
    except config.ConfigException as error:
        raise UnhealthyError(f"no way to the cluster: {error}") from None
    except client.ApiException as error:
        raise UnhealthyError(f"namespace {namespace}: {error.status} {error.reason}") from None
    except (OSError, HTTPError) as error:
        raise UnhealthyError(f"the cluster does not answer: {error}") from None
    gpus = [int((node.status.allocatable or {}).get(GPU, 0)) for node in nodes]
    later = "" if any(gpus) else " now; an autoscaler may add nodes, else they lack GPUs or NVIDIA's device plugin"
    return f"namespace {namespace}; {len(gpus)} nodes with {sum(gpus)} GPUs{later}"


def ask_kubeflow(values: Values) -> str:
    """Kubeflow Pipelines' server, and the cluster it runs in."""
    _answer("GET", f"{values['kubeflow_hostname'].rstrip('/')}/apis/v2beta1/healthz")
    return f"{values['kubeflow_hostname']} answers; {ask_cluster(values)}"


QUESTIONS: dict[tuple[str, str], Callable[[Values], str]] = {
    ("orchestrator", "local"): lambda values: "this machine",
    ("orchestrator", "kubernetes"): ask_cluster,
    ("orchestrator", "kubeflow"): ask_kubeflow,
    ("artifact_store", "local"): ask_folder,
    ("artifact_store", "s3"): ask_bucket,
    ("experiment_tracker", "mlflow"): ask_tracker,
    ("model_registry", "mlflow"): ask_registry,
    ("container_registry", "default"): ask_images,
    ("step_operator", "kubernetes"): lambda values: f"acts inside the cluster, in {values['kubernetes_namespace']}",
    ("image_builder", "local"): lambda values: "has nothing to build",
}
"""Component kind and flavor -> the question: settings in, what was found out, UnhealthyError if it is not well."""
