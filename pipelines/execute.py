"""Start a run, or take up one that stopped; everything between the command line and ZenML."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from zenml.client import Client
from zenml.enums import ExecutionMode, ExecutionStatus
from zenml.exceptions import RunInterruptedException

from pipelines import fingerprint
from pipelines.alignment import Request, alignment
from pipelines.cluster.kubeflow import understood
from pipelines.cluster.remote import cancel, for_pods, on_cluster, state_of, watch
from pipelines.cluster.resources import pipeline_options
from pipelines.earlier import earlier_outputs
from pipelines.outcome import Outcome, brought_here, outcome_of, outputs_of
from pipelines.place import Place
from pipelines.runs import RunRecord, held, new_folder
from pipelines.stacks import ActiveStack, activate, log_to_file
from srpo.alone import holder_of
from srpo.config import RunConfig
from srpo.control_words import control_words
from srpo.errors import BusyError, OutOfSightError, PreemptedError
from srpo.plan import Plan
from srpo.registry import check_lease
from srpo.start import pinned
from srpo.tracking import open_run, set_status

NOT_AT_WORK = (ExecutionStatus.INITIALIZING, ExecutionStatus.STOPPING)
"""What ZenML calls, for ever, a run that could not be handed over; and one whose pods are being removed."""


def new_run(place: Place, plan: Plan, stack: str | None = None) -> RunRecord:
    """Record a run of the planned steps, ready to be executed on a registered stack or on the local one."""
    active = activate(place, stack)
    config = for_pods(plan.config, active.storage) if active.storage else plan.config
    config = pinned(config, active.tracking_uri) if "train" in plan.steps else config
    given = earlier_outputs(place, config, plan.steps[0], stack)
    if plan.steps[-1] == "register":
        check_lease(active.tracking_uri, config.registry)
    words = control_words(config.preference).digest
    return begun(place, active, config, steps=plan.steps, stack=stack, words=words, given=given)


def begun(place: Place, active: ActiveStack, config: RunConfig, **known: Any) -> RunRecord:
    """The record of a new run, with a folder and an MLflow run of its own; `known`: its further fields."""
    folder = new_folder(place, config)
    tracked = open_run(active.tracking_uri, active.mlflow_artifacts_uri, folder.name, config)
    created = datetime.now(UTC)
    return RunRecord(
        name=folder.name, config=config, created=created, folder=str(folder), tracked=tracked, **known
    ).save()


def execute(place: Place, record: RunRecord, started: float) -> Outcome:
    """Run the steps that have no output yet; `started`: when the command began (`time.monotonic`).

    Whatever ends it, the record says so, and executing it again goes on from there. BusyError while another process
    is at it.
    """
    with held(place, record):
        record, given = _hand_over(place, record)
        return follow(record, given, started)


def submit(place: Place, record: RunRecord) -> tuple[RunRecord, dict[str, str]]:
    """Hand a run to its stack, with what it has already; a local stack has run it when this returns."""
    with held(place, record):
        return _hand_over(place, record)


def _hand_over(place: Place, record: RunRecord) -> tuple[RunRecord, dict[str, str]]:
    activate(place, record.stack)
    given = record.given | outputs_of(record)
    record = record.next_attempt()
    log_to_file(record.path / "log.txt")
    with _state_kept(record), understood():
        set_status(record.tracked, "RUNNING")
        options = pipeline_options(record.config)
        submitted = alignment.with_options(run_name=record.attempts[-1], execution_mode=_mode(), **options)
        submitted(record.config, _request(place, record, given))
    return record, given


def _mode() -> ExecutionMode:
    """A failed step ends the others, where the orchestrator can do that; Kubeflow Pipelines cannot."""
    supported = Client().active_stack.orchestrator.supported_execution_modes
    return ExecutionMode.FAIL_FAST if ExecutionMode.FAIL_FAST in supported else ExecutionMode.CONTINUE_ON_FAILURE


def follow(record: RunRecord, given: dict[str, str], started: float) -> Outcome:
    """Wait for a submitted run; its report is here then. Ctrl-C ends it on a cluster too."""
    with _state_kept(record):
        if on_cluster():
            watch(record.attempts[-1])
    if record.state != "done":
        _tell(record, "FINISHED")
    outcome = outcome_of(record, given, time.monotonic() - started)
    if outcome.evaluated is None:
        return outcome
    return outcome.model_copy(update={"evaluated": brought_here(record.config, outcome.evaluated)})


@contextmanager
def _state_kept(record: RunRecord) -> Iterator[None]:
    """Whatever ends the run meanwhile, its record and MLflow say so, and no pod is left; else it is out of sight."""
    try:
        yield
    except (KeyboardInterrupt, RunInterruptedException) as signal:
        if on_cluster():
            cancel(record.attempts[-1])
        _note(record, "KILLED", state="interrupted")
        raise KeyboardInterrupt from signal
    except (BusyError, OutOfSightError):
        raise  # the run is another's to tell of, or goes on
    except PreemptedError:
        _note(record, "KILLED", state="interrupted")
        raise
    except BaseException as error:
        _note(record, "FAILED", state="failed", error=f"{type(error).__name__}: {error}")
        raise


def _note(record: RunRecord, status: str, **changes: object) -> None:
    """Say how the attempt ended, in its record and in MLflow; a disk that takes no more must not hide why."""
    with suppress(OSError):
        record.changed(**changes)
    _tell(record, status)


def attach(place: Place, record: RunRecord, started: float) -> Outcome:
    """Wait for a run that a cluster is still at; one that is done has ended at once."""
    activate(place, record.stack)
    return follow(record, record.given, started)


def refreshed(place: Place, record: RunRecord) -> RunRecord:
    """The record with what has become meanwhile of a run that was handed to a cluster; only `done` is final.

    A run that ended here, because its command lost sight of it or was stopped, may go on there.
    """
    if record.stack is None or record.state == "done":
        return record
    activate(place, record.stack)
    status = state_of(record.attempts[-1]) if record.attempts and on_cluster() else None
    if status is None:  # it is this machine's, or is being handed over, or that broke off
        at_work = record.process_lives or holder_of(record.training) is not None
        broke_off = record.state == "running" and not at_work
        return record.changed(state="interrupted") if broke_off else record
    if status.is_successful:
        _tell(record, "FINISHED")
        return outcome_of(record, record.given, 0.0).record
    if record.state == "running" and status.is_finished:
        stopped = status == ExecutionStatus.STOPPED
        _tell(record, "KILLED" if stopped else "FAILED")
        error = "" if stopped else f"failed on {record.stack}"
        return record.changed(state="interrupted" if stopped else "failed", error=error)
    if record.state != "running" and not status.is_finished and status not in NOT_AT_WORK:
        _tell(record, "RUNNING")
        return record.changed(state="running", error="")
    return record


def _tell(record: RunRecord, status: str) -> None:
    """Note in MLflow how the attempt ended; a server that is away must not hide that."""
    from mlflow.exceptions import MlflowException

    try:
        set_status(record.tracked, status)
    except MlflowException as error:
        logging.getLogger(__name__).warning("MLflow could not be told that the run is %s (%s)", status, error)


def _request(place: Place, record: RunRecord, given: dict[str, str]) -> Request:
    config = record.config
    weights = fingerprint.combine(
        fingerprint.of_source(config.model.source, "model"),
        *(fingerprint.of_source(reward.source, "reward") for reward in config.all_rewards.values()),
    )
    scores = [fingerprint.of_source(source, "score") for source in config.evaluation.score_sources]
    embeddings = fingerprint.combine(
        weights,
        config.model.model_dump_json(include={"family", "max_sequence_length"}),
        fingerprint.of_code("srpo.embedding"),
    )
    return Request(
        run_dir=record.folder,
        embeddings_dir=str(place.embeddings / embeddings),
        scores_dir=str(place.scores),
        prompts=fingerprint.of_data(config),
        fingerprint=fingerprint.combine(weights, *scores, fingerprint.of_code("srpo.hub")),
        tracked=record.tracked,
        until=record.steps[-1],
        continues=str(record.continued_training) if record.continues else None,
        words=record.words,
        given=given,
    )
