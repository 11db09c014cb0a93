"""What `run --resume` goes on with: the same run with other resources, or a new one where its budget ended it."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.resumption import to_resume, trained_by
from pipelines.runs import RunRecord, load_run, load_runs, new_folder
from pipelines.summary import show_outcome
from srpo.config import RunConfig, load_config
from srpo.errors import ConfigError, TrainingStoppedError
from srpo.hub import resolve, snapshot
from srpo.record import read_journal
from srpo.same_run import refuse_other_settings
from srpo.tracking import TrackedRun
from tests.conftest import CONFIG, SHORT
from tests.runs import call, run

SETTINGS = (*SHORT, "name=budgeted")


@pytest.fixture(scope="module")
def ended(place: Place) -> Outcome:
    """A whole run, whose budget lasts for one update."""
    return run(place, load_config(CONFIG, (*SETTINGS, "resources.max_gpu_hours=1e-6")))


def test_a_run_that_its_budget_ended_is_judged_and_registered_and_says_so(
    ended: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended.trained and ended.trained.out_of_budget and ended.trained.num_updates == 1
    assert ended.registered
    from pipelines.commands.common import console

    show_outcome(console, ended)
    shown = capsys.readouterr().out
    assert "resources.max_gpu_hours is 1e-06" in shown
    assert f"run --resume {ended.record.name} --set resources.max_gpu_hours=2e-06" in shown


@pytest.mark.parametrize("options", [(), ("--set", "resources.max_gpu_hours=1e-7")])
def test_without_a_larger_budget_it_stays_done(
    ended: Outcome, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "--resume", ended.record.name, *options) == 42
    assert "--set resources.max_gpu_hours=HOURS" in capsys.readouterr().err


def test_a_larger_budget_goes_on_in_a_new_run_and_leaves_the_first_as_it_was(
    ended: Outcome, finished: Outcome, place: Place
) -> None:
    """The new one ends with the weights, bit for bit, and with the curve of a run that had no budget."""
    assert ended.trained and ended.registered
    assert call("run", "--resume", ended.record.name, "--set", "resources.max_gpu_hours=10") == 0
    newest = load_runs(place)[0]
    trained = trained_by(place, newest)
    assert trained and (newest.continues, trained.num_updates) == (ended.record.name, 2)
    assert trained.gpu_hours > ended.trained.gpu_hours and not trained.out_of_budget
    assert [entry["update"] for entry in read_journal(newest.path / "train" / "metrics.jsonl")] == [1, 2]
    client = MlflowClient(newest.tracked.uri)
    history = client.get_metric_history(newest.tracked.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2]
    versions = {version.run_id for version in client.search_model_versions(f"name = '{ended.registered.name}'")}
    assert {ended.record.tracked.run_id, newest.tracked.run_id} <= versions
    assert load_run(place, ended.record.name) == ended.record
    assert snapshot(ended.trained.transformer.path, "").sha256 == ended.trained.transformer.sha256
    assert finished.trained and trained.transformer.sha256 == finished.trained.transformer.sha256


def test_no_run_goes_on_with_weights_that_were_replaced(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken up again, or begun with the results of another: the recorded hashes are no longer those of the files."""
    base = shutil.copytree(resolve("builtin:shapes", "model"), tmp_path / "base")
    settings = (*SETTINGS, f"model.source={base}")

    def fail(_: object) -> None:
        raise TrainingStoppedError("away")

    with monkeypatch.context() as patch, pytest.raises(TrainingStoppedError):
        patch.setattr("steps.train.launch_training", fail)
        run(place, load_config(CONFIG, settings), last="train")
    (weights,) = (base / "transformer").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    options = [part for setting in settings for part in ("--set", setting)]
    for again in (["--resume", load_runs(place)[0].name], ["--config", str(CONFIG), *options, "--from", "train"]):
        assert call("run", *again) == 42
        assert "has changed since it was recorded: transformer/" in capsys.readouterr().err


@pytest.fixture
def failed(place: Place) -> RunRecord:
    """A run that ended before any step did."""
    config = load_config(CONFIG, SETTINGS)
    folder = new_folder(place, RunConfig(name="failed"))
    tracked = TrackedRun(uri="", run_id="")
    return RunRecord(
        name=folder.name,
        config=config,
        created="2026-01-01T00:00:00Z",
        folder=str(folder),
        tracked=tracked,
        steps=("download", "embed", "train"),
        state="failed",
    ).save()


def test_a_run_that_failed_goes_on_with_other_resources(failed: RunRecord, place: Place) -> None:
    record = to_resume(place, failed.name, ("resources.train.memory=128", "resources.max_gpu_hours=2"))
    assert record.name == failed.name
    assert (record.config.resources.train.memory, record.config.resources.max_gpu_hours) == (128, 2)
    assert load_run(place, failed.name) == record
    assert record.config.model_dump(exclude={"resources"}) == failed.config.model_dump(exclude={"resources"})


def test_a_run_that_found_too_little_memory_goes_on_with_less(failed: RunRecord, place: Place) -> None:
    record = to_resume(place, failed.name, ("align.together=false", "train.gradient_checkpointing=full"))
    assert (record.config.align.together, record.config.train.gradient_checkpointing) == (False, "full")
    refuse_other_settings(Path(record.folder), record.config, failed.config)


def test_nothing_else_can_change(failed: RunRecord, place: Place) -> None:
    before = (Path(failed.folder) / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=r"only resources, .*align.together may change, got 'train.num_updates=9'"):
        to_resume(place, failed.name, ("resources.train.cpu=2", "train.num_updates=9"))
    with pytest.raises(ConfigError, match=r"resources.max_gpu_hours: Input should be greater than 0"):
        to_resume(place, failed.name, ("resources.max_gpu_hours=0",))
    with pytest.raises(ConfigError, match="flesh"):
        to_resume(place, failed.name, ("train.attention=flesh",))
    assert (Path(failed.folder) / "run.json").read_bytes() == before
