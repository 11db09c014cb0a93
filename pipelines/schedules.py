"""Scheduled retraining: ZenML schedules, which a stack's orchestrator keeps (on Kubernetes as CronJobs).

A schedule runs a pipeline of one step that takes no GPU: it looks for new data, and only where there is some does it
start the whole pipeline on the same stack. ZenML holds the record; nothing is kept here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from zenml import pipeline
from zenml.client import Client
from zenml.config.retry_config import StepRetryConfig
from zenml.config.schedule import Schedule
from zenml.models import ScheduleResponse
from zenml.utils.pagination_utils import depaginate

from pipelines.cluster.remote import for_pods
from pipelines.cluster.resources import RETRY_DELAY, docker_settings
from pipelines.stacks import storage_in
from srpo.config import RunConfig
from srpo.errors import ConfigError, first_problem
from steps.retrain import retrain, server_key

KUBERNETES = "kubernetes"
STARTING_DEADLINE = 3600
"""Seconds after its time that a missed start is made up for."""
KEPT_JOBS = 3
"""Finished Jobs that stay to be looked at, of those that went well and of those that failed."""
LOST_PODS = 2
"""How often the pod of the looking step is replaced."""


@pipeline(name="srpo-retraining")
def retraining(config: RunConfig, stack: str | None) -> None:
    """Look, and train if there is something new."""
    retrain.with_options(**_pod(Client()))(config, stack)


def create(client: Client, name: str, cron: str, config: RunConfig, stack: str) -> ScheduleResponse:
    """A schedule on a registered stack whose orchestrator can keep one; `cron`: as `checked_cron` returns it.

    ConfigError if it cannot, the name is taken, or pods could not follow the config.
    """
    with active(client, stack):
        if not client.active_stack.orchestrator.config.is_schedulable:
            raise ConfigError(f"the orchestrator of stack {stack} keeps no schedules")
        if name in {schedule.name for schedule in schedules(client)}:
            raise ConfigError(f"there is a schedule {name!r} already; delete it first, or give another --name")
        try:
            config = _self_contained(client, config)
            prepared(client, config, schedule=Schedule(name=name, cron_expression=cron))(config, stack)
        except BaseException:
            _forget(client, name)  # ZenML records a schedule before it builds and submits what is scheduled
            raise
    return find(client, name)


def schedules(client: Client) -> list[ScheduleResponse]:
    """All schedules of the retraining pipeline, by name."""
    pipelines = client.list_pipelines(name=retraining.name).items
    found = [it for one in pipelines for it in depaginate(client.list_schedules, pipeline_id=one.id, hydrate=True)]
    return sorted(found, key=lambda schedule: schedule.name)


def find(client: Client, name: str) -> ScheduleResponse:
    """A schedule by its name; ConfigError says which there are."""
    known = {schedule.name: schedule for schedule in schedules(client)}
    if name not in known:
        raise ConfigError(f"no schedule named {name!r}; there are: {', '.join(known) or 'none yet'}")
    return known[name]


def set_active(client: Client, name: str, active: bool) -> None:
    """Pause or resume. ConfigError where the orchestrator cannot, or it is so already."""
    schedule = find(client, name)
    _require(client, schedule, "supports_schedule_updates", "paused or resumed")
    if schedule.active == active:
        raise ConfigError(f"schedule {name!r} is {'active' if active else 'paused'} already")
    client.update_schedule(schedule.id, active=active)


def delete(client: Client, name: str) -> None:
    """Remove a schedule from its orchestrator and from ZenML; its runs stay. ConfigError where the former cannot be."""
    schedule = find(client, name)
    _require(client, schedule, "supports_schedule_deletion", "deleted")
    client.delete_schedule(schedule.id)


def run_now(client: Client, name: str) -> None:
    """At once what the schedule does at its time, with the config it was made with; a cluster is not waited for."""
    config, stack = planned(client, find(client, name))
    with active(client, stack):
        prepared(client, config)(config, stack)


def planned(client: Client, schedule: ScheduleResponse) -> tuple[RunConfig, str]:
    """The run's config and the stack's name, from the snapshot that the schedule runs.

    ConfigError if ZenML has it no more, or another version of srpo has made it.
    """
    found = client.list_snapshots(schedule_id=schedule.id, named_only=False, hydrate=True).items
    if not found:
        raise ConfigError(f"ZenML has lost what schedule {schedule.name!r} runs; delete it and create it again")
    parameters = found[0].pipeline_configuration.parameters or {}
    try:
        return RunConfig.model_validate(parameters["config"]), str(parameters["stack"])
    except ValidationError as error:
        raise ConfigError(
            f"schedule {schedule.name!r} was made by another srpo ({first_problem(error)}); delete and create it again"
        ) from None


@contextmanager
def active(client: Client, stack: str) -> Iterator[None]:
    """Make a registered stack the active one for a while."""
    before = client.active_stack_model.name
    if not client.list_stacks(name=stack).total:
        raise ConfigError(f"ZenML knows no stack {stack!r}; register it with `stack up`")
    client.activate_stack(stack)
    try:
        yield
    finally:
        client.activate_stack(before)


def prepared(client: Client, config: RunConfig, **options: Any) -> Any:
    """The pipeline with what the active stack's orchestrator needs to know of its times; `options`: of the pipeline."""
    orchestrator = client.active_stack.orchestrator
    ours: dict[str, Any] = {"docker": docker_settings(config)} if orchestrator.config.is_remote else {}
    if orchestrator.flavor == KUBERNETES:
        ours[f"orchestrator.{KUBERNETES}"] = {
            "synchronous": False,
            "concurrency_policy": "Forbid",
            "starting_deadline_seconds": STARTING_DEADLINE,
            "successful_jobs_history_limit": KEPT_JOBS,
            "failed_jobs_history_limit": KEPT_JOBS,
            "pod_settings": None,  # those of the stack, into which ZenML would merge the step's own
        }
    return retraining.with_options(settings=ours, **options)


