"""Nodes with disks of their own draw and score each image once among them (a real S3 server on loopback)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from srpo.config import StorageConfig
from srpo.durable import Mirror
from srpo.evaluation import shared_journal
from srpo.evaluation.shared_journal import SharedJournal
from srpo.report.schema import Report
from tests.durable.conftest import REMOTE, node, store
from tests.durable.faulty_proxy import FaultyProxy
from tests.evaluation.inputs import HELD_OUT, JUDGED, Inputs, count_images, make_inputs
from tests.evaluation.test_journal import DESIGN, SCORES, fill

__all__ = ["node", "store"]
Node = Callable[[str], SharedJournal]


@pytest.fixture
def journal(node: Callable[[str], Mirror]) -> Node:
    """The journal of a node of some name."""

    def make(name: str) -> SharedJournal:
        mirror = node(name)
        return SharedJournal(mirror.root / "scores", mirror)

    return make


def test_what_nodes_wrote_at_the_same_time_comes_together(journal: Node) -> None:
    first, second = journal("first"), journal("second")
    assert first.find("model", "reward", DESIGN) == second.find("model", "reward", DESIGN) == {}
    fill(first, DESIGN[:2])
    fill(second, DESIGN[1:3])
    fill(second, DESIGN[:1], score_key="other")
    first.complete("model")
    second.complete("model")
    third = journal("third")
    assert third.find("model", "reward", DESIGN) == dict.fromkeys(DESIGN[:3], SCORES)
    assert third.find("model", "other", DESIGN) == dict.fromkeys(DESIGN[:1], SCORES)
    assert third.gallery("model").find(DESIGN[0]).read_bytes() == first.gallery("model").find(DESIGN[0]).read_bytes()
    assert third.find("another model", "reward", DESIGN) == {}


def test_what_is_there_already_is_not_sent_again(journal: Node) -> None:
    first, again = journal("first"), journal("again")
    fill(first, DESIGN)
    first.complete("model")
    folder = first.gallery("model").folder
    before = {path.name for path in folder.iterdir()}
    first.complete("model")
    assert {path.name for path in folder.iterdir()} == before
    assert len(again.find("model", "reward", DESIGN)) == len(DESIGN)
    again.complete("model")
    assert {path.name for path in again.gallery("model").folder.iterdir()} == before


def test_a_node_that_is_lost_in_the_middle_has_sent_what_it_had(journal: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_journal, "SEND_EVERY", 0.0)
    fill(journal("lost"), DESIGN[:2])
    assert list(journal("next").find("model", "reward", DESIGN)) == DESIGN[:2]


def test_an_evaluation_goes_on_while_s3_is_away_and_sends_it_later(
    journal: Node, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_journal, "SEND_EVERY", 0.0)
    proxy = FaultyProxy(moto_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    first = journal("first")
    proxy.fault = "reset"
    fill(first, DESIGN[:2])
    proxy.fault = "none"
    assert journal("other").find("model", "reward", DESIGN) == {}
    fill(first, DESIGN[2:3])
    proxy.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    assert list(journal("next").find("model", "reward", DESIGN)) == DESIGN[:3]


@pytest.mark.usefixtures("bucket")
def test_a_second_node_evaluates_without_drawing_a_picture(
    flux_folder: Path, hps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, *others = make_inputs(tmp_path, flux_folder, hps_folder, HELD_OUT)
    inputs: Inputs = (config.model_copy(update={"storage": StorageConfig(remote=REMOTE)}), *others)
    drawn, reports = [], []
    for name in ("a", "b"):
        root = tmp_path / name / ".srpo"
        root.mkdir(parents=True)
        monkeypatch.chdir(root.parent)
        drawn.append(count_images(inputs, root / "evaluation", scores_dir=root / "scores"))
        reports.append(Report.model_validate_json((root / "evaluation" / "report.json").read_bytes()))
        assert os.listdir(root / "scores" / "thumbnails")
    assert drawn == [{"base": 2 * len(JUDGED), "candidate": 2 * len(JUDGED)}, {}]
    first, second = (report.model_dump(exclude={"created", "seconds"}) for report in reports)
    assert first == second
