"""S3 that fails in every way through a whole training: nothing is lost, nothing half is ever seen, nobody waits long.

SRPO_FAULT_SECONDS says about how many seconds the training lasts: 60 by default, 600 for the full check. With
--log-cli-level=INFO it tells what happened.
"""

import logging
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from srpo.artifacts import TrainJob
from srpo.config import StorageConfig
from srpo.durable import Mirror, checkpoints
from srpo.errors import ConfigError, UnreachableError
from srpo.record import read_journal
from tests.durable.conftest import REMOTE
from tests.durable.faulty_proxy import FAULTS, FaultyProxy
from tests.durable.nodes import RUN, on_node
from tests.jobs import assert_same_weights, place, run

SECONDS = float(os.environ.get("SRPO_FAULT_SECONDS", "60"))
log = logging.getLogger(__name__)
LONGEST_WAIT = 5.0
"""Seconds that training may take to hand a checkpoint over on a busy machine."""


class Reader(threading.Thread):
    """Another node without faults that looks all the time: every checkpoint that shows is fetched and must be whole."""

    def __init__(self, node: Path) -> None:
        super().__init__(daemon=True)
        self.mirror = Mirror(REMOTE, node / ".srpo")
        assert self.mirror.bucket
        self.folder = node / RUN / "checkpoints"
        self.problems: list[str] = []
        self.whole: set[str] = set()
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.2):
            for name in self.mirror.folders(self.folder):
                try:
                    self._look(name)
                except (ConfigError, UnreachableError) as error:
                    if self.mirror.manifest(self.folder / name) is not None:  # else it was removed meanwhile
                        self.problems.append(f"{name}: {error}")

    def _look(self, name: str) -> None:
        """Fetching checks size and sha256 of every file."""
        found = self.mirror.manifest(self.folder / name)
        if found and self.mirror.fetch(self.folder / name):
            files = {entry.path for entry in found.files}
            if not {"transformer.safetensors", "optimizer.safetensors", "state.json", "rng-0000.safetensors"} <= files:
                self.problems.append(f"{name} holds only {sorted(files)}")
            self.whole.add(name)


def wander(proxy: FaultyProxy, stop: threading.Event) -> None:
    """Another fault every few seconds, for some or all connections, with moments of peace between them."""
    dice = random.Random(0)
    while not stop.is_set():
        for fault in dice.sample(FAULTS, len(FAULTS)):
            proxy.fault, proxy.share = fault, dice.choice([0.3, 0.7, 1.0])
            stop.wait(dice.uniform(1, 4))
            proxy.fault = "none"
            stop.wait(dice.uniform(0.5, 2))


def lasting(job: TrainJob) -> TrainJob:
    """The job with about one update for each second, which is what one takes where several things run."""
    updates = max(10, int(SECONDS) // 10 * 10)
    train = job.config.train.model_copy(update={"num_updates": updates, "save_every": 2})
    monitor = job.config.monitor.model_copy(update={"every": 10})
    storage = StorageConfig(remote=REMOTE, max_wait_s=300)
    config = job.config.model_copy(update={"train": train, "monitor": monitor, "storage": storage})
    return job.model_copy(update={"config": config})


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["update"], row["loss"]) for row in read_journal(folder / "metrics.jsonl")]


@pytest.mark.slow
def test_faults_of_every_kind_through_a_training(
    job: TrainJob, bucket: Any, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LONGEST_PAUSE", 2.0)
    job, reader = lasting(job), Reader(tmp_path / "reader")
    proxy, stop, waits = FaultyProxy(moto_url), threading.Event(), []
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    original = checkpoints.CheckpointCopies.saved

    def timed(copies: checkpoints.CheckpointCopies, best: int | None) -> None:
        before = time.monotonic()
        original(copies, best)
        waits.append(time.monotonic() - before)
        if len(waits) == 1:  # faults begin when training has begun
            threading.Thread(target=wander, args=(proxy, stop), daemon=True).start()

    reader.start()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.CheckpointCopies, "saved", timed)
        trained = run(on_node(job, tmp_path / "faulty"))
    stop.set()
    reader.stop.set()
    reader.join(60)
    log.info("%s; longest of %d waits: %.2f s; %s", dict(proxy.met), len(waits), max(waits), trained.copied)
    last = f"update-{trained.num_updates:06d}"
    assert (reader.problems, max(waits) < LONGEST_WAIT) == ([], True), max(waits)
    assert all(proxy.met[fault] for fault in FAULTS), proxy.met
    assert last in reader.mirror.folders(reader.folder)
    assert reader.whole, "the reader saw none"

    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    run(on_node(job, tmp_path / "elsewhere"))
    plain = job.model_copy(update={"config": job.config.model_copy(update={"storage": StorageConfig()})})
    run(place(plain, tmp_path / "plain"))
    for node in (tmp_path / "faulty" / RUN, tmp_path / "elsewhere" / RUN):
        assert_same_weights(tmp_path / "plain", node, trained.num_updates)
        assert losses(node) == losses(tmp_path / "plain")
