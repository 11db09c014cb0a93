"""One training at a time in a folder, whoever starts the second, and however the first one ends."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import run_pipeline
from pipelines.place import Place
from pipelines.runs import RunRecord, load_run, new_folder
from srpo.alone import alone_in, holder_of, refuse_busy
from srpo.artifacts import TrainJob
from srpo.config import RunConfig
from srpo.errors import EXIT_RETRY, BusyError
from srpo.launch import launch_training, write_job
from srpo.tracking import TrackedRun
from tests.jobs import place as placed

HOLD = "import sys; from pathlib import Path; from srpo.alone import alone_in\nwith alone_in(Path(sys.argv[1])):\n {}"


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_is_told_who_holds_the_folder_and_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert holder_of(folder) is None
    command = [sys.executable, "-c", HOLD.format("print('held', flush=True); sys.stdin.read()"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        before = content(folder)
        with pytest.raises(BusyError, match=f"process {holder.pid} on .* is at work in {folder}; wait until it ends"):
            alone_in(folder).__enter__()
        assert content(folder) == before
        holder.kill()
    refuse_busy(folder)
    with alone_in(folder):
        assert f"process {os.getpid()} " in str(holder_of(folder))
    assert holder_of(folder) is None


def test_whoever_only_looks_keeps_nobody_from_beginning(tmp_path: Path) -> None:
    beginning = threading.Event()

    def look() -> None:
        while not beginning.is_set():
            holder_of(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(300):
            with alone_in(tmp_path):
                pass
    finally:
        beginning.set()
        looking.join()


def test_a_second_training_writes_nothing_and_asks_to_be_tried_again(job: TrainJob, tmp_path: Path) -> None:
    """However it is started: from the pipeline, or by hand."""
    path = write_job(placed(job, tmp_path))
    with alone_in(tmp_path):
        before = content(tmp_path)
        with pytest.raises(BusyError, match="is at work in"):
            launch_training(placed(job, tmp_path, num_updates=1))
        command = [sys.executable, "-m", "srpo.train", str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == EXIT_RETRY
        assert len(ended.stderr.splitlines()) == 1 and f"is at work in {tmp_path}; wait" in ended.stderr
        assert content(tmp_path) == before


@pytest.fixture
def orphaned(place: Place) -> RunRecord:
    """A run whose command was killed, while its training may go on."""
    folder = new_folder(place, RunConfig(name="orphaned"))
    return RunRecord(
        name=folder.name,
        config=RunConfig(),
        created="2026-01-01T00:00:00Z",
        folder=str(folder),
        tracked=TrackedRun(uri="http://127.0.0.1:9", run_id="0" * 32),
        steps=("train",),
    ).save()


@pytest.mark.parametrize("command", [("run", "--resume"), ("sync",)])
def test_the_command_line_leaves_a_run_alone_whose_training_still_goes_on(
    orphaned: RunRecord, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert orphaned.actual_state == "interrupted"
    with alone_in(orphaned.path / "train"):
        (orphaned.path / "train" / "mlflow.jsonl").write_text('{"kind": "tags", "tags": {}}\n')
        before = content(orphaned.path)
        assert load_run(Place(orphaned.path.parents[1]), orphaned.name).actual_state == "running"
        with pytest.raises(SystemExit) as ended:
            run_pipeline.main([*command, orphaned.name])
        assert ended.value.code == EXIT_RETRY
        said = capsys.readouterr().err
        assert said.startswith("busy: ") and len(said.splitlines()) == 1
        assert content(orphaned.path) == before


def test_runs_that_begin_in_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    assert len({new_folder(Place(tmp_path), RunConfig()) for _ in range(5)}) == 5
