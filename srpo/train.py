"""The SRPO training loop: `python -m srpo.train job.json`, with or without a pipeline around it, or under torchrun.

Per update: roll out latents from noise, or take those of real images, then go backward from each loss of the method
(SRPO: for each noise level and branch Direct-Align, decode, score by relative preference); reduce over processes, clip,
step, log, watch, save. A run resumes from what it finds in its output folder.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from srpo.alone import alone_in
from srpo.artifacts import Trained, TrainJob
from srpo.budget import Budget
from srpo.checkpoint import CheckpointStore
from srpo.config import RunConfig, TrainConfig
from srpo.devices import check_device, check_processes
from srpo.durable.checkpoints import CheckpointCopies
from srpo.errors import ConfigError, DiskFullError, GpuMemoryError, KnownError, disk_full, memory_needed
from srpo.files import write_atomic
from srpo.preemption import Preemption
from srpo.record import Clock, UpdateRecord
from srpo.trainer import Trainer

ERROR = "error.json"
NOT_DETERMINISTIC = "does not have a deterministic implementation"
TO_SPARE_MEMORY = (
    "take a preset of configs/hardware, or set align.together to false, train.gradient_checkpointing to full, or "
    "train.batch_size lower (`plan --gpu NAME` predicts what fits)"
)


def train(job: TrainJob, accelerator: Accelerator) -> Trained:
    """Train to the end, from the start or from the last checkpoint in the job's output folder."""
    budget = Budget(job.config, accelerator.num_processes)
    output_dir, preemption = Path(job.output_dir), Preemption()
    store = CheckpointStore(output_dir / "checkpoints", job.config.train.keep_last)
    copies = CheckpointCopies(job.config.storage, output_dir, store, accelerator)
    with preemption.noticed(), copies, telling(output_dir, accelerator.is_main_process):
        run = Trainer(job, accelerator, copies, budget)
        patience = 0.0  # what MLflow has not taken waits on disk: only a good end waits for it
        try:
            trained = _train(run, job.config, accelerator, preemption)
            patience = 0.0 if preemption.since else job.config.storage.max_wait_s
            return trained
        finally:
            run.record.close(patience)


def _train(run: Trainer, config: RunConfig, accelerator: Accelerator, preemption: Preemption) -> Trained:
    """The loop."""
    if run.update == 0:
        run.watch_first(preemption)
    elif run.owes_measurement():
        run.watch(preemption)
    while run.update < config.train.num_updates and not run.stopped:
        run.begin()
        clock, record = Clock(accelerator.device), UpdateRecord()
        parts = run.batches.draw(run.update)
        for part in parts:
            if preemption.requested(accelerator):
                run.give_way(preemption)
            run.expect(more=part is not parts[-1])
            with clock("rollout"):
                rollout = run.batches.clean_latents(part, run.update)
            with clock("gradient"):
                for loss, scores in run.method.losses(rollout, part.positions, run.update):
                    accelerator.backward(loss / run.num_injections)
                    record.add(scores)
        metrics = record.metrics(accelerator) | {"grad_norm": run.reduce_and_clip()}
        run.refuse_non_finite(metrics)
        metrics["learning_rate"] = run.learning_rate
        run.step()
        run.log(metrics, clock)
        if run.due(config.monitor.every):
            run.watch(preemption)
        if run.due(config.train.save_every):
            run.save()
        run.check_budget()
    return run.finish()


@contextlib.contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """Deterministic algorithms where the config asks for them; ConfigError where an operation has none.

    Under `_native_cudnn`, whose backward pass has none, that only warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    # where it only warns, torch leaves the backward passes of attention as they are, which have a deterministic form
    by_cudnn = (config.attention or "").lower() == "_native_cudnn"
    torch.use_deterministic_algorithms(config.deterministic, warn_only=by_cudnn)
    memory.fill_uninitialized_memory = False  # a write to every buffer, which nothing here reads
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, KnownError) or NOT_DETERMINISTIC not in str(error):
            raise
        said = str(error).partition(NOT_DETERMINISTIC)[0].strip()
        raise ConfigError(f"{said} {NOT_DETERMINISTIC} on this device; set train.deterministic to false") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


@contextlib.contextmanager
def telling(output_dir: Path, main_process: bool) -> Iterator[None]:
    """Leave a KnownError in error.json at once: whoever waits for something then may be killed before it ends."""
    try:
        with space_needed(output_dir), memory_needed(TO_SPARE_MEMORY):
            yield
    except KnownError as error:
        alone_knows = isinstance(error, GpuMemoryError)  # the others wait for it in vain
        if main_process or alone_knows:
            content = {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
            with contextlib.suppress(OSError):  # a disk that is still full, which the launcher finds too
                write_atomic(output_dir / ERROR, json.dumps(content))
        raise


@contextlib.contextmanager
def space_needed(output_dir: Path) -> Iterator[None]:
    """A full disk as a DiskFullError."""
    try:
        yield
    except Exception as error:
        if not (said := disk_full(error)):
            raise
        kept = CheckpointStore(output_dir / "checkpoints", 1).updates()
        raise DiskFullError(
            f"no space left for the training in {output_dir} ({said}); free some, then run it again: it goes on from "
            f"{f'the checkpoint of update {kept[-1]}' if kept else 'the start'}"
        ) from error


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device and precision."""
    check_device()
    check_processes(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # all wait while one writes a checkpoint, which is 140 GB for FLUX.1-dev in fp32
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=2))
    precision = "bf16" if config.precision == "bf16" else "no"
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[patient])
    if (started := accelerator.num_processes) != config.num_processes:
        raise ConfigError(
            f"train.num_processes is {config.num_processes}, but {started} were started, on all nodes together; "
            f"make the job with train.num_processes={started}, or start {config.num_processes}"
        )
    return accelerator


def _load(job_path: Path, main_process: bool) -> TrainJob:
    """The job; what is wrong with it is told as `telling` does, unless another training holds the folder."""
    try:
        return TrainJob.load(job_path)
    except KnownError:
        folder = job_path.parent
        with alone_in(folder) if main_process else contextlib.nullcontext(), telling(folder, main_process):
            raise


def main(job_path: Path) -> int:
    """Train the job; 0 when done, 42 when trying again cannot help, 75 when it goes on from where it was.

    error.json in the output folder says which and why, unless another training holds the folder: nothing is written.
    """
    main_process = os.environ.get("RANK", "0") == "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the outbox tries again, and sooner
    try:
        job = _load(job_path, main_process)
        folder = Path(job.output_dir)
        with alone_in(folder) if main_process else contextlib.nullcontext():
            if main_process:
                (folder / ERROR).unlink(missing_ok=True)
            with telling(folder, main_process), reproducible(job.config.train):
                train(job, make_accelerator(job.config.train))
    except KnownError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.stderr.write("give the job file of a prepared training: python -m srpo.train FOLDER/job.json\n")
        sys.exit(ConfigError.exit_code)
    sys.exit(main(Path(sys.argv[1])))
