"""The working folder `.srpo/`: every file that a run writes lies in it, and nothing outside it is touched."""

import json
import os
from dataclasses import dataclass
from pathlib import Path


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
        return f"sqlite:///{self.mlflow_database}"

    @property
    def mlflow_artifacts_uri(self) -> str:
        """Where MLflow keeps files."""
        return (self.root / "mlartifacts").as_uri()

    def prepare(self, *sources: str) -> None:
        """Point ZenML, MLflow and Hugging Face into the folder; call it before importing any of them.

        `sources`: where weights come from. Only `hf://` opens the hub, with the user's own cache and login.
        """
        online = any(source.startswith("hf://") for source in sources)
        os.environ.update(self.environment() | ({} if online else self.offline()))

    def recorded_sources(self, run: str) -> tuple[str, ...]:
        """Sources of a recorded run, read without importing what `prepare` must come before; none if unreadable."""
        try:
            config = json.loads((self.runs / run / "run.json").read_text(encoding="utf-8"))["config"]
            rewards = [config["reward"], *config.get("rewards", {}).values()]
            scores = config["evaluation"].get("scores", {}).values()  # runs of older versions have none
            held_out = (score.get(part) for score in scores for part in ("source", "companion"))
            found = (config["model"]["source"], *(reward["source"] for reward in rewards), *filter(None, held_out))
            return tuple(map(str, found))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return ()

    def offline(self) -> dict[str, str]:
        """Nothing of Hugging Face reaches the network or leaves the folder."""
        return {"HF_HOME": str(self.root / "huggingface"), "HF_HUB_OFFLINE": "1"}

    def environment(self) -> dict[str, str]:
        """Stores inside the folder, no analytics, quiet logs."""
        return {
            "ZENML_CONFIG_PATH": str(self.root / "zenml"),
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
        }


def here() -> Place:
    """The working folder of the current directory."""
    return Place(Path.cwd().resolve() / ".srpo")
