"""A whole site on loopback: cluster, ZenML, MLflow, S3, and the stack `kubernetes` of infra/ registered for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from pipelines.cluster.stack_files import STACKS
from tests.cluster.api_server import CONTEXT, Cluster, running_cluster
from tests.cluster.servers import artifact_server, tracking_server, zenml_server
from tests.infra.loopback import serving
from tests.infra.manifests import image_environment
from tests.processes import heed_ctrl_c
from tests.s3 import BUCKET, s3_client

ROOT = Path(__file__).parents[2]
REGISTER = """
import os
import sys
import httpx2

from pipelines.cluster.stack_files import fill, parse_stack, register
from zenml.client import Client
client = Client()
if not client.list_secrets(name="srpo-mlflow").total:
    client.create_secret("srpo-mlflow", {"token": "token-of-mlflow"})
    client.create_secret("srpo-zenml", {"api_key": os.environ["ZENML_STORE_API_KEY"]})
register(client, fill(parse_stack(sys.stdin.read(), sys.argv[1])))
"""
HERE = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
IMAGE = {key: value for key, value in image_environment().items() if key not in ("PATH", "HOME")} | HERE
"""What the image brings: the code, and its environment."""


@dataclass(frozen=True)
class Site:
    """Where everything is, and how a user there calls the command line."""

    cluster: Cluster
    folder: Path
    environment: dict[str, str]
    stack: str
    """The stack file as it was registered."""

    def register(self, name: str, text: str, **environment: str) -> "Site":
        """Register one more stack; the site as its users see it, with these variables."""
        other = replace(self, environment=self.environment | environment, stack=text)
        other.python(REGISTER, name, text=text)
        return other

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`run_pipeline.py` with these arguments, its output in a pipe."""
        command = [sys.executable, str(ROOT / "run_pipeline.py"), *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of `run_pipeline.py`."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        return process.returncode, output

    def versions(self, model: str) -> list[str]:
        """Versions of a model in MLflow's registry."""
        url = f"{self.environment['SRPO_MLFLOW_URI']}/api/2.0/mlflow/model-versions/search"
        found = httpx2.get(url, params={"filter": f"name='{model}'"}, timeout=30).json()
        return sorted(version["version"] for version in found.get("model_versions", []))

    def python(self, code: str, *arguments: str, text: str = "") -> str:
        """Output of some lines of Python with the user's environment."""
        (script := self.folder / "script.py").write_text(code)  # ZenML wants a main module that is a file
        command = [sys.executable, str(script), *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, input=text, text=True, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@contextmanager
def site(folder: Path, name: str = "kubernetes") -> Iterator[Site]:
    """Start everything, register the stack, and stop it all in the end."""
    with ExitStack() as stack:
        s3 = stack.enter_context(artifact_server())
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(stack.enter_context, zenml_server(folder / "zenml"))
            mlflow = stack.enter_context(tracking_server(folder / "mlflow", s3))
            zenml = starting.result()
        registry = stack.enter_context(serving({"/v2/": (200, {})}))
        cluster = stack.enter_context(running_cluster(folder / "cluster", IMAGE))
        cluster.store.create("secrets", "srpo", {"metadata": {"name": "s3"}, "stringData": s3})
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ZENML_", "MLFLOW_"))}
        own = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "SRPO_BUCKET": BUCKET,
            "SRPO_MLFLOW_URI": mlflow,
            "SRPO_REGISTRY": f"{registry.removeprefix('http://')}/srpo",
            "SRPO_IMAGE": f"{registry.removeprefix('http://')}/srpo:test",
            "SRPO_KUBERNETES_CONTEXT": CONTEXT,
            "ZENML_CONFIG_PATH": str(folder / "user"),
        }
        text = stack_on_loopback(name, folder, s3)
        yield Site(cluster, folder, inherited | IMAGE | s3 | zenml | own, text).register(name, text)


def stack_on_loopback(name: str, folder: Path, s3: dict[str, str]) -> str:
    """The stack file with its claim mounted below a folder, and S3's keys from the secret `s3` instead of a role."""
    text = (STACKS / f"{name}.yaml").read_text()
    text = text.replace("mountPath: /cache", f"mountPath: {folder}/mounts/cache")
    text = text.replace("value: /cache", f"value: {folder}/mounts/cache")
    keys = "".join(f"\n        - {{name: {key}, valueFrom: {{secretKeyRef: {{name: s3, key: {key}}}}}}}" for key in s3)
    text = text.replace("      env:\n", f"      env:{keys}\n")
    return text.replace("    orchestrator_pod_settings:\n", f"    orchestrator_pod_settings:\n      env:{keys}\n")


def settings(*overrides: str) -> list[str]:
    """`--set` for each."""
    return [part for override in overrides for part in ("--set", override)]


def wait_for(condition: Callable[[], object], seconds: float = 1200) -> None:
    """Until something holds; how long a pod may take to come that far."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not come that far"
        time.sleep(0.1)


def objects(site: Site, prefix: str) -> list[str]:
    """Keys in the site's bucket."""
    pages = s3_client(site.environment).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
