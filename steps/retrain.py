"""The one step of a scheduled run: the same command that a person would give, so that both do the same."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from zenml import step
from zenml.client import Client

from srpo.config import RunConfig
from srpo.errors import EXIT_PERMANENT, EXIT_RETRY, ConfigError

COMMAND_LINE = Path(__file__).parents[1] / "run_pipeline.py"
SECRET, KEY = "srpo-zenml", "api_key"
"""Where ZenML's server keeps the API key of a service account."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts a pod's token and its cluster's certificate."""


def retraining_command(stack: str | None, *options: str) -> list[str]:
    """`run --if-new-data` by this interpreter; `stack` None: the local one."""
    where = ["--stack", stack] if stack else []
    return [sys.executable, str(COMMAND_LINE), "run", "--if-new-data", *options, *where]


@step(enable_cache=False)
def retrain(config: RunConfig, stack: str | None) -> None:
    """Look for new data, on no GPU; where there is some, the pipeline runs on `stack`. Ends with its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML
        environment = os.environ | _own_cluster(Path(folder))
        if environment.pop("ZENML_STORE_API_TOKEN", None):  # of this run, which may not start another
            environment["ZENML_STORE_API_KEY"] = server_key()
        command = retraining_command(stack, "--config", str(path))
        code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        sys.exit(last_word(code))


def last_word(code: int) -> int:
    """The pod's exit code for that of a command that failed (below 0: the signal that killed it).

    Another pod may help where the command was killed, or says so; a run that failed has tried its steps again itself.
    """
    return EXIT_RETRY if code < 0 or code == EXIT_RETRY else EXIT_PERMANENT


def server_key() -> str:
    """The key with which a pod may start runs on ZenML's server. ConfigError says how to leave one there."""
    try:
        secret = Client().get_secret(SECRET, allow_partial_name_match=False, allow_partial_id_match=False)
        return str(secret.secret_values[KEY])
    except KeyError:
        raise ConfigError(
            f"no secret {SECRET} with the key {KEY} in ZenML, with which scheduled pods start runs; make it: "
            "export ZENML_CONFIG_PATH=$PWD/.srpo/zenml, then zenml service-account create srpo, "
            f"then zenml secret create {SECRET} --interactive"
        ) from None


def _own_cluster(folder: Path) -> dict[str, str]:
    """KUBECONFIG for a pod, whose stack names its cluster by a context of other machines; nothing outside of pods."""
    context = getattr(Client().active_stack.orchestrator.config, "kubernetes_context", None)
    if context is None or not (ACCOUNT / "token").exists():
        return {}
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    cluster = {"server": url, "certificate-authority": str(ACCOUNT / "ca.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": {"tokenFile": str(ACCOUNT / "token")}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    (path := folder / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return {"KUBECONFIG": str(path)}
