"""Training with a durable copy: it goes on elsewhere, bit for bit; what is kept there; what happens without S3."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from srpo.artifacts import TrainJob
from srpo.budget import Budget
from srpo.checkpoint import CheckpointStore
from srpo.config import StorageConfig
from srpo.durable import Mirror, checkpoints
from srpo.errors import EXIT_RETRY, PreemptedError, UnreachableError
from srpo.held_out import HeldOut
from srpo.lease.s3 import s3_lease
from srpo.record import read_journal
from tests.durable.conftest import REMOTE
from tests.durable.faulty_proxy import FaultyProxy
from tests.durable.nodes import RUN, curve, kept, on_node, start, wait_for_update
from tests.jobs import assert_same_weights, run
from tests.s3 import BUCKET


@pytest.mark.usefixtures("bucket")
def test_sigterm_saves_and_another_node_with_an_empty_disk_goes_on_bit_for_bit(
    job: TrainJob, whole: Path, tmp_path: Path
) -> None:
    first, second = on_node(job, tmp_path / "a"), on_node(job, tmp_path / "b")
    process = start(first)
    wait_for_update(process, tmp_path / "a" / RUN, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == EXIT_RETRY
    error = (tmp_path / "a" / RUN / "error.json").read_text()
    assert "PreemptedError" in error and "whole in s3://" in error and "very-secret" not in error
    done = [update for update, _, _ in curve(tmp_path / "a" / RUN)]
    assert 2 <= done[-1] < 6, "it ended between updates, before the last"
    run(second)
    assert curve(tmp_path / "b" / RUN) == curve(whole)
    assert_same_weights(whole, tmp_path / "b" / RUN, 6)


def test_before_its_first_checkpoint_a_training_leaves_its_hours_for_another_node(
    job: TrainJob, tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = HeldOut._batch

    def tell(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return draw(*arguments)

    monkeypatch.setattr(HeldOut, "_batch", tell)
    with pytest.raises(PreemptedError, match="before the end of the first update; run it again"):
        run(on_node(job, tmp_path / "a"))
    assert Mirror(REMOTE, tmp_path / "b" / ".srpo").fetch(tmp_path / "b" / RUN)
    budget = Budget(job.config, 1)
    budget.go_on(tmp_path / "b" / RUN)
    assert budget.before > 0


def test_the_copy_keeps_the_last_and_the_best_and_no_more(
    job: TrainJob, whole: Path, tmp_path: Path, bucket: Any
) -> None:
    half = "copy/runs/one/train/checkpoints/update-000003/transformer.safetensors/0123"
    bucket.put_object(Bucket=BUCKET, Key=half, Body=b"sent by a node that was lost before the rest")
    trained = run(on_node(job, tmp_path, keep_last=1))
    expected = sorted({f"update-{update:06d}" for update in (6, trained.best_update)})
    assert kept(tmp_path) == expected
    assert_same_weights(whole, tmp_path / RUN, 6)
    assert "checkpoint 6 whole" in trained.copied
    assert "Contents" not in bucket.list_objects_v2(Bucket=BUCKET, Prefix=half)


def test_the_end_waits_for_as_long_as_large_checkpoints_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Callable[[str], Mirror]
) -> None:
    waits = []
    store = CheckpointStore(node("a").root / "runs" / "one" / "checkpoints", 2)
    (store.path(1)).mkdir(parents=True)
    (store.path(1) / "transformer.safetensors").write_bytes(bytes(3000))
    monkeypatch.setattr(checkpoints, "SLOWEST", 1000.0)
    monkeypatch.setattr(checkpoints.CheckpointCopies, "wait", lambda _, seconds: waits.append(seconds))
    copies = checkpoints.CheckpointCopies(StorageConfig(remote=REMOTE), tmp_path, store, Accelerator(cpu=True))
    copies.finish(10)
    copies.there = {1}
    copies.finish(10)
    assert waits == [13, 10]


def test_the_best_is_sent_before_what_came_later(tmp_path: Path) -> None:
    """Else a node that is lost may leave journals that name a best which is nowhere, and the training cannot end."""
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    for update in (2, 4, 6):
        store.path(update).mkdir(parents=True)
    copies = checkpoints.CheckpointCopies(StorageConfig(remote=REMOTE), tmp_path, store, Accelerator(cpu=True))
    copies.best, sent = 2, list[int]()
    while (update := copies._next()) is not None:
        sent.append(update)
        copies.there.add(update)
    assert sent == [2, 6, 4]


@pytest.mark.usefixtures("bucket")
def test_what_an_earlier_attempt_had_not_sent_takes_not_the_best_from_the_copy(job: TrainJob, tmp_path: Path) -> None:
    """The best is known before the first checkpoint is sent, and not only when one is saved."""
    run(on_node(job, tmp_path, save_every=1, keep_last=6))
    name_best(tmp_path / RUN / "heldout.jsonl", 2, job.config.monitor.watch)
    Mirror(REMOTE, tmp_path / ".srpo").remove(tmp_path / RUN / "checkpoints" / "update-000006")
    assert run(on_node(job, tmp_path, save_every=1, keep_last=1)).best_update == 2
    assert kept(tmp_path) == ["update-000002", "update-000006"]


@pytest.mark.usefixtures("bucket")
def test_whatever_one_attempt_fails_of_the_next_one_follows(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FIRST_PAUSE", 0.1)
    send, problems = checkpoints.CheckpointCopies._send, list[str]()

    def fail_once(copies: checkpoints.CheckpointCopies, update: int) -> None:
        problems.append(copies.problem)
        if len(problems) == 1:
            raise ValueError("a manifest of another srpo")
        send(copies, update)

    monkeypatch.setattr(checkpoints.CheckpointCopies, "_send", fail_once)
    assert "failed attempts: 1" in run(on_node(job, tmp_path, num_updates=1)).copied
    assert problems[:2] == ["", "a manifest of another srpo"]


def name_best(journal: Path, update: int, watch: str) -> None:
    """Let a training's measurements speak for an update."""
    entries = [entry | {watch: float(entry["update"] == update)} for entry in read_journal(journal)]
    journal.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


