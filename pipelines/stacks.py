"""The local ZenML stack, made on first use inside the working folder.

Orchestrator and artifact store are local; MLflow's experiment tracker and model registry live in one SQLite file. The
steps do not use ZenML's tracker hooks (`experiment_tracker=`): those open a new MLflow run for every ZenML run, whereas
a resumed run continues its own. The stack says where MLflow is; `srpo.tracking` logs there.
"""

import logging
from pathlib import Path

from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.utils.source_utils import set_custom_source_root

from pipelines.place import Place

NAME = "srpo-local"
CODE_ROOT = Path(__file__).parent.parent


def activate_local_stack(place: Place) -> str:
    """Make the stack if it is not there, make it the active one, and return its MLflow tracking URI."""
    log_to_file(place.logs / "setup.txt")
    set_custom_source_root(str(CODE_ROOT))
    client = Client()
    if NAME not in {stack.name for stack in client.list_stacks(name=NAME)}:
        _make_local_stack(client, place)
    client.activate_stack(NAME)
    tracker = client.active_stack.experiment_tracker
    assert tracker is not None
    return str(tracker.config.tracking_uri)


def _make_local_stack(client: Client, place: Place) -> None:
    components = {
        StackComponentType.ORCHESTRATOR: ("local", {}),
        StackComponentType.ARTIFACT_STORE: ("local", {"path": str(place.artifacts)}),
        StackComponentType.EXPERIMENT_TRACKER: ("mlflow", {"tracking_uri": place.mlflow_uri}),
        StackComponentType.MODEL_REGISTRY: ("mlflow", {}),
    }
    for kind, (flavor, configuration) in components.items():
        client.create_stack_component(NAME, flavor, kind, configuration)
    client.create_stack(NAME, dict.fromkeys(components, NAME))


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
