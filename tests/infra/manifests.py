"""Reading what lies in infra/, and what a pod, a role and a policy must be."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = ("gpu", "loopback")
CREATED = ("train/gpu", "train/loopback", "volume")
"""What is created and deleted again, never applied."""
Manifest = dict[str, Any]


def run_tool(*command: str) -> str:
    """Standard output of a program; without the program the test is skipped."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


def manifests_of(name: str) -> list[Manifest]:
    """The files of the base as they lie there; what kubectl makes of an overlay or of what is created."""
    if name == "base":
        resources = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())["resources"]
        text = "\n---\n".join((KUBERNETES / "base" / resource).read_text() for resource in resources)
    else:
        version = run_tool("kubectl", "version", "--client")
        if "Kustomize Version: v5" not in version:
            pytest.skip("kubectl is older than 1.27: its kustomize does not know `labels` with `pairs` and `patches`")
        folder = KUBERNETES / (name if name in CREATED else f"overlays/{name}")
        text = run_tool("kubectl", "kustomize", str(folder))
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, metadata and spec of every pod, and of every template of one."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield f"Pod {manifest['metadata']['name']}", manifest["metadata"], manifest["spec"]
        if template := manifest.get("spec", {}).get("template"):
            yield f"{manifest['kind']} {manifest['metadata']['name']}", template["metadata"], template["spec"]


def pod_problems(spec: Manifest) -> list[str]:
    """What the restricted Pod Security Standard and this project refuse in a pod."""
    context = spec.get("securityContext", {})
    refused = {
        "may run as root": not context.get("runAsNonRoot") or not context.get("runAsUser"),
        "no seccomp profile": context.get("seccompProfile") != {"type": "RuntimeDefault"},
        "shares the host": any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
        "mounts the host": any("hostPath" in volume for volume in spec.get("volumes", ())),
        "holds a token of the cluster": spec.get("automountServiceAccountToken") is not False,
    }
    containers = [*spec["containers"], *spec.get("initContainers", ())]
    return [name for name, found in refused.items() if found] + [
        problem for container in containers for problem in _container_problems(container)
    ]


def _container_problems(container: Manifest) -> list[str]:
    context, resources = container.get("securityContext", {}), container.get("resources", {})
    plain = [entry for entry in container.get("env", ()) if "value" in entry and is_secret(entry)]
    refused = {
        "privileged": context.get("privileged") or context.get("allowPrivilegeEscalation") is not False,
        "writable root": context.get("readOnlyRootFilesystem") is not True,
        "capabilities": context.get("capabilities") != {"drop": ["ALL"]},
        "no requests": not {"cpu", "memory"} <= set(resources.get("requests", ())),
        "no limits": not {"cpu", "memory"} <= set(resources.get("limits", ())),
        "secret in clear": plain,
    }
    return [name for name, found in refused.items() if found]


def is_secret(entry: Manifest) -> bool:
    """Whether an environment variable holds a secret itself, and not `$(NAME)` of one that comes from a Secret."""
    named = re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", entry["name"])
    inside = re.search(r"://[^/@]*:(?!\$\()[^/@]*@", entry["value"])
    return bool(named or inside)


def image_problem(image: str) -> str | None:
    """An image needs a tag that names one state, or a digest."""
    name, _, tag = image.rpartition("/")[2].partition(":")
    return None if "@sha256:" in image or (name and tag not in ("", "latest")) else f"{image} is not pinned"


def role_problems(role: Manifest) -> list[str]:
    """Wildcards, and verbs by which an account could reach more than it was given."""
    problems = []
    for rule in role["rules"]:
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        if words & {"*", "escalate", "bind", "impersonate", "pods/exec", "roles", "rolebindings"}:
            problems.append(f"too much: {rule}")
        if "secrets" in rule["resources"] and {"get", "list", "watch"} & set(rule["verbs"]):
            problems.append(f"reads secrets: {rule}")
        if role["kind"] == "ClusterRole" and not set(rule["verbs"]) <= {"get", "list"}:
            problems.append(f"changes the cluster: {rule}")
    return problems


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    text = (INFRA / "docker/Dockerfile").read_text()
    return dict(re.findall(r"^(?:ENV)? +(\w+)=(\S+)", text, flags=re.MULTILINE))
