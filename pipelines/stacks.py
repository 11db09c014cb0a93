"""The ZenML stack of a run: one that `stack up` registered, or the local one, made on first use in the working folder.

Orchestrator and artifact store are local; MLflow's experiment tracker and model registry live in one SQLite file. The
steps do not use ZenML's tracker hooks (`experiment_tracker=`): those open a new MLflow run for every ZenML run, whereas
a resumed run continues its own. The stack says where MLflow is; `srpo.tracking` logs there.
"""

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from zenml.client import Client
from zenml.enums import StackComponentType, StoreType
from zenml.utils.source_utils import set_custom_source_root

from pipelines.place import CODE, SQLITE, Place
from srpo.errors import ConfigError

NAME = "srpo-local"
"""Of the stack in the folder's own store; on a ZenML server, which others use too, the folder is named with it."""


class ActiveStack(NamedTuple):
    """What a run has to know of its stack."""

    tracking_uri: str
    mlflow_artifacts_uri: str | None
    """Where new experiments keep their files; None where the tracking server knows."""
    storage: str | None
    """Where the files of steps that share no disk last."""


def activate(place: Place, name: str | None) -> ActiveStack:
    """Make a registered stack the active one, or the local one if `name` is None. Raises ConfigError."""
    if name is None:
        return ActiveStack(activate_local_stack(place), place.mlflow_artifacts_uri, None)
    client = client_of(place)
    if name not in {stack.name for stack in client.list_stacks(name=name)}:
        raise ConfigError(f"ZenML has no stack {name}; `run_pipeline.py stack up NAME` registers one of infra/stacks")
    client.activate_stack(name)
    stack = client.active_stack
    tracker = stack.experiment_tracker
    if tracker is None or tracker.flavor != "mlflow":
        raise ConfigError(f"stack {name} has no experiment tracker of the flavor mlflow; runs are logged there")
    tracker.configure_mlflow()
    storage = storage_in(stack.artifact_store.path) if stack.orchestrator.config.is_remote else None
    return ActiveStack(str(tracker.config.tracking_uri), None, storage)


def client_of(place: Place) -> Client:
    """ZenML's client: of the server that ZENML_STORE_URL names, else of the folder's own store.

    The source of pipelines is the code of this checkout; what ZenML logs goes to a file.
    """
    log_to_file(place.logs / "setup.txt")
    set_custom_source_root(str(CODE))
    return Client()


def storage_in(artifacts: str) -> str:
    """Where the files of steps that share no disk last: in ZenML's artifact store, beside its own."""
    return f"{artifacts.rstrip('/')}/srpo"


def activate_local_stack(place: Place) -> str:
    """Make the stack if it is not there, make it the active one, and return its MLflow tracking URI.

    ConfigError where it is that of the folder that this one is a copy of.
    """
    client = client_of(place)
    shared = client.zen_store.type != StoreType.SQL
    name = f"{NAME}-{hashlib.sha256(str(place.root.resolve()).encode()).hexdigest()[:8]}" if shared else NAME
    if name not in {stack.name for stack in client.list_stacks(name=name)}:
        _make_local_stack(client, place, name)
    client.activate_stack(name)
    tracker = client.active_stack.experiment_tracker
    assert tracker is not None
    uri = str(tracker.config.tracking_uri)
    if Path(uri.removeprefix(SQLITE)).resolve() != place.mlflow_database.resolve():
        raise ConfigError(
            f"{place.root} is a copy, whose runs would be written into {uri.removeprefix(SQLITE)} and beside it; "
            "bring the whole folder back there, or begin a new one"
        )
    return uri


def _make_local_stack(client: Client, place: Place, name: str) -> None:
    components = {
        StackComponentType.ORCHESTRATOR: ("local", {}),
        StackComponentType.ARTIFACT_STORE: ("local", {"path": str(place.artifacts)}),
        StackComponentType.EXPERIMENT_TRACKER: ("mlflow", {"tracking_uri": place.mlflow_uri}),
        StackComponentType.MODEL_REGISTRY: ("mlflow", {}),
    }
    for kind, (flavor, configuration) in components.items():
        client.create_stack_component(name, flavor, kind, configuration)
    client.create_stack(name, dict.fromkeys(components, name))


class RunLog(logging.FileHandler):
    """The log file of the current run."""


def log_to_file(path: Path) -> None:
    """What ZenML, MLflow and others log goes to a file; the terminal belongs to the run's own progress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("", "mlflow", "alembic"):
        logger = logging.getLogger(name)
        for old in [old for old in logger.handlers if _replaced(old, name)]:
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _replaced(handler: logging.Handler, logger: str) -> bool:
    """Handlers of an earlier run and of ZenML and MLflow give way; those of a caller (a test, a notebook) stay."""
    return isinstance(handler, RunLog) or bool(logger) or type(handler).__module__.startswith("zenml")
