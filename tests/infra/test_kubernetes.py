"""The manifests: restricted pods, least privilege, closed networks, nothing that names what is not there."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo.config import load_config
from tests.infra.manifests import (
    CREATED,
    INFRA,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    Manifest,
    image_problem,
    manifests_of,
    pod_problems,
    pods,
    role_problems,
)

NAMESPACES = {"srpo", "mlflow"}
everywhere = pytest.mark.parametrize("name", ["base", *OVERLAYS])


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


@everywhere
def test_pods_are_restricted(name: str) -> None:
    found = {pod: pod_problems(spec) for pod, _, spec in pods(manifests_of(name))}
    assert found == {"Deployment mlflow": [], "StatefulSet postgres": []}, "no Job, which cannot be applied twice"


@pytest.mark.parametrize("name", CREATED)
def test_what_is_created_is_as_restricted_as_what_is_applied(name: str) -> None:
    manifests = manifests_of(name)
    ((_, _, spec),) = pods(manifests)
    assert pod_problems(spec) == [] and not image_problem(spec["containers"][0]["image"])
    there = {it["metadata"]["name"] for it in of_kind(manifests_of("base"), "ServiceAccount", "PersistentVolumeClaim")}
    used = {it["persistentVolumeClaim"]["claimName"] for it in spec["volumes"] if "persistentVolumeClaim" in it}
    assert used | {spec["serviceAccountName"]} <= there
    applied = {(it["kind"], it["metadata"]["name"]) for it in manifests_of("base")}
    assert not applied & {(it["kind"], it["metadata"]["name"]) for it in manifests}, "deleted with it"


MISTAKES: dict[str, Callable[[Manifest, Manifest], object]] = {
    "may run as root": lambda spec, container: spec["securityContext"].pop("runAsNonRoot"),
    "no seccomp profile": lambda spec, container: spec["securityContext"].pop("seccompProfile"),
    "shares the host": lambda spec, container: spec.update(hostPID=True),
    "mounts the host": lambda spec, container: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "holds a token of the cluster": lambda spec, container: spec.pop("automountServiceAccountToken"),
    "privileged": lambda spec, container: container["securityContext"].update(privileged=True),
    "writable root": lambda spec, container: container["securityContext"].pop("readOnlyRootFilesystem"),
    "capabilities": lambda spec, container: container["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "no requests": lambda spec, container: container["resources"]["requests"].pop("cpu"),
    "no limits": lambda spec, container: container["resources"]["limits"].pop("memory"),
    "secret in clear": lambda spec, container: container["env"].append({"name": "URI", "value": "http://a:b@host"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_pod_is_seen(mistake: str) -> None:
    spec = copy.deepcopy(next(spec for pod, _, spec in pods(manifests_of("base")) if pod == "Deployment mlflow"))
    MISTAKES[mistake](spec, spec["containers"][0])
    assert pod_problems(spec) == [mistake]


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_are_pinned(name: str) -> None:
    images = [container["image"] for _, _, spec in pods(manifests_of(name)) for container in spec["containers"]]
    assert [image_problem(image) for image in images] == [None] * 2
    assert all(map(image_problem, ("srpo", "srpo:latest", "host:5000/srpo")))


@everywhere
def test_roles_give_the_least(name: str) -> None:
    manifests = manifests_of(name)
    roles = of_kind(manifests, "Role", "ClusterRole")
    assert [problem for role in roles for problem in role_problems(role)] == []
    accounts = {(it["metadata"]["namespace"], it["metadata"]["name"]) for it in of_kind(manifests, "ServiceAccount")}
    names = {role["metadata"]["name"] for role in roles}
    bound = set()
    for binding in of_kind(manifests, "RoleBinding", "ClusterRoleBinding"):
        assert binding["roleRef"]["name"] in names
        bound |= {(it["namespace"], it["name"]) for it in binding["subjects"] if it["kind"] == "ServiceAccount"}
    assert bound == {("srpo", "orchestrator"), ("srpo", "starter")} and bound < accounts


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("Role", {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}),
        ("Role", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}),
        ("ClusterRole", {"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}),
    ],
)
def test_a_role_that_gives_more_is_seen(kind: str, rule: Manifest) -> None:
    assert len(role_problems({"kind": kind, "rules": [rule]})) == 1


@everywhere
def test_networks_are_closed_by_default(name: str) -> None:
    policies = of_kind(manifests_of(name), "NetworkPolicy")
    closed = {
        policy["metadata"]["namespace"]
        for policy in policies
        if policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    assert closed == NAMESPACES
    for policy in policies:
        for rule in policy["spec"].get("ingress", ()):
            assert rule.get("from"), f"{policy['metadata']['name']} lets everybody in"
        for rule in policy["spec"].get("egress", ()):
            assert rule.get("to"), f"{policy['metadata']['name']} lets out to everywhere"
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            assert all("169.254.169.254/32" in block["except"] and rule.get("ports") for block in blocks)


@everywhere
def test_namespaces_admit_restricted_pods_only(name: str) -> None:
    namespaces = of_kind(manifests_of(name), "Namespace")
    assert {it["metadata"]["name"] for it in namespaces} == NAMESPACES
    assert {it["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for it in namespaces} == {"restricted"}


@everywhere
def test_what_is_referred_to_is_there(name: str) -> None:
    """Accounts, ConfigMaps, claims and selectors name something; Secrets are made by hand, as infra/README.md says."""
    manifests = manifests_of(name)
    there = {(it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]) for it in manifests}
    by_hand = (INFRA / "README.md").read_text()
    owners = [it for it in manifests if "template" in it.get("spec", {})]
    for owner, (_, _, spec) in zip(owners, pods(manifests), strict=True):
        namespace = owner["metadata"]["namespace"]
        claims = [it["persistentVolumeClaim"]["claimName"] for it in spec["volumes"] if "persistentVolumeClaim" in it]
        wanted = {("PersistentVolumeClaim", namespace, claim) for claim in claims}
        if account := spec.get("serviceAccountName"):
            wanted.add(("ServiceAccount", namespace, account))
        for container in spec["containers"]:
            sources = container.get("envFrom", ())
            wanted |= {("ConfigMap", namespace, it["configMapRef"]["name"]) for it in sources if "configMapRef" in it}
            secrets = [it["secretRef"]["name"] for it in sources if "secretRef" in it]
            secrets += [it["valueFrom"]["secretKeyRef"]["name"] for it in container.get("env", ()) if "valueFrom" in it]
            for secret in secrets:
                assert f"kubectl -n {namespace} create secret generic {secret} " in by_hand
            volumes = {volume["name"] for volume in spec["volumes"]} | {"data"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert wanted <= there
    labels = [metadata["labels"].items() for _, metadata, _ in pods(manifests)]
    for service in of_kind(manifests, "Service"):
        assert any(service["spec"]["selector"].items() <= found for found in labels)


def test_nothing_secret_is_in_the_tree() -> None:
    kinds = [it.get("kind") for path in INFRA.rglob("*.yaml") for it in yaml.safe_load_all(path.read_text())]
    assert "Deployment" in kinds and "Secret" not in kinds


@pytest.mark.parametrize("folder", sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml")))
def test_every_file_is_listed_and_every_listed_file_exists(folder: Path) -> None:
    kustomization: Any = yaml.safe_load((folder / "kustomization.yaml").read_text())
    patches = [it["path"] for it in kustomization.get("patches", ()) if "path" in it]
    listed = [*kustomization.get("resources", ()), *patches]
    assert all((folder / name).exists() for name in listed)
    assert {path.name for path in folder.glob("*.yaml")} == {
        "kustomization.yaml",
        *(it for it in listed if "/" not in it),
    }


def test_training_is_retried_as_its_exit_codes_say() -> None:
    (job,) = of_kind(manifests_of("train/gpu"), "Job")
    first, second, last = job["spec"]["podFailurePolicy"]["rules"]
    assert first["action"] == "Ignore" and first["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert second["action"] == "FailJob" and second["onExitCodes"]["values"] == [42]
    assert last["action"] == "Count"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_gpu_job_asks_for_the_cards_that_its_settings_want() -> None:
    manifests = manifests_of("train/gpu")
    (data,) = [it["data"] for it in of_kind(manifests, "ConfigMap") if it["metadata"]["name"] == "train"]
    files = [ROOT / Path(data[key]).relative_to("/srpo") for key in ("CONFIG", "HARDWARE")]
    (spec,) = [spec for pod, _, spec in pods(manifests) if pod == "Job train"]
    limits = spec["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == load_config(files).train.num_processes
    assert spec["nodeSelector"] and spec["tolerations"]
    shared = [it["emptyDir"] for it in spec["volumes"] if it["name"] == "shared-memory"]
    assert shared == [{"medium": "Memory", "sizeLimit": "64Gi"}]


@pytest.mark.parametrize("name", [*OVERLAYS, *CREATED])
def test_one_file_names_the_image(name: str) -> None:
    (named,) = yaml.safe_load((KUBERNETES / "image/kustomization.yaml").read_text())["images"]
    images = {container["image"] for _, _, spec in pods(manifests_of(name)) for container in spec["containers"]}
    assert {image for image in images if "srpo" in image} == {f"{named['newName']}:{named['newTag']}"}


@pytest.mark.parametrize("name", ["base", *OVERLAYS, *CREATED])
def test_manifests_follow_the_kubernetes_schema(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in manifests_of(name):
        validator.validate(manifest, "1.33", strict=True)
