"""Runs on a cluster: what they need there, watching them, ending them."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from urllib3.exceptions import HTTPError
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.exceptions import IllegalOperationError, ZenMLBaseException
from zenml.orchestrators.publish_utils import publish_pipeline_run_status_update
from zenml.utils.run_utils import refresh_run_status, stop_run

from pipelines.cluster.pods import Pods, is_permanent
from srpo.config import RewardConfig, RunConfig, ScoreConfig
from srpo.errors import ConfigError, OutOfSightError, RemoteRunError
from srpo.hub import Part, is_remote, survey

POLL = 2.0
"""Seconds between two looks at a run."""
PATIENCE = 300.0
"""Seconds for which ZenML's server or the cluster may fail to answer while a run is watched, and after which the
cluster is asked whether it still goes on, and has made its Jobs."""
UNANSWERED = (OSError, HTTPError, ZenMLBaseException, RuntimeError, ValueError)
"""Of ZenML's client, and of Kubernetes': no answer, one that is none, or that of a server which is not itself."""
COLOURS = {"completed": "green", "cached": "green", "failed": "red"}
console = Console()
log = logging.getLogger(__name__)


def on_cluster() -> bool:
    """Whether the active stack runs steps in pods."""
    return bool(Client().active_stack.orchestrator.config.is_remote)


def for_pods(config: RunConfig, storage: str) -> RunConfig:
    """The config as pods, which share no disk, can follow it: files last in `storage` where it names no other place.

    Raises ConfigError for files that lie on this machine alone.
    """
    if local := sorted({source for source in config.inputs if not _reachable(source)} | set(_further(config))):
        raise ConfigError(
            f"pods cannot see {', '.join(local)} of this machine; put them into a bucket (s3://...), name a hub "
            "(hf://...) or build them into the image and use what it has (builtin:...)"
        )
    lasting = config.storage.model_copy(update={"remote": config.storage.remote or storage})
    registry = config.registry.model_copy(update={"lease": config.registry.lease or f"{storage}/lease"})
    return config.model_copy(update={"storage": lasting, "registry": registry})


def _further(config: RunConfig) -> Iterator[str]:
    """Files of this machine that a run reads besides its inputs."""
    from srpo.start import BASE, CHAMPION, VERSION  # with all of torch, which a list of schedules can do without

    if config.train.start not in (BASE, CHAMPION) and not VERSION.fullmatch(config.train.start):
        yield config.train.start
    judges: dict[Part, Iterable[RewardConfig | ScoreConfig]] = {
        "reward": config.all_rewards.values(),
        "score": config.evaluation.scores.values(),
    }
    for part, judge in ((part, judge) for part, each in judges.items() for judge in each):
        if Path(judge.architecture).is_file():
            beside = survey(judge.source, part).files if is_remote(judge.source) else ()
            if judge.architecture not in {file.path for file in beside}:
                yield judge.architecture


def _reachable(source: str) -> bool:
    return source.startswith("builtin:") or is_remote(source)


def watch(name: str) -> None:
    """Show the steps of a run and what its pods write until it ends.

    Raises ConfigError or RemoteRunError with the cause if it failed, KeyboardInterrupt if somebody stopped it, and
    OutOfSightError if nobody has answered for `PATIENCE` seconds.
    """
    pods, shown, told = None, dict[str, str](), dict[str, str]()
    heard = asked = time.monotonic()
    while True:
        try:
            run = Client().get_pipeline_run(name)
            if time.monotonic() - asked > PATIENCE:
                run, asked = _asked(run), time.monotonic()
            pods = pods or Pods(str(run.id))
            _show_pods(pods, told)
            _show_steps(run, shown)
            heard = time.monotonic()
            if run.status.is_finished:
                break
        except UNANSWERED as error:
            if time.monotonic() - heard > PATIENCE:
                raise OutOfSightError(f"{name} may go on, but nobody answers: {error}") from error
        time.sleep(POLL)
    if run.status == ExecutionStatus.STOPPED:
        raise KeyboardInterrupt
    if not run.status.is_successful:
        raise _failure(name, pods)


def cancel(name: str) -> None:
    """Stop a run and remove its pods. Raises OutOfSightError where it may go on all the same."""
    try:
        run = Client().get_pipeline_run(name)
        if run.status.is_finished:
            return
        if run.status == ExecutionStatus.STOPPING or not run.orchestrator_run_id:
            _withdraw(run)
            return
        with suppress(IllegalOperationError):  # ended meanwhile
            stop_run(run)
    except KeyError:  # never handed over
        return
    except UNANSWERED as error:
        raise OutOfSightError(f"{name} was not stopped and may go on: {error}") from error


def _withdraw(run: Any) -> None:
    """Stop a run that ZenML will not: its orchestrator has not begun, or failed to; its Jobs are there all the same."""
    if not Pods(str(run.id)).remove_jobs():
        raise OutOfSightError("its orchestrator cannot be told to; stop it there, in its own interface")
    publish_pipeline_run_status_update(run.id, ExecutionStatus.STOPPED, "Its Jobs were removed.")


def state_of(name: str) -> ExecutionStatus | None:
    """How a run stands; None if ZenML's server knows of none."""
    try:
        return _asked(Client().get_pipeline_run(name)).status
    except KeyError:
        return None


def _asked(run: Any) -> Any:
    """A run with what its cluster says of it: of a pod that ended before it began ZenML's server hears nothing.

    Nor of an orchestrator that died, which its cluster forgets in time. Where that cannot be had, as the server knows
    it.
    """
    if run.status.is_finished:
        return run
    try:
        run = refresh_run_status(run)
        if run.status.is_finished or not _forgotten(run):
            return run
        ended = ExecutionStatus.STOPPED if run.status == ExecutionStatus.STOPPING else ExecutionStatus.FAILED
        return publish_pipeline_run_status_update(run.id, ended, "Its cluster has no Job of it.")
    except Exception as error:  # an orchestrator that cannot tell, a cluster that cannot be reached
        log.debug("%s: its cluster was not asked (%s)", run.name, error)
        return run


def _forgotten(run: Any) -> bool:
    """Whether the cluster has none of a run's Jobs, though there has been time to make them."""
    age = datetime.now(UTC) - run.created.replace(tzinfo=UTC)  # which ZenML leaves out
    return age.total_seconds() > PATIENCE and Pods(str(run.id)).jobs() == []


def _show_steps(run: Any, shown: dict[str, str]) -> None:
    """One line for each step whose status has changed."""
    for name, step in run.steps.items():
        status = str(step.status.value)
        if shown.get(name) != status:
            shown[name] = status
            console.print(f"[bold cyan]{name}[/] [{COLOURS.get(status, 'dim')}]{status}[/]")


def _show_pods(pods: Pods, told: dict[str, str]) -> None:
    """New lines of the logs, and why a pod ended early or does not start; `told`: what was said of a pod last."""
    for pod in pods.unread():
        for line in pods.new_lines(pod):
            console.print(f"    [dim]{escape(line)}[/]", highlight=False, soft_wrap=True)
        cause, name = pods.cause(pod), pod.metadata.name
        if cause and told.get(name) != cause:
            told[name] = cause
            console.print(f"    [yellow]{escape(cause)}[/]", highlight=False, soft_wrap=True)


def _failure(name: str, pods: Pods) -> Exception:
    """The error of a failed run; permanent if a pod's exit code says so."""
    for pod in pods.newest_first():
        if cause := pods.cause(pod):
            return ConfigError(cause) if is_permanent(pod) else RemoteRunError(f"{name}: {cause}")
    return RemoteRunError(f"{name} failed on the cluster, which says no more; see ZenML's page of the run")
