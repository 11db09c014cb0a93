"""What `compare` and `study` are given: runs, registered models, MLflow runs or report files, found as folders."""

import re
from pathlib import Path

from pipelines.place import Place
from srpo.errors import ConfigError
from srpo.evaluation.entries import Entry, load_entry
from srpo.evaluation.report import REPORT_JSON

MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


def find_entry(place: Place, reference: str, scratch: Path) -> Entry:
    """The model that `REFERENCE` or `REFERENCE#LABEL` names; what MLflow keeps is brought into `scratch`."""
    plain, _, label = reference.partition("#")
    folder = _folder(place, plain, scratch)
    return load_entry(_name(plain, folder) + (f"#{label}" if label else ""), folder, label or None)


def _folder(place: Place, reference: str, scratch: Path) -> Path:
    """Where the report lies."""
    path, run = Path(reference).expanduser(), place.runs / reference
    if path.name == REPORT_JSON or path.is_dir():
        return path.parent if path.name == REPORT_JSON else path
    if run.is_dir():
        return run / "evaluation"
    if not place.mlflow_database.exists():
        raise ConfigError(f"{reference} is no report, folder or run, and nothing is registered here; see `status`")
    from srpo.registry import load_evaluation, run_evaluation

    target = scratch / re.sub(r"\W+", "-", reference)
    target.mkdir()
    find = run_evaluation if MLFLOW_RUN.fullmatch(reference) else load_evaluation
    return find(place.mlflow_uri, reference, target)


def _name(reference: str, folder: Path) -> str:
    """What people call it: a run's name instead of the path to its report."""
    if not Path(reference).exists():
        return reference
    folder = folder.resolve()
    return folder.parent.name if folder.name == "evaluation" else folder.name
