"""What a finished run has to show, read back from ZenML and from the durable copy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zenml.client import Client
from zenml.enums import ExecutionStatus

from pipelines.runs import RunRecord
from srpo.artifacts import Evaluated, Registered, Trained
from srpo.config import RunConfig
from srpo.durable import mirror_of
from srpo.steps import STEPS
from srpo.strict import Strict
from steps.own_call import SECONDS

NODES = "train_nodes"
"""The step that trains over nodes; `train` then only takes what it has made."""
MANIFESTS = ("trained", "evaluated", "registered")


class StepOutcome(Strict):
    """What became of a step."""

    name: str
    status: str
    """completed, cached or given."""
    seconds: float = 0.0
    """Inside the step's own call into srpo; of a training over nodes, of its pods."""


class Outcome(Strict):
    """What a finished run has to show."""

    record: RunRecord
    steps: tuple[StepOutcome, ...]
    seconds: float
    """Wall time of this attempt's pipeline, from the set-up of the stack to the last step."""
    trained: Trained | None = None
    evaluated: Evaluated | None = None
    registered: Registered | None = None

    @property
    def overhead(self) -> float:
        """Seconds spent outside the steps' own calls."""
        return self.seconds - sum(step.seconds for step in self.steps)


def outcome_of(record: RunRecord, given: dict[str, str], seconds: float) -> Outcome:
    """Read the last attempt's steps and manifests back from ZenML."""
    run = Client().get_pipeline_run(record.attempts[-1])
    steps = []
    for name in STEPS:
        if name in run.steps:
            step = run.steps[name]
            status = "cached" if step.status == ExecutionStatus.CACHED else "completed"
            steps.append(StepOutcome(name=name, status=status, seconds=_seconds(run.steps, name)))
        elif STEPS[name].output in given:
            steps.append(StepOutcome(name=name, status="given"))
    outputs = given | outputs_of(record)
    manifests = {name: Client().get_artifact_version(outputs[name]).load() for name in MANIFESTS if name in outputs}
    verdict = manifests["evaluated"].verdict if "evaluated" in manifests else ""
    record = record.changed(state="done", verdict=verdict)
    return Outcome(record=record, steps=tuple(steps), seconds=seconds, **manifests)


def _seconds(steps: Mapping[str, Any], name: str) -> float:
    """Time of one of a run's steps; 0 where it was taken from the cache."""
    if name == "train" and (nodes := steps.get(NODES)) and nodes.start_time and nodes.end_time:
        return float((nodes.end_time - nodes.start_time).total_seconds())
    return 0.0 if steps[name].status == ExecutionStatus.CACHED else float(steps[name].run_metadata[SECONDS])


def brought_here(config: RunConfig, evaluated: Evaluated) -> Evaluated:
    """The report in this working folder, from its durable copy if a pod has written it."""
    mirror = mirror_of(config.storage)
    evaluated = mirror.here(evaluated)
    mirror.fetch(Path(evaluated.report_json).parent)
    return evaluated


def outputs_of(record: RunRecord) -> dict[str, str]:
    """Outputs of all steps that any attempt of a run has finished: name -> id of the ZenML artifact version."""
    found: dict[str, str] = {}
    for attempt in record.attempts:
        for run in Client().list_pipeline_runs(name=attempt, hydrate=True):
            for step in run.steps.values():
                if step.status.is_successful:
                    found |= {name: str(versions[0].id) for name, versions in step.outputs.items()}
    return found
