"""What ZenML's kubeflow orchestrator needs to be understood by Kubeflow Pipelines' SDK."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zenml.client import Client


@contextmanager
def understood() -> Iterator[None]:
    """Submitting inside works on Kubeflow too; nothing is changed for other orchestrators.

    ZenML 0.98 names what a task comes after by components, which `PipelineTask.after` of SDK 2.17 refuses; 2.15 took
    whatever has a name. They become the tasks of these names.
    """
    if Client().active_stack.orchestrator.flavor != "kubeflow":
        yield
        return
    from kfp.dsl.pipeline_context import Pipeline  # type: ignore[import-untyped]
    from kfp.dsl.pipeline_task import PipelineTask  # type: ignore[import-untyped]

    after = PipelineTask.after

    def after_components(task: Any, *upstream: Any) -> Any:
        tasks = Pipeline.get_default_pipeline().tasks
        return after(task, *(each if isinstance(each, PipelineTask) else tasks[each.name] for each in upstream))

    PipelineTask.after = after_components
    try:
        yield
    finally:
        PipelineTask.after = after
