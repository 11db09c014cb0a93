"""What is known of each run without asking ZenML: one `run.json` in its folder, rewritten whole at each change."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipelines.place import Place
from srpo.alone import alone_in, holder_of
from srpo.config import RunConfig
from srpo.errors import BusyError, ConfigError, first_problem
from srpo.files import write_atomic
from srpo.steps import STEPS
from srpo.strict import Strict
from srpo.tracking import TrackedRun

State = Literal["running", "done", "failed", "interrupted"]
FILE, TRAINING = "run.json", "train"
IGNORED = ("process", "process_started")
ATTEMPT = "-attempt-"
"""Between a run's name and the number of an attempt after the first, in ZenML's name of it."""


class RunRecord(Strict):
    """One run, over all its attempts."""

    schema_version: Literal[1] = 1
    """Form of this file."""
    name: str
    config: RunConfig
    created: datetime
    folder: str
    """Everything that the run writes, apart from what runs share."""
    tracked: TrackedRun
    """Its MLflow run."""
    steps: tuple[str, ...]
    """The steps asked for, in order."""
    stack: str | None = None
    """The registered ZenML stack; None: the local one."""
    words: str | None = None
    """Hash of the content of `preference.words_file`, if there is one."""
    given: dict[str, str] = Field(default_factory=dict)
    """Outputs taken from an earlier run: name -> id of the ZenML artifact version."""
    continues: str | None = None
    """The run whose budget ended its training, from where this one goes on."""
    state: State = "running"
    attempts: tuple[str, ...] = ()
    """Names of the ZenML runs: one for the start and one for each resumption."""
    error: str = ""
    """Why the latest attempt failed."""
    verdict: str = ""
    told: bool = False
    """Whether those who asked for it have heard how it ended."""

    @model_validator(mode="before")
    @classmethod
    def without_a_process(cls, data: Any) -> Any:
        """Records of version 1 may name one, which its folder's lock tells better."""
        return {key: data[key] for key in data if key not in IGNORED} if isinstance(data, dict) else data

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder)

    @property
    def training(self) -> Path:
        """What its training writes."""
        return self.path / TRAINING

    @property
    def continued_training(self) -> Path | None:
        """What the training that this one goes on from has written."""
        return self.path.with_name(self.continues) / TRAINING if self.continues else None

    @property
    def actual_state(self) -> State:
        """`running` is believed only while a process is at it, and of a cluster's until that is asked.

        A training outlives a command that was killed.
        """
        if self.stack or self.state != "running" or self.process_lives or holder_of(self.training):
            return self.state
        return "interrupted"

    @property
    def process_lives(self) -> bool:
        """Whether a process of this machine is at it."""
        return holder_of(self.path) is not None

    def save(self) -> Self:
        """Write the record, whole or not at all."""
        write_atomic(self.path / FILE, self.model_dump_json(indent=2))
        return self

    def changed(self, **changes: object) -> Self:
        """The record with some fields changed, saved."""
        return self.model_copy(update=changes).save()

    def next_attempt(self) -> Self:
        """One more attempt."""
        number = len(self.attempts) + 1
        attempt = self.name if number == 1 else f"{self.name}{ATTEMPT}{number}"
        return self.changed(attempts=(*self.attempts, attempt), state="running", error="")


def new_folder(place: Place, config: RunConfig) -> Path:
    """A folder for a new run, named after the experiment and the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for name in (f"{config.name}-{stamp}", *(f"{config.name}-{stamp}-{count}" for count in range(2, 100))):
        with suppress(FileExistsError):
            (place.runs / name).mkdir(parents=True)
            return place.runs / name
    raise ConfigError(f"99 runs named {config.name} have begun in this second; start them one after the other")


def load_run(place: Place, name: str) -> RunRecord:
    """A run by its name; ConfigError says which there are, or that it is only the copy of one."""
    path = place.runs / name / FILE
    if not path.is_file():
        known = ", ".join(record.name for record in load_runs(place)) or "none"
        raise ConfigError(f"no run named {name!r} in {place.runs}; runs there: {known}")
    try:
        record = RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError(
            f"{path} was not written by this version of srpo ({first_problem(error)}); start a new run"
        ) from None
    if record.path.resolve() != path.parent.resolve():
        raise ConfigError(
            f"run {name} was made in {record.folder} and refers to what is there, not to its copy in {path.parent}; "
            "bring the whole .srpo folder back there, or begin a new one"
        )
    return record


@contextmanager
def held(place: Place, record: RunRecord) -> Iterator[None]:
    """Nobody else is at a run meanwhile. BusyError where somebody is, or has been since the record was read."""
    with alone_in(record.path):
        if load_run(place, record.name).attempts != record.attempts:
            raise BusyError(f"another process has just gone on with {record.name}; look at it, then run this again")
        yield


def load_runs(place: Place) -> list[RunRecord]:
    """All runs that this version can read, newest first."""
    records = []
    for path in place.runs.glob(f"*/{FILE}"):
        with suppress(ConfigError):  # of another version, damaged, or a copy; `unreadable_runs` names it
            records.append(load_run(place, path.parent.name))
    return sorted(records, key=lambda record: (record.created, record.name), reverse=True)


def unreadable_runs(place: Place) -> list[str]:
    """Names of the runs whose record this version cannot read here."""
    readable = {record.name for record in load_runs(place)}
    return sorted(path.parent.name for path in place.runs.glob(f"*/{FILE}") if path.parent.name not in readable)


def needed_before(step: str) -> Iterator[str]:
    """The outputs that must exist for a run to start at `step`."""
    for earlier in STEPS:
        if earlier == step:
            return
        yield STEPS[earlier].output
