"""What `compare` and `study` are given: runs, registered models, MLflow runs or report files, found as folders."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.place import Place
from pipelines.runs import FILE, load_run
from srpo.durable import mirror_of
from srpo.errors import ConfigError
from srpo.evaluation.entries import Entry, load_entry
from srpo.report.page import REPORT_HTML, REPORT_JSON
from srpo.report.schema import Study
from srpo.tracking import Tracker, connect
from srpo.wording import shortest_end

EVALUATION = "evaluation"
"""Folder of a run's report."""
MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


def find_entries(place: Place, references: Sequence[str], scratch: Path, uri: str | None) -> list[Entry]:
    """The models that `REFERENCE` or `REFERENCE#LABEL` name; what the MLflow store `uri` keeps comes into `scratch`."""
    split = [_split(reference) for reference in references]
    folders = [_folder(place, plain, scratch, uri) for plain, _, _ in split]
    homes = [_home(folder) for folder in folders]
    return [
        load_entry(_name(plain, home, homes) + hash_ + label, folder, label or None)
        for (plain, hash_, label), folder, home in zip(split, folders, homes, strict=True)
    ]


def log_again(place: Place, study: Study, folder: Path) -> None:
    """Bring all copies of a run's report up to date, and MLflow's metrics by the study; nothing for other folders."""
    run = folder.resolve().parent
    if folder.resolve() != place.runs.resolve() / run.name / EVALUATION or not (run / FILE).is_file():
        return
    record = load_run(place, run.name)
    mirror_of(record.config.storage).push(folder)
    if record.stack:
        from pipelines.stacks import activate

        activate(place, record.stack)  # with its server's credentials
    tracker = Tracker(record.tracked)
    for name in (REPORT_JSON, REPORT_HTML):
        tracker.log_artifact(folder / name, EVALUATION)
    shown = ("rate", "lower", "upper")
    metrics = {f"study/{row.question}/{part}": getattr(row, part) for row in study.preferences for part in shown}
    tracker.log_metrics(metrics, study.num_voters)


def _split(reference: str) -> tuple[str, str, str]:
    """What is named, `#` and the label of one of its models; a path that exists has none."""
    if "#" not in reference or Path(reference).expanduser().exists():
        return reference, "", ""
    return reference.rpartition("#")


def _folder(place: Place, reference: str, scratch: Path, uri: str | None) -> Path:
    """Where the report lies."""
    from srpo.registry import load_evaluation, run_evaluation
    from srpo.registry.lookup import has_report

    path, run = Path(reference).expanduser(), place.runs / reference
    if path.name == REPORT_JSON:
        return path.parent
    if path.is_dir():
        return path / EVALUATION if (path / EVALUATION / REPORT_JSON).is_file() else path
    if run.is_dir():
        folder, record = run / EVALUATION, load_run(place, reference)
        if not (folder / REPORT_JSON).exists():  # a pod has written it
            mirror_of(record.config.storage).fetch(folder)
        uri, reference = record.tracked.uri, record.tracked.run_id
        if (folder / REPORT_JSON).exists() or not has_report(connect(uri), reference):
            return folder  # else it is an earlier run's, which MLflow keeps for this one, too
    if uri is None:
        raise ConfigError(f"{reference} is no report, folder or run, and nothing is registered here; see `status`")

    target = scratch / hashlib.sha256(reference.encode()).hexdigest()
    target.mkdir(exist_ok=True)  # of the same model, another label
    find = run_evaluation if MLFLOW_RUN.fullmatch(reference) else load_evaluation
    return find(uri, reference, target)


def _home(folder: Path) -> Path:
    """What people call a report by: the folder of a run instead of that of its evaluation."""
    folder = folder.resolve()
    return folder.parent if folder.name == EVALUATION else folder


def _name(reference: str, home: Path, homes: Sequence[Path]) -> str:
    """The reference; of a path the shortest end that no other has."""
    return shortest_end(home, homes) if Path(reference).exists() else reference
