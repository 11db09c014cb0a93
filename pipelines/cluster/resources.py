"""`resources` of a run as ZenML's settings of its steps, on stacks whose orchestrator is a cluster's.

ZenML's facts behind this: the kubernetes orchestrator ignores `ResourceSettings`, the kubeflow one reads nothing else
(`kubeflow` sees to the GPUs). A step's pod settings are merged into those of the stack key by key, so that
nothing there can be taken away; a list, such as the volumes, replaces the stack's.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from zenml.client import Client
from zenml.config import DockerSettings, ResourceSettings
from zenml.config.retry_config import StepRetryConfig
from zenml.enums import StackComponentType

from pipelines.cluster.kubeflow import GPU
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.forecast.footprint import disk_needed, disk_to_evaluate
from srpo.hub.place import VARIABLE as STORE

IMAGE = "SRPO_IMAGE"
DISK = "ephemeral-storage"
RETRY_DELAY = 30
"""Seconds before a failed step is tried again."""
PREEMPTIONS = 20
"""How often a step on spot nodes may lose its pod besides its retries: ZenML's server takes that for a failure."""
STARTER = "starter"
"""Service account (infra/kubernetes) of the pod that starts several others."""
STAYS = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of a pod that autoscalers leave alone: another in its place starts all pods of the nodes once more."""
SHARED_MEMORY = "shared-memory"
"""Volume at /dev/shm, through which NCCL and data loaders talk; the default of 64 MiB is too little."""
SCRATCH = "app"
"""Volume of the stack (infra/stacks) in which steps write."""
DISK_NEEDED: dict[str, Callable[[RunConfig], int]] = {
    "embed": lambda config: disk_needed(config, ("embed",)),
    "train": disk_needed,
    "evaluate": disk_to_evaluate,
}
"""Step -> bytes on the disk of its pod, where they may be many."""
Pod = dict[str, Any]


def num_gpus(config: RunConfig, step: str) -> int:
    """GPUs that a pod of a step asks for."""
    if (given := config.resources.of(step).gpus) is not None:
        return given
    if step in ("download", "register") or config.model.source.startswith("builtin:"):
        return 0
    per_pod = config.train.num_processes // config.resources.train.nodes
    return {"train": per_pod, "embed": config.prompts.num_processes or 1}.get(step, 1)


def step_options(config: RunConfig, step: str) -> dict[str, Any]:
    """Arguments of `with_options` that give a step its pod on the active stack; none on a local one."""
    flavor, stack = _component(StackComponentType.ORCHESTRATOR)
    if flavor not in SETTINGS:
        return {}
    retries = max_retries(config, step) if flavor == "kubernetes" else config.resources.of(step).retries
    return {"settings": SETTINGS[flavor](config, step, stack.get("pod_settings") or {}), **_retry(retries)}


def over_nodes(config: RunConfig) -> bool:
    """Whether training has several pods here. ConfigError where it should, and this stack has no such thing."""
    flavor, _ = _component(StackComponentType.ORCHESTRATOR)
    if flavor not in SETTINGS or config.resources.train.nodes == 1:
        return False
    active = Client().active_stack_model
    if StackComponentType.STEP_OPERATOR not in active.components:
        refuse_nodes(config, active.name)
    return True


def refuse_nodes(config: RunConfig, stack: str) -> NoReturn:
    """Say that a stack cannot train over several nodes."""
    raise ConfigError(
        f"resources.train.nodes is {config.resources.train.nodes}, but stack {stack} has no step operator, which "
        "starts pods together; use the stack `kubernetes` (`stack up kubernetes` brings it up to date), or set it to 1"
    )


def nodes_options(config: RunConfig) -> dict[str, Any]:
    """Arguments of `with_options` for the command that trains in several pods, and the pod that starts them."""
    flavor, operator = _component(StackComponentType.STEP_OPERATOR)
    _, stack = _component(StackComponentType.ORCHESTRATOR)
    settings = {
        "orchestrator.kubernetes": starter_settings(config, stack.get("pod_settings") or {}),
        f"step_operator.{flavor}": nodes_settings(config, operator.get("pod_settings") or {}),
    }
    return {"settings": settings, "step_operator": True, **_retry(max_retries(config, "train"))}


def starter_settings(config: RunConfig, stack: Pod) -> dict[str, Any]:
    """The pod that starts the pods of the nodes, and again if one fails; it alone talks to the cluster."""
    own = pod_settings(config, "download", stack)
    own["additional_pod_spec_args"] = {"automount_service_account_token": True}
    own["annotations"] = STAYS
    return {"step_pod_service_account_name": STARTER, "pod_settings": own, **_margin(config, "train")}


def nodes_settings(config: RunConfig, stack: Pod) -> dict[str, Any]:
    """All pods of the training, of which none goes on without the others."""
    timeout = config.resources.train.timeout
    deadline = {"active_deadline_seconds": timeout * 60} if timeout else {}
    own = pod_settings(config, "train", stack)
    own["additional_pod_spec_args"] = {"termination_grace_period_seconds": _grace(config)}
    return {"pod_count": config.resources.train.nodes, "pod_settings": own, **deadline}


def pipeline_options(config: RunConfig) -> dict[str, Any]:
    """Arguments of `with_options` that give all pods of the pipeline their image; none on a local stack.

    A remote orchestrator returns as soon as it has handed the run over. Kubeflow's mounts nothing: its pods share the
    weights in the run's place in S3. ConfigError if nothing names the image.
    """
    flavor, _ = _component(StackComponentType.ORCHESTRATOR)
    if flavor not in SETTINGS:
        return {}
    settings = {"docker": docker_settings(config), f"orchestrator.{flavor}": {"synchronous": False}}
    shared = {"environment": {STORE: f"{config.storage.remote}/store"}} if flavor == "kubeflow" else {}
    return {"settings": settings, **shared}


def docker_settings(config: RunConfig) -> DockerSettings:
    """The image as it is, code and all: ZenML builds none, installs nothing, and brings no code to read-only roots."""
    image = config.resources.image or os.environ.get(IMAGE)
    if not image:
        raise ConfigError(
            f"no image for the steps; build infra/docker/Dockerfile, push it, and name it in resources.image or {IMAGE}"
        )
    return DockerSettings(
        parent_image=image,
        skip_build=True,
        install_stack_requirements=False,
        allow_download_from_artifact_store=False,
        allow_download_from_code_repository=False,
    )


def kubernetes_settings(config: RunConfig, step: str, stack: Pod) -> dict[str, Any]:
    """Settings of a step's Job; `stack`: pod settings of the stack's orchestrator."""
    timeout = config.resources.of(step).timeout
    deadline = {"active_deadline_seconds": timeout * 60} if timeout else {}
    pod = {"pod_settings": pod_settings(config, step, stack), "pod_stop_grace_period": _grace(config)}
    return {"orchestrator.kubernetes": pod | deadline | _margin(config, step)}


def kubeflow_settings(config: RunConfig, step: str, stack: Pod) -> dict[str, Any]:
    """Settings of a step's task; node pools, spot nodes and deadlines are beyond ZenML's kubeflow orchestrator.

    Memory too: ZenML 0.98 hands KFP a number of gigabytes where KFP wants a text.
    """
    del stack
    return {"resources": ResourceSettings(cpu_count=config.resources.of(step).cpu, gpu_count=num_gpus(config, step))}


def pod_settings(config: RunConfig, step: str, stack: Pod) -> Pod:
    """What a step adds to the stack's `KubernetesPodSettings`; lists hold the stack's entries too."""
    resources, gpus = config.resources.of(step), num_gpus(config, step)
    asked = {"cpu": f"{resources.cpu:g}", "memory": f"{resources.memory}Gi"} | ({GPU: str(gpus)} if gpus else {})
    labels = (config.resources.gpu_labels if gpus else {}) | (config.resources.spot_labels if resources.spot else {})
    taints = [*([GPU] if gpus else []), *(config.resources.spot_labels if resources.spot else ())]
    memory = {
        "name": SHARED_MEMORY,
        "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(1, resources.memory // 2)}Gi"},
    }
    return {
        "resources": {"requests": asked | disk_asked(config, step, stack), "limits": asked},
        "node_selectors": labels | resources.node_pool,
        "tolerations": [*stack.get("tolerations", ()), *({"key": key, "operator": "Exists"} for key in taints)],
        "volumes": [*_others(stack, "volumes"), memory],
        "volume_mounts": [*_others(stack, "volume_mounts"), {"name": SHARED_MEMORY, "mountPath": "/dev/shm"}],
    }


def disk_asked(config: RunConfig, step: str, stack: Pod) -> dict[str, str]:
    """The request for disk of a step whose files may be many; none where the stack gives it a volume for them."""
    on_the_node = any("emptyDir" in volume for volume in stack.get("volumes", ()) if volume["name"] == SCRATCH)
    if not on_the_node or step not in DISK_NEEDED:
        return {}
    return {DISK: f"{math.ceil(DISK_NEEDED[step](config) / 2**30)}Gi"}


def _grace(config: RunConfig) -> int:
    """Seconds between SIGTERM and the kill of a pod."""
    return math.ceil(config.storage.grace_s)


def max_retries(config: RunConfig, step: str) -> int:
    """How often a step on Kubernetes is started again, by ZenML's count."""
    resources = config.resources.of(step)
    return resources.retries + (PREEMPTIONS if resources.spot else 0)


def _margin(config: RunConfig, step: str) -> dict[str, int]:
    """No margin beyond ZenML's retries for the Job of a step on spot nodes, as they hold `PREEMPTIONS` already."""
    return {"backoff_limit_margin": 0} if config.resources.of(step).spot else {}


def _retry(retries: int) -> dict[str, StepRetryConfig]:
    """How often a step is tried again, as an argument of `with_options`."""
    return {"retry": StepRetryConfig(max_retries=retries, delay=RETRY_DELAY)} if retries else {}


def _component(kind: StackComponentType) -> tuple[str, Mapping[str, Any]]:
    """Flavor and settings of a component of the active stack."""
    (component,) = Client().active_stack_model.components[kind]
    return component.flavor_name, component.configuration


def _others(stack: Pod, part: str) -> list[Mapping[str, Any]]:
    return [entry for entry in stack.get(part, ()) if entry["name"] != SHARED_MEMORY]


SETTINGS: dict[str, Callable[[RunConfig, str, Pod], dict[str, Any]]] = {
    "kubernetes": kubernetes_settings,
    "kubeflow": kubeflow_settings,
}
"""Flavor of a remote orchestrator -> settings of a step."""
