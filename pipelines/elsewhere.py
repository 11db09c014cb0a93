"""Runs that other machines have handed to a cluster: their records, made from what ZenML's server knows of them."""

import re
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from zenml.client import Client
from zenml.utils.pagination_utils import depaginate

from pipelines.alignment import Request, alignment
from pipelines.cluster.remote import on_cluster, state_of
from pipelines.place import Place
from pipelines.runs import ATTEMPT, RunRecord, load_runs
from pipelines.stacks import activate
from srpo.config import RunConfig
from srpo.steps import STEPS


def adopt(place: Place, stack: str) -> None:
    """Record what other machines have run on a registered stack, further attempts too; not what other versions ran.

    What a run has made lies in its durable copy, so that it can be watched, resumed and shown from here; not that of a
    stack whose steps run on the machine that starts them.
    """
    activate(place, stack)
    if not on_cluster():
        return
    client = Client()
    found = depaginate(
        client.list_pipeline_runs, pipeline=alignment.name, stack=client.active_stack_model.id, sort_by="asc:created"
    )
    attempts: dict[str, list[str]] = {}
    for run in found:
        attempts.setdefault(re.sub(f"{ATTEMPT}\\d+$", "", run.name), []).append(run.name)
    known = {record.name: record for record in load_runs(place)}
    for name, names in attempts.items():
        if name in known and len(names) > len(known[name].attempts):
            known[name].changed(attempts=tuple(names), state="running", error="")
        elif not (place.runs / name).exists():
            with suppress(ValidationError, KeyError):
                _record(place, name, stack, names, client.get_pipeline_run(names[0])).save()


def at_work(place: Place, stack: str, model_name: str) -> RunRecord | None:
    """The run, of any machine, that a cluster is at for a registered model: such as that of a pod which was replaced.

    None of a stack whose steps run on the machine that starts them: there is nothing to watch it by.
    """
    adopt(place, stack)
    if not on_cluster():
        return None
    ours = (each for each in load_runs(place) if (each.stack, each.config.registry.model_name) == (stack, model_name))
    return next((run for run in ours if run.state == "running" and _goes_on(run)), None)


def _goes_on(run: RunRecord) -> bool:
    """Whether ZenML's server says so; what it does not know of yet may be being handed over from here."""
    status = state_of(run.attempts[-1]) if run.attempts else None
    return run.process_lives if status is None else not status.is_finished


def _record(place: Place, name: str, stack: str, attempts: list[str], first: Any) -> RunRecord:
    """`first`: the first attempt, whose parameters are all that the machine which started it has written down."""
    config = RunConfig.model_validate(first.config.parameters["config"])
    request = Request.model_validate(first.config.parameters["request"])
    steps = list(STEPS)[: list(STEPS).index(request.until) + 1]
    return RunRecord(
        name=name,
        config=config,
        created=first.created.replace(tzinfo=UTC),  # which ZenML leaves out
        folder=str(place.runs / name),
        tracked=request.tracked,
        steps=tuple(step for step in steps if STEPS[step].output not in request.given),
        stack=stack,
        words=request.words,
        given=request.given,
        continues=Path(request.continues).parent.name if request.continues else None,
        attempts=tuple(attempts),
    )
