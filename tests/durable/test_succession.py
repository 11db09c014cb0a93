"""A training goes on in another folder, on a node with an empty disk, from what another one left in the copy."""

from pathlib import Path
from typing import Any

import pytest

from srpo.artifacts import TrainJob
from srpo.durable import OWN_COPIES, Mirror
from srpo.durable.succession import goes_on, take_over
from srpo.errors import ConfigError
from tests.durable.conftest import REMOTE
from tests.durable.nodes import RUN, curve, on_node
from tests.jobs import assert_same_weights, killed, run

NEXT = Path(".srpo/runs/two/train")


def test_another_node_goes_on_in_a_folder_of_its_own(
    job: TrainJob, whole: Path, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with killed(monkeypatch, 5, "step"):
        run(on_node(job, first))
    Mirror(REMOTE, first / ".srpo").push(first / RUN, OWN_COPIES)
    mirror, folder = Mirror(REMOTE, second / ".srpo"), second / NEXT
    assert take_over(second / RUN, folder, mirror)
    assert not take_over(second / RUN, folder, mirror), "it has begun"
    before = {path: path.read_bytes() for path in (second / RUN).rglob("*") if path.is_file()}
    run(on_node(job, second).model_copy(update={"output_dir": str(folder)}))
    assert_same_weights(whole, folder, 6)
    assert curve(folder) == curve(whole)
    assert {path: path.read_bytes() for path in before} == before


def test_a_node_that_was_lost_before_it_had_sent_a_checkpoint_leaves_no_beginning(
    job: TrainJob, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journals are in the copy, and what it had taken over is not."""
    first, second = tmp_path / "a", tmp_path / "b"
    with killed(monkeypatch, 5, "step"):
        run(on_node(job, first))
    mirror = Mirror(REMOTE, first / ".srpo")
    mirror.push(first / RUN, OWN_COPIES)
    assert take_over(first / RUN, first / NEXT, mirror)
    mirror.push(first / NEXT, OWN_COPIES)
    assert take_over(second / RUN, second / NEXT, Mirror(REMOTE, second / ".srpo"))
    assert (second / NEXT / "checkpoints").is_dir()


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