@pytest.mark.usefixtures("bucket")
def test_a_second_training_on_the_same_copy_is_refused(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LEASE_WAIT", 1.0)
    with (
        s3_lease(REMOTE, "runs/one/train/training", 1.0),
        pytest.raises(UnreachableError, match="has been held for 1 s, now by"),
    ):
        run(on_node(job, tmp_path))
    assert not (tmp_path / RUN / "metrics.jsonl").exists()


@pytest.fixture
def proxy(bucket: Any, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(moto_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


@pytest.mark.slow
def test_training_ends_in_time_without_s3_and_sends_the_rest_when_it_is_back(
    job: TrainJob, whole: Path, tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 goes away after the start; at the end the wait is bounded, and running it again completes the copy."""
    monkeypatch.setattr(checkpoints, "FIRST_PAUSE", 0.1)
    placed = on_node(job, tmp_path)
    storage = placed.config.storage.model_copy(update={"max_wait_s": 1.0})
    placed = placed.model_copy(update={"config": placed.config.model_copy(update={"storage": storage})})
    original = checkpoints.CheckpointCopies.saved

    def saved(copies: checkpoints.CheckpointCopies, best: int | None) -> None:
        proxy.fault = "reset" if proxy.fault == "none" else proxy.fault
        original(copies, best)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.CheckpointCopies, "saved", saved)
        with pytest.raises(UnreachableError, match="did not take all checkpoints within [12] s"):
            run(placed)
    proxy.fault = "none"
    assert kept(tmp_path) == []
    assert run(on_node(job, tmp_path)).num_updates == 6
    assert "update-000006" in kept(tmp_path)
    assert_same_weights(whole, tmp_path / RUN, 6)
