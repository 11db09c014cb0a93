"""Trainings on nodes with disks of their own and a copy in S3: started here or as a process, watched, looked at."""

import subprocess
import sys
import time
from pathlib import Path

import torch

from srpo.artifacts import TrainJob
from srpo.config import StorageConfig
from srpo.durable import Mirror
from srpo.launch import launch_environment
from srpo.record import read_journal
from tests.durable.conftest import REMOTE
from tests.jobs import place

RUN = Path(".srpo/runs/one/train")


def on_node(job: TrainJob, node: Path, **train: object) -> TrainJob:
    """The job on a node of its own, with a copy in S3."""
    (node / RUN).mkdir(parents=True, exist_ok=True)
    placed = place(job, node / RUN, **train)
    storage = StorageConfig(remote=REMOTE, max_wait_s=max(60, job.config.storage.max_wait_s))
    return placed.model_copy(update={"config": placed.config.model_copy(update={"storage": storage})})


def start(job: TrainJob) -> subprocess.Popen[bytes]:
    path = Path(job.output_dir) / "job.json"
    path.write_text(job.model_dump_json())
    environment = launch_environment(job.config) | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, "-m", "srpo.train", str(path)], env=environment)


def wait_for_update(process: subprocess.Popen[bytes], folder: Path, update: int) -> None:
    while process.poll() is None and not any(
        entry["update"] >= update for entry in read_journal(folder / "metrics.jsonl")
    ):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before the update"


def curve(folder: Path) -> list[tuple[int, float, float]]:
    return [(row["update"], row["loss"], row["reward"]) for row in read_journal(folder / "metrics.jsonl")]


def kept(node: Path) -> list[str]:
    return Mirror(REMOTE, node / ".srpo").folders(node / RUN / "checkpoints")
