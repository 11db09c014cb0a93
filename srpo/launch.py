"""Starts training as processes of its own, as a person would: `python -m srpo.train job.json`, several by torchrun."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from srpo import errors
from srpo.alone import refuse_busy
from srpo.artifacts import Trained, TrainJob
from srpo.config import RunConfig, TrainConfig
from srpo.devices import num_cores
from srpo.durable import mirror_of
from srpo.embedding import embed
from srpo.errors import PreemptedError
from srpo.files import write_atomic, written_in
from srpo.plan import make_plan
from srpo.preemption import on_sigterm
from srpo.start import find_start
from srpo.train import ERROR, space_needed
from srpo.trainer import RESULT
from srpo.weights import fetch_weights

JOB = "job.json"
SECONDS_TO_STOP = 10
"""That torchrun has for itself, beyond those that it gives the training."""
GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Seconds between the signal that torchrun passes on to its processes and their kill."""


def prepare_job(config: RunConfig, output_dir: Path, uri: str | None = None) -> Path:
    """What the pipeline does before training, without a pipeline: check, fetch, embed, write the job file; its path.

    `uri`: the MLflow store that knows the version which `train.start` names; None where there is none. ConfigError for
    all that a plan finds wrong, and if there is to be a copy of the folder, and it lies where none is kept.
    """
    refuse_busy(output_dir)
    if config.storage.remote:
        mirror_of(config.storage).name(output_dir)
    make_plan(config, output_dir, ("embed", "train"), written_in(output_dir))
    weights = fetch_weights(config.model, config.reward, config.evaluation.scores, config.rewards)
    start = find_start(config, uri, weights.model)
    prompts = embed(config.model, config.prompts, config.images, weights, output_dir / "embeddings")
    return write_job(TrainJob(config=config, weights=weights, prompts=prompts, start=start, output_dir=str(output_dir)))


def write_job(job: TrainJob) -> Path:
    """The job file in the job's output folder."""
    path = Path(job.output_dir) / JOB
    write_atomic(path, job.model_dump_json(indent=1))
    return path


@dataclass(frozen=True)
class Nodes:
    """This node among those that share `train.num_processes` evenly."""

    count: int = 1
    rank: int = 0
    main_address: str = "127.0.0.1"
    """Host name of node 0."""
    main_port: int = 29500
    """A free port of node 0."""


ALONE = Nodes()


def launch_training(job: TrainJob) -> Trained:
    """Train in subprocesses, whose progress shows in this terminal, and wait; raises as `launch_node` does."""
    launch_node(job, ALONE)
    return Trained.model_validate_json((Path(job.output_dir) / RESULT).read_text(encoding="utf-8"))


def launch_node(job: TrainJob, nodes: Nodes) -> None:
    """One node's part of a training.

    Raises a KnownError as the training raised it on node 0, BusyError if another holds the folder, RuntimeError if it
    died otherwise.
    SIGTERM is passed on to the training, which saves itself before it ends.
    """
    output_dir = Path(job.output_dir)
    error_path = output_dir / ERROR
    _refuse_busy(output_dir, nodes)
    if nodes.rank == 0:
        error_path.unlink(missing_ok=True)  # an earlier attempt's
    job_path = write_job(job)
    code, told = _run(launch_command(job.config.train, job_path, nodes), launch_environment(job.config, nodes))
    if code != 0:
        _refuse_busy(output_dir, nodes)
    if code != 0 and error_path.exists():
        error = json.loads(error_path.read_text(encoding="utf-8"))
        raise getattr(errors, error["kind"])(error["message"])
    if code != 0 and told:  # too early to say so itself, or the training of another node than 0, which says it
        raise PreemptedError("training was told to stop, and has; resume it: it goes on from its last checkpoint")
    if code != 0:
        with space_needed(output_dir):  # on a full disk the training could not say that it is
            write_job(job)
        raise RuntimeError(f"training ended with exit code {code}; resume it: it goes on from its last checkpoint")
    if told:  # too late for the training, but nothing else is to begin
        raise PreemptedError("told to stop when training had ended; resume it: it goes on from there")


def _refuse_busy(output_dir: Path, nodes: Nodes) -> None:
    """Node 0 holds the folder, for the others too where they share it."""
    if nodes.rank == 0:
        refuse_busy(output_dir)


def launch_command(config: TrainConfig, job_path: Path, nodes: Nodes = ALONE) -> list[str]:
    """The command line: plain Python for one process, torchrun for several; no settings of accelerate's are read."""
    among = [
        *("--nnodes", str(nodes.count), "--node-rank", str(nodes.rank)),
        *("--master-addr", nodes.main_address, "--master-port", str(nodes.main_port)),
    ]
    # any port that is free: other trainings of this machine have theirs
    alone = ["--standalone", "--local-addr", "127.0.0.1"]
    here = ["--nproc-per-node", str(config.num_processes // nodes.count), *(among if nodes.count > 1 else alone)]
    together = ["torch.distributed.run", *here, "-m"] if config.num_processes > 1 else []
    return [sys.executable, "-m", *together, "srpo.train", str(job_path)]


def _threads(config: TrainConfig, nodes: Nodes) -> int:
    """Threads per process: as many as OMP_NUM_THREADS says, else the cores shared out."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, num_cores() * nodes.count // config.num_processes)


def launch_environment(config: RunConfig, nodes: Nodes = ALONE) -> dict[str, str]:
    """This process's, with the threads made explicit, as bit-exact resumption needs it, and the CPU where it is all.

    Memory of a GPU is reserved in segments that grow, of which fragments waste less, and torchrun waits for as long as
    the scheduler does, unless somebody says otherwise.
    """
    growing = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    unsaid = {GRACE: str(math.ceil(config.storage.grace_s))}
    unsaid |= {"PYTORCH_ALLOC_CONF": growing} if torch.cuda.is_available() else {}
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return unsaid | os.environ | {"OMP_NUM_THREADS": str(_threads(config.train, nodes))} | cpu


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, bool]:
    """Run to the end: exit code, and whether SIGTERM came. Whatever interrupts this process stops the training too."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with passing_on(process) as told:
            return process.wait(), told.is_set()
    except BaseException:
        _stop(process, float(environment[GRACE]) + SECONDS_TO_STOP)
        raise


def _stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Interrupt a training; what is left of it after so many seconds, or at a second interruption, is killed."""
    left: list[psutil.Process] = []
    try:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            launcher = psutil.Process(process.pid)
            left = [launcher, *launcher.children(recursive=True)]  # torchrun's have sessions of their own
            process.send_signal(signal.SIGINT)
            process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@contextmanager
def passing_on(process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """SIGTERM goes to a training, once, which torchrun passes on to its processes and waits until they have saved.

    The event is set once SIGTERM has come.
    """
    told = threading.Event()

    def pass_on(*_: object) -> None:
        if not told.is_set():  # a third would end torchrun before its processes
            told.set()
            process.terminate()

    with on_sigterm(pass_on):
        yield told
