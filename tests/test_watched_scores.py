"""A held-out score that a bound of the monitor names is measured while a model is trained, and others are not."""

from pathlib import Path

from srpo.artifacts import TrainJob
from srpo.config import Bound, ScoreConfig
from srpo.record import HELD_OUT, read_journal
from srpo.weights import fetch_score
from tests.jobs import place, run


def test_a_bounded_score_is_measured_during_training(job: TrainJob, hps_folder: Path, tmp_path: Path) -> None:
    score = ScoreConfig(family="hps", source=str(hps_folder), architecture="tiny.json")
    settings = job.config.evaluation.model_copy(update={"scores": {"watched": score, "other": score}})
    monitor = job.config.monitor.model_copy(update={"bounds": (Bound(metric="watched", max_change=-9),)})
    config = job.config.model_copy(update={"evaluation": settings, "monitor": monitor})
    weights = job.weights.model_copy(
        update={"scores": {name: fetch_score(name, score) for name in ("watched", "other")}}
    )
    job = place(job.model_copy(update={"config": config, "weights": weights}), tmp_path, num_updates=2)
    run(job)
    before, after = read_journal(tmp_path / HELD_OUT)
    assert {"watched", "relative/watched"} < set(after) and "other" not in after
    assert after["watched"] == after["reward"], "the same checkpoint on square pictures"
    assert not before["violations"] or "watched" in before["violations"][0]
    assert after["violations"][0].startswith("watched changed by")
