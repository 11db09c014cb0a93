"""The working folder `.srpo/`: every file that a run writes lies in it, and nothing outside it is touched."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CODE = Path(__file__).parents[1]
"""Root of the checkout, where `configs/` and `infra/` lie."""
STACKS = CODE / "infra" / "stacks"
SQLITE = "sqlite:///"
ZENML = "ZENML_CONFIG_PATH=$PWD/.srpo/zenml zenml"
"""How a person calls ZenML's own command line, so that it finds what `Place.environment` makes srpo find."""


@dataclass(frozen=True)
class Place:
    """Where things lie inside a working folder."""

    root: Path

    @property
    def runs(self) -> Path:
        """One folder per run: config, training output, evaluation, log."""
        return self.root / "runs"

    @property
    def embeddings(self) -> Path:
        """Prompt embeddings, shared by the runs that need the same."""
        return self.root / "embeddings"

    @property
    def scores(self) -> Path:
        """Scores and thumbnails of every image that was evaluated."""
        return self.root / "scores"

    @property
    def comparisons(self) -> Path:
        """Reports over models that were evaluated apart, unless they were to lie elsewhere."""
        return self.root / "comparisons"

    @property
    def logs(self) -> Path:
        """Tracebacks of unexpected errors."""
        return self.root / "logs"

    @property
    def artifacts(self) -> Path:
        """ZenML's local artifact store: manifests and reports."""
        return self.root / "artifacts"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's tracking and registry store."""
        return self.root / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of the MLflow store."""
        return f"{SQLITE}{self.mlflow_database}"

    @property
    def mlflow_artifacts_uri(self) -> str:
        """Where MLflow keeps files."""
        return (self.root / "mlartifacts").as_uri()

    def prepare(self, *inputs: str) -> None:
        """Point ZenML, MLflow and Hugging Face into the folder; call it before importing any of them.

        `inputs`: where what is read comes from. Only `hf://` opens the hub, with the user's own cache and login.
        """
        online = any(source.startswith("hf://") for source in inputs)
        os.environ.update(self.environment() | ({} if online else self.offline()))

    def recorded_inputs(self, run: str) -> tuple[str, ...]:
        """The texts in a recorded run's config, all that it reads among them; none if the record is unreadable.

        Read without importing what `prepare` must come before.
        """
        try:
            record = json.loads((self.runs / run / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ()
        return tuple(_texts(record.get("config") if isinstance(record, dict) else None))

    def offline(self) -> dict[str, str]:
        """Nothing of Hugging Face reaches the network or leaves the folder."""
        return {"HF_HOME": str(self.root / "huggingface"), "HF_HUB_OFFLINE": "1"}

    def environment(self) -> dict[str, str]:
        """Stores inside the folder, no analytics, quiet logs."""
        return {
            "ZENML_CONFIG_PATH": str(self.root / "zenml"),
            "ZENML_REPOSITORY_PATH": str(self.root),  # none: else it activates stacks in a `.zen` of the user's
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
            "ZENML_ENABLE_RICH_TRACEBACK": "false",
            "ZENML_DISABLE_STEP_LOGS_STORAGE": "true",
            "ZENML_DISABLE_PIPELINE_LOGS_STORAGE": "true",
            "AUTO_OPEN_DASHBOARD": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "GIT_PYTHON_REFRESH": "quiet",
            "MPLCONFIGDIR": str(self.root / "matplotlib"),
            "TRITON_CACHE_DIR": str(self.root / "triton"),
        }


def here() -> Place:
    """The working folder of the current directory."""
    return Place(Path.cwd().resolve() / ".srpo")


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