def _self_contained(client: Client, config: RunConfig) -> RunConfig:
    """The config as a pod can follow it that knows neither this machine's files nor its environment. ConfigError."""
    stack = client.active_stack
    if not stack.orchestrator.config.is_remote:
        return config
    server_key()
    image = docker_settings(config).parent_image
    config = for_pods(config, storage_in(stack.artifact_store.path))
    return config.model_copy(update={"resources": config.resources.model_copy(update={"image": image})})


def _pod(client: Client) -> dict[str, Any]:
    """A pod for the looking step like the orchestrator's on the active stack: no GPU, and the right to start Jobs.

    Another one takes its place where it is lost, and watches the run that it has started.
    """
    orchestrator = client.active_stack.orchestrator
    if orchestrator.flavor != KUBERNETES:
        return {}
    config = orchestrator.config
    pod = config.orchestrator_pod_settings.model_dump(exclude_unset=True) if config.orchestrator_pod_settings else {}
    account = {"step_pod_service_account_name": config.service_account_name}
    settings = {f"orchestrator.{KUBERNETES}": {"pod_settings": pod, **account}}
    return {"settings": settings, "retry": StepRetryConfig(max_retries=LOST_PODS, delay=RETRY_DELAY)}


def _require(client: Client, schedule: ScheduleResponse, ability: str, what: str) -> None:
    orchestrator = client._get_orchestrator_for_schedule(schedule)
    if orchestrator is None or not getattr(orchestrator, ability):
        keeper = orchestrator.flavor if orchestrator else "an orchestrator that is gone"
        raise ConfigError(
            f"schedule {schedule.name!r} is kept by {keeper} and cannot be {what} through ZenML; do it there, in its "
            "own interface (`zenml pipeline schedule delete` removes ZenML's record alone)"
        )


def _forget(client: Client, name: str) -> None:
    """Drop the record of a schedule that no orchestrator has taken."""
    for schedule in schedules(client):
        if schedule.name == name:
            client.delete_schedule(schedule.id, soft=False)
