"""The pods of a run on Kubernetes: what they write, and why one of them ended or does not start, in one sentence."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from zenml.client import Client
from zenml.enums import StackComponentType

from srpo.errors import EXIT_PERMANENT, UnreachableError
from steps.own_call import ERROR

SECONDS = 10
"""How long one answer of the API server may take."""
PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")
FIRST = "batch.kubernetes.io/job-completion-index"
"""Which of a Job's pods this is; the logs are those of number 0, whose processes include rank 0."""


class Pods:
    """The pods of the steps of one ZenML run; none where the orchestrator is not Kubernetes."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._seen: dict[str, int] = {}
        self._ended: set[str] = set()
        self._api: Any = None
        (component,) = Client().active_stack_model.components[StackComponentType.ORCHESTRATOR]
        if component.flavor_name == "kubernetes":
            from kubernetes.client import CoreV1Api  # type: ignore[import-untyped]

            orchestrator: Any = Client().active_stack.orchestrator
            self._api = CoreV1Api(orchestrator.get_kube_client())
            self._namespace = orchestrator.config.kubernetes_namespace

    def newest_first(self) -> list[Any]:
        """All pods of steps that the cluster still knows."""
        if self._api is None:
            return []
        from kubernetes.client import ApiException

        try:
            found = self._api.list_namespaced_pod(
                self._namespace, label_selector=f"run_id={self._run_id},step_name", _request_timeout=SECONDS
            ).items
        except ApiException as error:
            raise UnreachableError(f"the cluster lists no pods ({error.status} {error.reason})") from None
        long_ago = datetime.min.replace(tzinfo=UTC)
        return sorted(
            found, key=lambda pod: (pod.metadata.creation_timestamp or long_ago, _place(pod) == "0"), reverse=True
        )

    def jobs(self) -> list[Any] | None:
        """The Jobs of the run, the orchestrator's too; None where no cluster keeps any."""
        if self._api is None:
            return None
        from kubernetes.client import ApiException, BatchV1Api

        batch, label = BatchV1Api(self._api.api_client), f"run_id={self._run_id}"
        try:
            found = batch.list_namespaced_job(self._namespace, label_selector=label, _request_timeout=SECONDS)
        except ApiException as error:
            raise UnreachableError(f"the cluster lists no Jobs ({error.status} {error.reason})") from None
        return list(found.items)

    def remove_jobs(self) -> bool:
        """Delete the Jobs of the run with their pods; False where no cluster keeps any."""
        jobs = self.jobs()
        if jobs is None:
            return False
        from kubernetes.client import ApiException, BatchV1Api

        batch = BatchV1Api(self._api.api_client)
        try:
            for job in jobs:
                _delete(batch, job)
        except ApiException as error:
            raise UnreachableError(f"the cluster deletes no Jobs ({error.status} {error.reason})") from None
        return True

    def unread(self) -> list[Any]:
        """Pods of which there may be something new, oldest first; one that has ended is among them once."""
        found = [pod for pod in reversed(self.newest_first()) if pod.metadata.name not in self._ended]
        self._ended |= {pod.metadata.name for pod in found if pod.status.phase in ("Succeeded", "Failed")}
        return found

    def new_lines(self, pod: Any) -> list[str]:
        """Whole lines that a pod has written since the last call, as a terminal shows them; none of further pods."""
        if pod.status.phase == "Pending" or _place(pod) != "0":
            return []
        text, before = self._log(pod), self._seen.get(pod.metadata.name, 0)
        whole = text.rfind("\n") + 1
        self._seen[pod.metadata.name] = max(before, whole)
        return [line.rpartition("\r")[2] for line in text[before : whole - 1].split("\n")] if whole > before else []

    def cause(self, pod: Any) -> str:
        """Why a pod failed, or does not start; empty if it runs or has succeeded."""
        return waiting_cause(pod) or failure_cause(pod, self._log(pod) if pod.status.phase == "Failed" else "")

    def _log(self, pod: Any) -> str:
        from kubernetes.client import ApiException

        try:
            response = self._api.read_namespaced_pod_log(
                pod.metadata.name, self._namespace, _preload_content=False, _request_timeout=SECONDS
            )
        except ApiException:  # gone, or not started
            return ""
        return str(response.data.decode(errors="replace"))


def _delete(batch: Any, job: Any) -> None:
    """Delete a Job, with its pods, that may have gone with its owner."""
    from kubernetes.client import ApiException

    name, namespace = job.metadata.name, job.metadata.namespace
    try:
        batch.delete_namespaced_job(name, namespace, propagation_policy="Background", _request_timeout=SECONDS)
    except ApiException as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise


def waiting_cause(pod: Any) -> str:
    """Why a pod does not start: no node takes it, or its image cannot be had; empty if neither is said."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False" and condition.reason == "Unschedulable":
            return f"no node can take the pod of step {_step(pod)}: {condition.message}"
    for status in pod.status.container_statuses or ():
        if status.state.waiting and status.state.waiting.reason in PULLING:
            said = status.state.waiting.message or status.state.waiting.reason
            return f"the image {status.image} of step {_step(pod)} cannot be pulled: {said}"
    return ""


def failure_cause(pod: Any, log: str) -> str:
    """Why a pod failed, from its status and what it wrote; empty if it did not."""
    if pod.status.phase != "Failed":
        return ""
    for condition in pod.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return f"the pod of step {_step(pod)} was preempted ({condition.reason})"
    for status in pod.status.container_statuses or ():
        ended = status.state.terminated
        if ended and ended.reason == "OOMKilled":
            limits = pod.spec.containers[0].resources and pod.spec.containers[0].resources.limits
            allowed = (limits or {}).get("memory", "no limit of its own")
            return f"step {_step(pod)} ran out of memory ({allowed}); give it more in `resources`"
        if ended and ended.exit_code == EXIT_PERMANENT:
            return _last(log, ERROR).removeprefix(ERROR) or f"step {_step(pod)} cannot work as it is asked to"
        if ended:
            return f"step {_step(pod)} ended with exit code {ended.exit_code}: {_last(log) or 'it wrote nothing'}"
    return f"the pod of step {_step(pod)} failed: {pod.status.reason or 'the cluster does not say why'}"


def is_permanent(pod: Any) -> bool:
    """Whether the pod's exit code says that trying again will not help."""
    ends = [status.state.terminated for status in pod.status.container_statuses or ()]
    return any(ended and ended.exit_code == EXIT_PERMANENT for ended in ends)


def _place(pod: Any) -> str:
    """The number of a pod among its Job's."""
    return str(((pod.metadata.labels or {}) | (pod.metadata.annotations or {})).get(FIRST, "0"))


def _step(pod: Any) -> str:
    return str((pod.metadata.labels or {}).get("step_name", pod.metadata.name))


def _last(log: str, beginning: str = "") -> str:
    """The last line of a log that is not empty and begins so."""
    return next(
        (line.strip() for line in reversed(log.splitlines()) if line.strip() and line.startswith(beginning)), ""
    )
