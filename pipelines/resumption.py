"""Which run `run --resume` executes: the one it names, or a new one that goes on from where a budget ended that one.

A run that is done has a report and perhaps a version, which stay as they are; more training makes others.
"""

from zenml.client import Client

from pipelines.cluster.remote import on_cluster
from pipelines.execute import begun, refreshed
from pipelines.outcome import outputs_of
from pipelines.place import Place
from pipelines.runs import RunRecord, held, load_run, needed_before
from pipelines.stacks import activate
from srpo.alone import refuse_busy
from srpo.artifacts import Trained
from srpo.config import RunConfig, with_overrides
from srpo.errors import BusyError, ConfigError
from srpo.files import written_in
from srpo.plan import make_plan
from srpo.same_run import HOW


def to_resume(place: Place, name: str, overrides: tuple[str, ...] = ()) -> RunRecord:
    """The run to be executed, or watched. `overrides` may change what decides no number of a run but by rounding.

    Raises ConfigError for a run that is done, BusyError for one that somebody else is at.
    """
    allowed = ("resources.", *(f"{section}.{name}=" for section, names in HOW.items() for name in sorted(names)))
    if others := [each for each in overrides if not each.startswith(allowed)]:
        raise ConfigError(
            f"--resume goes on with the run's own settings; only {', '.join(each.strip('.=') for each in allowed)} may "
            f"change, got {others[0]!r}"
        )
    record = _at_rest(place, name, overrides)
    config = with_overrides(record.config, overrides, f"run {name}")
    trained = trained_by(place, record) if overrides or record.state == "done" else None
    if trained and _can_go_on(trained, config):
        _check(place, record.model_copy(update={"config": config}))
        return continued(place, record, config)
    if record.state == "done" and not record.stack:  # else nobody may have seen yet what it has made
        raise ConfigError(f"run {name} is done{_instead(name, trained)}")
    _check(place, record.model_copy(update={"config": config}))
    if not overrides:
        return record
    with held(place, record):
        return record.changed(config=config)


def _at_rest(place: Place, name: str, overrides: tuple[str, ...]) -> RunRecord:
    """The record as it is now; a cluster may still be at it, but not another process of this machine."""
    record = load_run(place, name)
    if record.stack:
        record = refreshed(place, record)
        if record.state == "running" and overrides:
            raise BusyError(f"run {name} is at work on {record.stack}; wait until it ends to change its resources")
        if on_cluster():
            return record
    refuse_busy(record.path)
    refuse_busy(record.training)
    return load_run(place, name)  # as the process left it that may just have ended


def _can_go_on(trained: Trained, config: RunConfig) -> bool:
    most = config.resources.max_gpu_hours
    return trained.out_of_budget and (most is None or most > trained.gpu_hours)


def _instead(name: str, trained: Trained | None) -> str:
    if trained and trained.out_of_budget:
        return f": {trained.stopped}; go on with more:  run --resume {name} --set resources.max_gpu_hours=HOURS"
    return "; start a new one, or use --from STEP to repeat a part with its results"


def _check(place: Place, record: RunRecord) -> None:
    """What can be known before a run of this machine; what a cluster has was checked when the run began."""
    if not record.stack:
        make_plan(record.config, place.root, record.steps, written_in(record.path))


def trained_by(place: Place, record: RunRecord) -> Trained | None:
    """What the training of a run has come to, if it has ended."""
    activate(place, record.stack)
    outputs = outputs_of(record)
    return Client().get_artifact_version(outputs["trained"]).load() if "trained" in outputs else None


def continued(place: Place, earlier: RunRecord, config: RunConfig) -> RunRecord:
    """Record a run that goes on where the budget ended the training of another, which keeps its report and version."""
    active = activate(place, earlier.stack)
    outputs = earlier.given | outputs_of(earlier)
    return begun(
        place,
        active,
        config,
        steps=earlier.steps[earlier.steps.index("train") :],
        stack=earlier.stack,
        words=earlier.words,
        given={name: outputs[name] for name in needed_before("train")},
        continues=earlier.name,
    )
