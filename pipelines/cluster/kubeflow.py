"""What ZenML's kubeflow orchestrator needs to be understood by Kubeflow Pipelines' SDK."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zenml.client import Client
from zenml.config import ResourceSettings

GPU = "nvidia.com/gpu"
"""Resource of nodes and pods, and the taint of nodes that have it."""


@contextmanager
def understood() -> Iterator[None]:
    """Submitting inside works on Kubeflow too; nothing is changed for other orchestrators.

    ZenML 0.98 names what a task comes after by components, which `PipelineTask.after` of SDK 2.17 refuses (2.15 took
    whatever has a name); they become the tasks of these names. And it asks for GPUs only where the pod settings name
    their kind, which its own settings class forgets; each task that wants some asks for NVIDIA's.
    """
    if Client().active_stack.orchestrator.flavor != "kubeflow":
        yield
        return
    from kfp.dsl.pipeline_context import Pipeline  # type: ignore[import-untyped]
    from kfp.dsl.pipeline_task import PipelineTask  # type: ignore[import-untyped]
    from zenml.integrations.kubeflow.orchestrators import KubeflowOrchestrator

    after, configure = PipelineTask.after, KubeflowOrchestrator._configure_container_resources

    def after_components(task: Any, *upstream: Any) -> Any:
        tasks = Pipeline.get_default_pipeline().tasks
        return after(task, *(each if isinstance(each, PipelineTask) else tasks[each.name] for each in upstream))

    def with_gpus(orchestrator: Any, task: Any, asked: ResourceSettings, _: object = None) -> Any:
        return configure(orchestrator, task, asked, ("accelerator", GPU) if asked.gpu_count else None)

    with (
        replaced(PipelineTask, "after", after_components),
        replaced(KubeflowOrchestrator, "_configure_container_resources", with_gpus),
    ):
        yield


@contextmanager
def replaced(owner: type, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Another method in the place of a class's, meanwhile."""
    before = getattr(owner, name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, before)
