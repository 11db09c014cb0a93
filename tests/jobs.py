"""A small training job on untrained models, and ways to run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from srpo.artifacts import Trained, TrainJob
from srpo.train import reproducible, train
from srpo.trainer import Trainer


def place(job: TrainJob, output_dir: Path, **train_settings: object) -> TrainJob:
    settings = job.config.train.model_copy(update=train_settings)
    config = job.config.model_copy(update={"train": settings})
    output_dir.mkdir(exist_ok=True)
    return job.model_copy(update={"config": config, "output_dir": str(output_dir)})


def run(job: TrainJob) -> Trained:
    with reproducible(job.config.train):
        return train(job, Accelerator(cpu=True))


def with_rollout(job: TrainJob, **settings: object) -> TrainJob:
    rollout = job.config.rollout.model_copy(update=settings)
    return job.model_copy(update={"config": job.config.model_copy(update={"rollout": rollout})})


def weights_of(output_dir: Path, update: int) -> dict[str, torch.Tensor]:
    return load_file(output_dir / "checkpoints" / f"update-{update:06d}" / "transformer.safetensors")


def assert_same_weights(first: Path, second: Path, update: int) -> None:
    expected, got = weights_of(first, update), weights_of(second, update)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


class _KilledError(Exception):
    pass


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, update: int, moment: str) -> Iterator[None]:
    """Training inside ends in an update, where the trainer's method `moment` begins."""
    original = getattr(Trainer, moment)

    def stop(self: Trainer, *arguments: object, **named: object) -> None:
        if self.update == update:
            raise _KilledError
        original(self, *arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(Trainer, moment, stop)
        yield
