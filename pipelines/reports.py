"""What `compare` and `study` are given: runs, registered models, MLflow runs or report files, found as folders."""

import re
from pathlib import Path

from pipelines.place import Place
from pipelines.runs import FILE, load_run
from srpo.errors import ConfigError
from srpo.evaluation.entries import Entry, load_entry
from srpo.evaluation.report import REPORT_HTML, REPORT_JSON
from srpo.evaluation.schema import Study
from srpo.tracking import Tracker

MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


def find_entry(place: Place, reference: str, scratch: Path, uri: str | None) -> Entry:
    """The model that `REFERENCE` or `REFERENCE#LABEL` names; what the MLflow store `uri` keeps comes into `scratch`."""
    plain, _, label = reference.partition("#")
    folder = _folder(place, plain, scratch, uri)
    return load_entry(_name(plain, folder) + (f"#{label}" if label else ""), folder, label or None)


def log_again(place: Place, reference: str, study: Study, folder: Path) -> None:
    """Bring MLflow's copy of a run's report up to date, and the study's rates as metrics; nothing for other folders."""
    if not (place.runs / reference / FILE).is_file():
        return
    tracker = Tracker(load_run(place, reference).tracked)
    for name in (REPORT_JSON, REPORT_HTML):
        tracker.log_artifact(folder / name, "evaluation")
    shown = ("rate", "lower", "upper")
    metrics = {f"study/{row.question}/{part}": getattr(row, part) for row in study.preferences for part in shown}
    tracker.log_metrics(metrics, study.num_voters)


def _folder(place: Place, reference: str, scratch: Path, uri: str | None) -> Path:
    """Where the report lies."""
    path, run = Path(reference).expanduser(), place.runs / reference
    if path.name == REPORT_JSON or path.is_dir():
        return path.parent if path.name == REPORT_JSON else path
    if run.is_dir():
        return run / "evaluation"
    if uri is None:
        raise ConfigError(f"{reference} is no report, folder or run, and nothing is registered here; see `status`")
    from srpo.registry import load_evaluation, run_evaluation

    target = scratch / re.sub(r"\W+", "-", reference)
    target.mkdir()
    find = run_evaluation if MLFLOW_RUN.fullmatch(reference) else load_evaluation
    return find(uri, reference, target)


def _name(reference: str, folder: Path) -> str:
    """What people call it: a run's name instead of the path to its report."""
    if not Path(reference).exists():
        return reference
    folder = folder.resolve()
    return folder.parent.name if folder.name == "evaluation" else folder.name
