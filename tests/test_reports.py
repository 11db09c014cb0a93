"""`compare` and `study` as people call them, on a run of the pipeline, its registered version and its pictures."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.reports import find_entries
from srpo import registry
from srpo.registry import load_evaluation
from srpo.report.schema import Curves, Report
from tests.evaluation.synthetic import make_report, write_synthetic
from tests.runs import call


@pytest.fixture(autouse=True)
def challenger(finished: Outcome) -> None:
    """The run's own version, whatever other tests of this process have registered since."""
    assert finished.registered
    client = MlflowClient(finished.record.tracked.uri)
    client.set_registered_model_alias(finished.registered.name, "challenger", finished.registered.version)


def report_in(folder: Path) -> Report:
    return Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))


def test_a_run_keeps_its_report_in_mlflow_with_pictures_and_a_table(finished: Outcome) -> None:
    tracked = finished.record.tracked
    client = MlflowClient(tracked.uri)
    names = {file.path for file in client.list_artifacts(tracked.run_id, "evaluation")}
    assert {f"evaluation/{name}" for name in ("report.html", "report.json", "images", "metrics.json")} <= names
    (shown,) = json.loads(client.get_run(tracked.run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown == {"path": "evaluation/metrics.json", "type": "table"}


def test_a_run_by_name_by_version_by_mlflow_id_and_by_file_is_the_same_model(
    finished: Outcome, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished.record.name
    file = finished.record.path / "evaluation" / "report.json"
    names = [
        f"{run}#base",
        run,
        "shapes@challenger",
        "models:/shapes/1",
        finished.record.tracked.run_id,
        f"{file}#candidate",
    ]
    assert call("compare", *names, "--out", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "out" / "report.html") in shown.replace("\n", "")
    report = report_in(tmp_path / "out")
    assert [model.label for model in report.models] == [*names[:-1], f"{run}#candidate"]
    original = report_in(file.parent).metrics
    for name, row in report.metrics.items():  # no gate decides here, so less has to change to be seen
        assert row.model_copy(update={"detectable": None}) == original[name].model_copy(update={"detectable": None})
        before = original[name].detectable
        assert (row.detectable is None) == (before is None)
        assert row.detectable is None or row.detectable < before
    assert all(contrast.metrics == report.metrics for contrast in report.contrasts)
    assert any(image.kept for image in report.images)
    assert call("compare", f"{run}#base", run) == 0
    default = place.root / "comparisons" / f"{run}+base--{run}"
    assert (default / "report.html").is_file()
    assert call("compare", str(default), run, "--out", str(tmp_path / "again")) == 0


def test_a_run_that_took_its_report_from_an_earlier_one_is_found(
    finished: Outcome, place: Place, tmp_path: Path
) -> None:
    """As `run --from register` does: MLflow alone keeps a copy for it."""
    folder = finished.record.path / "evaluation"
    before = report_in(folder)
    moved = folder.rename(tmp_path / "moved")
    try:
        (entry,) = find_entries(place, [finished.record.name], tmp_path, None)
    finally:
        moved.rename(folder)
    assert (entry.name, entry.report) == (finished.record.name, before)


def test_evaluate_writes_over_nothing_but_its_own_reports(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report(num_prompts=5)
    for name, found in {"evaluate": report.model_copy(update={"curves": Curves()}), "run": report}.items():
        write_synthetic(tmp_path / name, found, size=16)
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "report.html").write_text("mine")
    for name, problem in {
        "album": "holds report.html",
        "run": "holds a report of `run`",
        "evaluate": "nobody@champion",
    }.items():
        assert call("evaluate", "builtin:shapes", "nobody@champion", "--out", str(tmp_path / name)) == 42
        assert problem in capsys.readouterr().err.replace("\n", " ")


def test_folders_of_the_same_name_are_told_apart(place: Place, tmp_path: Path) -> None:
    folders = [tmp_path / part / "out" for part in ("a", "b", "b/c")]
    for folder in folders:
        write_synthetic(folder, make_report(num_prompts=5), size=16)
    assert call("compare", *map(str, folders), f"{folders[0]}#base", "--out", str(tmp_path / "all")) == 0
    assert [model.label for model in report_in(tmp_path / "all").models] == ["a/out", "b/out", "c/out", "a/out#base"]


def test_names_that_differ_in_their_punctuation_are_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bring(uri: str, reference: str, folder: Path) -> Path:
        write_synthetic(folder, make_report(num_prompts=5, seed="-.".index(reference[4])), size=16)
        return folder

    monkeypatch.setattr(registry, "load_evaluation", bring)
    names = ["flux.1@champion", "flux-1@champion", "flux.1@champion#base"]
    one, other, base = find_entries(Place(tmp_path / ".srpo"), names, tmp_path, "sqlite://")
    assert one.folder == base.folder != other.folder
    assert one.report.images != other.report.images


def test_a_path_may_hold_the_mark_of_a_label(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "take#2"
    write_synthetic(folder, make_report(num_prompts=5), size=16)
    names = [f"{folder}#base", str(folder), f"{folder}/report.json"]
    assert call("compare", *names[:2], "--out", str(tmp_path / "out")) == 0
    assert [model.label for model in report_in(tmp_path / "out").models] == ["take#2#base", "take#2"]
    assert [entry.label for entry in find_entries(place, names, tmp_path, None)] == ["base", "candidate", "candidate"]


def test_long_names_make_a_folder_of_their_own(place: Place, tmp_path: Path) -> None:
    folders = [tmp_path / f"{80 * 'ü'}{part}" for part in "abc"]
    for folder in folders:
        write_synthetic(folder, make_report(num_prompts=5), size=16)
    before = set((place.root / "comparisons").glob("*"))
    for other in folders[1:]:
        assert call("compare", str(folders[0]), str(other)) == 0
    assert len(set((place.root / "comparisons").glob("*")) - before) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "shapes@challenger"], "one model alone cannot be compared"),
        (["compare", "nope", "nope"], "names no registered model"),
        (["compare", ".", "."], "no report.json in"),
        (["study", "new", "nope", "nope"], "names no registered model"),
        (["study", "new", "a", "b", "--out", "study.txt"], "the page is one .html file"),
        (["study", "merge", "gone.json", "--key", "gone-key.json"], "is no key that `study new` wrote"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    finished: Outcome, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 42
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_study_of_a_run_ends_up_in_its_report(
    finished: Outcome, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page, client = finished.record.name, tmp_path / "study.html", MlflowClient(place.mlflow_uri)
    assert call("study", "new", f"{run}#base", "shapes@challenger", "--out", str(page)) == 0
    key = json.loads((tmp_path / "study-key.json").read_text())
    votes = [
        {"pair": pair["pair"], "question": "overall", "choice": pair["candidate"], "at": "2026-01-01T00:00:00Z"}
        for pair in key["pairs"]
    ]
    file = {"schema_version": 1, "study": key["study"], "voter": "v", "saved": "2026-01-01T00:00:00Z", "votes": votes}
    (tmp_path / "v.json").write_text(json.dumps(file))
    merge = ["study", "merge", str(tmp_path / "v.json"), "--key", str(tmp_path / "study-key.json")]
    capsys.readouterr()
    assert call(*merge, "--json") == 0
    assert json.loads(capsys.readouterr().out)["preferences"][0]["rate"] == 1
    for named in (str(finished.record.path), f"{finished.record.path}/evaluation", f"{run}#base"):
        assert call(*merge, "--report", named, "--json") == 0
        assert json.loads(capsys.readouterr().out)["preferences"][0]["rate"] == 1
    assert call(*merge, "--report", run) == 0
    logged = client.get_metric_history(finished.record.tracked.run_id, "study/overall/rate")
    assert [metric.value for metric in logged] == 4 * [1]
    assert "100%" in capsys.readouterr().out
    study = report_in(finished.record.path / "evaluation").study
    assert study
    assert (study.reference, study.candidate, study.num_pairs) == ("base", "candidate", len(votes))
    assert load_evaluation(place.mlflow_uri, "shapes@challenger", tmp_path)
    assert report_in(tmp_path / "evaluation").study == study
    assert call(*merge, "--report", "shapes@challenger") == 42


def test_folders_of_generate_make_a_study(place: Place, tmp_path: Path) -> None:
    for name, options in {"plain": ["2"], "dark": ["2", "--prefix", "Dark"], "other": ["3"]}.items():
        made = ["--prompts", "a red ring on a blue background", "--out", str(tmp_path / name), "--num-steps", *options]
        assert call("generate", "--model", "builtin:shapes", *made) == 0
    plain, dark, other = (str(tmp_path / name) for name in ("plain", "dark", "other"))
    assert call("study", "new", plain, other, "--out", str(tmp_path / "study.html")) == 42
    assert call("study", "new", plain, dark, "--out", str(tmp_path / "study.html")) == 0
    assert (tmp_path / "study.html").is_file()
