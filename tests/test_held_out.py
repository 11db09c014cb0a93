"""The held-out set is gathered from the processes without a byte too many."""

import pickle
from pathlib import Path

import pytest

from srpo import held_out
from srpo.artifacts import TrainJob
from tests.jobs import place, run


def test_pictures_are_gathered_once(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What travels is pickled, and a view with the whole of its storage."""
    sent: list[int] = []
    monkeypatch.setattr(held_out, "gather_object", lambda own: sent.append(len(pickle.dumps(own))) or own)
    monitor = job.config.monitor.model_copy(update={"num_images": 4, "strip_images": 3})
    job = job.model_copy(update={"config": job.config.model_copy(update={"monitor": monitor})})
    run(place(job, tmp_path, num_updates=1))
    image, names = 3 * 32 * 32 * 4, 1000
    strip, small, _ = sent[:3]
    assert 3 * image < strip < 3 * image + names
    assert 4 * image < small < 4 * image + names
