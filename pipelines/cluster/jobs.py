"""The Jobs that ZenML's kubernetes orchestrator would make of a run's steps, rendered by its own functions.

What only a submitted run has is left out or stands for itself: the names that ZenML gives, its environment, its token.
"""

import importlib
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from zenml.config.base_settings import BaseSettings
from zenml.entrypoints.step_entrypoint_configuration import StepEntrypointConfiguration
from zenml.utils.pydantic_utils import update_model

from pipelines.cluster.resources import docker_settings, kubernetes_settings, max_retries, nodes_settings, refuse_nodes
from pipelines.cluster.stack_files import StackFile
from srpo.config import RunConfig
from srpo.errors import ConfigError
from steps.train_nodes import train_on_nodes

KUBERNETES_VERSION = "1.33"
"""Version whose schemas the Jobs are held against."""
Job = dict[str, Any]


def render_jobs(config: RunConfig, stack: StackFile, steps: Iterable[str]) -> dict[str, Job]:
    """Step -> its Job as the API server would get it, on a stack with the kubernetes orchestrator."""
    return {
        step: _render_nodes(config, stack)
        if step == "train" and config.resources.train.nodes > 1
        else _render(config, stack.orchestrator.configuration, step)
        for step in steps
    }


def _render_nodes(config: RunConfig, stack: StackFile) -> Job:
    """The Job with a pod for each node. ConfigError where the stack cannot start one."""
    from zenml.integrations.kubernetes.flavors import KubernetesStepOperatorSettings

    operator = stack.step_operator.configuration if stack.step_operator else refuse_nodes(config, stack.name)
    own = nodes_settings(config, operator.get("pod_settings") or {})
    settings = _merged(KubernetesStepOperatorSettings, operator, own)
    command = train_on_nodes(config, "FOLDER").configuration.command
    job = {"backoff_limit": 0, "pod_count": settings.pod_count}  # the pod that starts them does it again
    return _job("train", config, settings, {"command": command, "args": []}, job)


def _render(config: RunConfig, stack: dict[str, Any], step: str) -> Job:
    from zenml.integrations.kubernetes.flavors import KubernetesOrchestratorSettings

    own = kubernetes_settings(config, step, stack.get("pod_settings") or {})["orchestrator.kubernetes"]
    settings = _merged(KubernetesOrchestratorSettings, stack, own)
    pod = {
        "command": StepEntrypointConfiguration.get_entrypoint_command(),
        "args": StepEntrypointConfiguration.get_entrypoint_arguments(step_name=step, snapshot_id=UUID(int=0)),
        "termination_grace_period_seconds": settings.pod_stop_grace_period,
    }
    tries = max_retries(config, step) + settings.backoff_limit_margin
    job = {"backoff_limit": tries, "pod_failure_policy": settings.pod_failure_policy}
    return _job(step, config, settings, pod, job)


def _merged(kind: type[BaseSettings], stack: dict[str, Any], own: dict[str, Any]) -> Any:
    """A step's settings over those of the stack's component, as ZenML's compiler merges them."""
    known = {key: value for key, value in stack.items() if key in kind.model_fields}
    return update_model(kind.model_validate(known), own)


def _job(step: str, config: RunConfig, settings: Any, pod: dict[str, Any], job: dict[str, Any]) -> Job:
    """A Job by ZenML's own builders; `pod`, `job`: what they are told besides what settings of all kinds have."""
    from kubernetes.client import ApiClient  # type: ignore[import-untyped]
    from zenml.integrations.kubernetes.manifest_utils import (
        build_job_manifest,
        build_pod_manifest,
        pod_template_manifest_from_pod,
    )

    made = build_pod_manifest(
        pod_name=None,
        image_name=str(docker_settings(config).parent_image),
        privileged=settings.privileged,
        pod_settings=settings.pod_settings,
        service_account_name=getattr(settings, "step_pod_service_account_name", None) or settings.service_account_name,
        **pod,
    )
    manifest = build_job_manifest(
        job_name=f"srpo-{step}",
        pod_template=pod_template_manifest_from_pod(made),
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
        active_deadline_seconds=settings.active_deadline_seconds,
        **job,
    )
    sent = ApiClient().sanitize_for_serialization(manifest)
    return {"apiVersion": "batch/v1", "kind": "Job", **_without_nulls(sent)}


def _without_nulls(value: Any) -> Any:
    """ZenML sends a security context with nulls under the Python client's names, which the API server drops."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def check_jobs(jobs: dict[str, Job]) -> str:
    """Hold Jobs against Kubernetes' schema: what came of it. ConfigError names a field that is wrong."""
    if not find_spec("kubernetes_validate"):
        return "not held against a schema: kubernetes-validate is not installed"
    validator = importlib.import_module("kubernetes_validate")
    for step, job in jobs.items():
        try:
            validator.validate(job, KUBERNETES_VERSION, strict=True)
        except validator.ValidationError as error:
            place = ".".join(map(str, error.path))
            raise ConfigError(
                f"the Job of {step} is not valid for Kubernetes {KUBERNETES_VERSION}: {place}: {error.message}"
            ) from None
    return f"{len(jobs)} Jobs, valid for Kubernetes {KUBERNETES_VERSION}"
