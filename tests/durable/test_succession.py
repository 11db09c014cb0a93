"""A training goes on in another folder, on a node with an empty disk, from what another one left in the copy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srpo.artifacts import TrainJob
from srpo.durable import OWN_COPIES, Mirror
from srpo.durable.succession import goes_on, has_taken_over, take_checkpoints, take_journals
from srpo.errors import ConfigError
from srpo.record import HELD_OUT, METRICS
from tests.durable.conftest import REMOTE
from tests.durable.nodes import RUN, curve, on_node
from tests.jobs import assert_same_weights, killed, run

NEXT = Path(".srpo/runs/two/train")


def take_over(earlier: Path, folder: Path, mirror: Mirror) -> None:
    """As the step `train` does."""
    take_journals(earlier, folder, mirror)
    take_checkpoints(earlier, folder, mirror)


def test_another_node_goes_on_in_a_folder_of_its_own(
    job: TrainJob, whole: Path, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with killed(monkeypatch, 5, "step"):
        run(on_node(job, first))
    Mirror(REMOTE, first / ".srpo").push(first / RUN, OWN_COPIES)
    mirror, folder = Mirror(REMOTE, second / ".srpo"), second / NEXT
    assert not has_taken_over(second / RUN, folder, mirror)
    take_over(second / RUN, folder, mirror)
    assert has_taken_over(second / RUN, folder, mirror)
    assert not list((second / NEXT / "checkpoints").iterdir()), "they come when they are needed"
    before = {path: path.read_bytes() for path in (second / RUN).rglob("*") if path.is_file()}
    run(on_node(job, second).model_copy(update={"output_dir": str(folder)}))
    assert_same_weights(whole, folder, 6)
    assert curve(folder) == curve(whole)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("bucket")
def test_a_node_that_is_lost_between_two_checkpoints_leaves_no_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journals are in the copy, the best checkpoint may be, and the newest is not."""
    first, second = (Mirror(REMOTE, tmp_path / name / ".srpo") for name in "ab")
    write(tmp_path / "a" / RUN, updates=(2, 4))
    first.push(tmp_path / "a" / RUN, OWN_COPIES)
    for name in ("update-000002", "update-000004"):
        first.push(tmp_path / "a" / RUN / "checkpoints" / name)
    copy, there = Mirror.copy, tmp_path / "b"

    def lost_at_the_newest(self: Mirror, folder: Path, target: Path) -> None:
        if target.name == "update-000004":
            raise KeyboardInterrupt
        copy(self, folder, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Mirror, "copy", lost_at_the_newest)
        take_over(tmp_path / "a" / RUN, tmp_path / "a" / NEXT, first)
    assert second.folders(there / NEXT / "checkpoints") == ["update-000002"]
    assert not has_taken_over(there / RUN, there / NEXT, second)
    take_over(there / RUN, there / NEXT, second)
    assert has_taken_over(there / RUN, there / NEXT, second)
    third = tmp_path / "c" / NEXT
    assert Mirror(REMOTE, tmp_path / "c" / ".srpo").fetch(third / "checkpoints" / "update-000004")
    assert (third / "checkpoints" / "update-000004" / "state.json").read_text() == "4"


@pytest.mark.usefixtures("bucket")
def test_what_the_copy_has_not_yet_is_taken_from_here(tmp_path: Path) -> None:
    """A training whose S3 was away has its last checkpoints on its own disk alone."""
    mirror = Mirror(REMOTE, tmp_path / ".srpo")
    write(tmp_path / RUN, updates=(2, 4))
    mirror.push(tmp_path / RUN / "checkpoints" / "update-000002")
    take_over(tmp_path / RUN, tmp_path / NEXT, mirror)
    assert sorted(path.name for path in (tmp_path / NEXT / "checkpoints").iterdir()) == [
        "update-000002",
        "update-000004",
    ]
    assert mirror.folders(tmp_path / NEXT / "checkpoints") == ["update-000002"], "training sends the other"
    assert has_taken_over(tmp_path / RUN, tmp_path / NEXT, mirror)


def write(folder: Path, updates: Sequence[int]) -> None:
    """What a training leaves, without any weights."""
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "update-000000.png").write_text("")
    for name in (METRICS, HELD_OUT):
        (folder / name).write_text("")
    for update in updates:
        (checkpoint := folder / "checkpoints" / f"update-{update:06d}").mkdir(parents=True)
        (checkpoint / "state.json").write_text(str(update))


@pytest.mark.usefixtures("bucket")
def test_a_training_goes_on_only_from_what_every_node_sees(tmp_path: Path) -> None:
    first, second = (Mirror(REMOTE, tmp_path / name / ".srpo") for name in "ab")
    checkpoint = tmp_path / "a" / RUN / "checkpoints" / "update-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    alone = Mirror(None, first.root)
    assert goes_on(tmp_path / "a" / RUN, alone) and not goes_on(tmp_path / "b" / RUN, alone)
    assert not goes_on(tmp_path / "a" / RUN, first), "another node would begin without what it starts from"
    first.push(checkpoint)
    assert goes_on(tmp_path / "a" / RUN, first) and goes_on(tmp_path / "b" / RUN, second)


def test_where_nothing_is_left_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="has no checkpoint any more"):
        take_over(tmp_path, tmp_path / "next", Mirror(None, tmp_path))
    assert not (tmp_path / "next").exists()
