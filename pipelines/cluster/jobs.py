"""The Jobs that ZenML's kubernetes orchestrator would make of a run's steps, rendered by its own functions.

What only a submitted run has is left out or stands for itself: the names that ZenML gives, its environment, its token.
"""

import importlib
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any
from uuid import UUID

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
    from zenml.integrations.kubernetes.manifest_utils import (
        build_job_manifest,
        build_pod_manifest,
        pod_template_manifest_from_pod,
    )

    operator = stack.step_operator.configuration if stack.step_operator else refuse_nodes(config, stack.name)
    own = nodes_settings(config, operator.get("pod_settings") or {})
    known = {key: value for key, value in operator.items() if key in KubernetesStepOperatorSettings.model_fields}
    settings = update_model(KubernetesStepOperatorSettings.model_validate(known), own)
    pod = build_pod_manifest(
        pod_name=None,
        image_name=str(docker_settings(config).parent_image),
        command=train_on_nodes(config, "FOLDER").configuration.command,
        args=[],
        privileged=settings.privileged,
        pod_settings=settings.pod_settings,
        service_account_name=settings.service_account_name,
    )
    job = build_job_manifest(
        job_name="srpo-train",
        pod_template=pod_template_manifest_from_pod(pod),
        backoff_limit=0,  # the pod that starts them does it again
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
        active_deadline_seconds=settings.active_deadline_seconds,
        pod_count=settings.pod_count,
    )
    return _as_sent(job)


def _render(config: RunConfig, stack: dict[str, Any], step: str) -> Job:
    from zenml.integrations.kubernetes.flavors import KubernetesOrchestratorSettings
    from zenml.integrations.kubernetes.manifest_utils import (
        build_job_manifest,
        build_pod_manifest,
        pod_template_manifest_from_pod,
    )

    own = kubernetes_settings(config, step, stack.get("pod_settings") or {})["orchestrator.kubernetes"]
    known = {key: value for key, value in stack.items() if key in KubernetesOrchestratorSettings.model_fields}
    settings = update_model(KubernetesOrchestratorSettings.model_validate(known), own)  # as ZenML's compiler does
    pod = build_pod_manifest(
        pod_name=None,
        image_name=str(docker_settings(config).parent_image),
        command=StepEntrypointConfiguration.get_entrypoint_command(),
        args=StepEntrypointConfiguration.get_entrypoint_arguments(step_name=step, snapshot_id=UUID(int=0)),
        privileged=settings.privileged,
        pod_settings=settings.pod_settings,
        service_account_name=settings.step_pod_service_account_name or settings.service_account_name,
        termination_grace_period_seconds=settings.pod_stop_grace_period,
    )
    job = build_job_manifest(
        job_name=f"srpo-{step}",
        pod_template=pod_template_manifest_from_pod(pod),
        backoff_limit=max_retries(config, step) + settings.backoff_limit_margin,
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
        active_deadline_seconds=settings.active_deadline_seconds,
        pod_failure_policy=settings.pod_failure_policy,
    )
    return _as_sent(job)


def _as_sent(job: Any) -> Job:
    from kubernetes.client import ApiClient  # type: ignore[import-untyped]

    return {"apiVersion": "batch/v1", "kind": "Job", **_without_nulls(ApiClient().sanitize_for_serialization(job))}


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
