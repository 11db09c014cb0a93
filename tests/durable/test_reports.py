"""Reports that pods have written: compared on a machine that has not got them, and kept whole by a study."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import stacks
from pipelines.place import Place
from pipelines.reports import find_entries, log_again
from pipelines.runs import RunRecord
from srpo.config import RunConfig, StorageConfig
from srpo.durable import Mirror
from srpo.report.page import REPORT_HTML
from srpo.report.schema import Study
from srpo.tracking import open_run
from tests.durable.conftest import REMOTE
from tests.evaluation.synthetic import make_report, write_synthetic


@pytest.fixture
def place(node: Callable[[str], Mirror], tmp_path: Path) -> Place:
    """A machine that knows a run of a cluster, whose report is in the copy."""
    pod, place = node("pod"), Place(node("here").root)
    written = pod.root / "runs" / "far" / "evaluation"
    write_synthetic(written, make_report(), count=1)
    pod.push(written)
    config = RunConfig(storage=StorageConfig(remote=REMOTE))
    RunRecord(
        name="far",
        config=config,
        created="2026-01-01T00:00:00Z",
        folder=str(place.runs / "far"),
        tracked=open_run(f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "artifacts").as_uri(), "far", config),
        steps=("evaluate",),
        stack="srpo-kubernetes",
    ).save()
    return place


def test_a_run_is_compared_where_its_report_has_not_been(place: Place, tmp_path: Path) -> None:
    base, candidate = find_entries(place, ["far#base", "far"], tmp_path, None)
    assert (base.label, candidate.label) == ("base", "candidate")
    assert (place.runs / "far" / "evaluation" / REPORT_HTML).is_file()


def test_a_study_stays_when_the_report_is_brought_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And MLflow is told with the credentials of the run's stack."""
    activated = []
    monkeypatch.setattr(stacks, "activate", lambda _, stack: activated.append(stack))
    find_entries(place, ["far"], tmp_path, None)
    folder = place.runs / "far" / "evaluation"
    (folder / REPORT_HTML).write_text("with a study")
    study = Study(
        reference="base", candidate="candidate", confidence=0.95, num_pairs=0, num_voters=0, preferences=[], ballots=[]
    )
    log_again(place, study, folder)
    assert activated == ["srpo-kubernetes"]
    assert Mirror(REMOTE, place.root).fetch(folder)
    assert (folder / REPORT_HTML).read_text() == "with a study"
