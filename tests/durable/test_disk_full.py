"""A disk that is really full (tmpfs): one sentence, nothing lost, and it goes on when there is space again."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from srpo import launch
from srpo.artifacts import TrainJob
from srpo.errors import EXIT_RETRY, DiskFullError
from tests.durable.nodes import start
from tests.jobs import assert_same_weights, place

Resize = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Resize]:
    """A disk of so many bytes, which may grow."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: int) -> Path:
        options = f"{'remount,' if folder.is_mount() else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_full_disk_stops_training_which_goes_on_when_there_is_space(job: TrainJob, whole: Path, disk: Resize) -> None:
    checkpoint = size_of(whole / "checkpoints" / "update-000006")
    small = int(1.5 * checkpoint) + size_of(whole / "samples") + 500_000
    output = disk(small) / "out"
    placed = place(job, output)
    assert start(placed).wait(120) == EXIT_RETRY
    error = json.loads((output / "error.json").read_text())
    assert error["kind"] == "DiskFullError"
    assert "goes on from the checkpoint of update 2" in error["message"]
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["update-000002"]
    disk(20 * checkpoint + small)
    assert start(placed).wait(120) == 0
    assert_same_weights(whole, output, 6)


def test_what_a_training_cannot_say_for_lack_of_space_its_launcher_says(
    job: TrainJob, disk: Resize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun the exit code, which is 1 whatever a process ends with, does not tell either."""
    placed = place(job, output := disk(1_000_000) / "out")
    code = f"with open({str(output / 'other')!r}, 'wb', 0) as other:\n    while True: other.write(bytes(4096))"
    monkeypatch.setattr(launch, "launch_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(DiskFullError, match=r"No space left on device.*; free some, .*: it goes on from the start$"):
        launch.launch_training(placed)
    assert sorted(path.name for path in output.iterdir()) == ["job.json", "other"]
