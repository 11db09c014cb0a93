"""GPU-hours are counted over attempts and processes, and training stops, resumably, where they are spent."""

import signal
from pathlib import Path
from typing import Any

import pytest

from srpo.artifacts import TrainJob
from srpo.batches import Batches
from srpo.budget import Budget
from srpo.config import RunConfig, load_config
from srpo.errors import PreemptedError
from srpo.forecast.price import planned_gpu_hours, price
from srpo.trained_model import trained_model
from srpo.trainer import Trainer
from tests.conftest import CONFIG
from tests.jobs import assert_same_weights, place, run, weights_of

HOUR = 3600.0


def budgeted(job: TrainJob, most: float | None) -> TrainJob:
    resources = job.config.resources.model_copy(update={"max_gpu_hours": most})
    return job.model_copy(update={"config": job.config.model_copy(update={"resources": resources})})


def test_gpu_hours_are_planned_for_all_processes() -> None:
    """Twice the processes do twice the work; each takes the same time for its share."""
    one, two = (load_config(CONFIG, ("resources.gpu=H100", f"train.num_processes={count}")) for count in (1, 2))
    predicted, alone, both = price(one, "H100"), planned_gpu_hours(one), planned_gpu_hours(two)
    assert alone and both
    assert alone["train"] == predicted.hours + predicted.measuring_hours > predicted.measuring_hours > 0
    assert both["train"] - alone["train"] == pytest.approx(predicted.hours)
    assert alone["evaluate"] == both["evaluate"] == predicted.evaluation_hours
    assert planned_gpu_hours(RunConfig()) is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that stands still until a test moves it."""
    now = [0.0]
    monkeypatch.setattr("srpo.budget.time.monotonic", lambda: now[0])
    return now


def test_hours_of_all_processes_and_attempts_are_added(clock: list[float]) -> None:
    budget = Budget(RunConfig.model_validate({"resources": {"max_gpu_hours": 10}}), num_processes=4)
    budget.before = 1.5
    clock[0] = 2 * HOUR
    assert budget.spent == 1.5 + 4 * 2
    assert budget.stop_reason() is None
    clock[0] = 2.125 * HOUR
    assert budget.stop_reason() == "the run has taken 10 GPU-hours, and resources.max_gpu_hours is 10"
    assert Budget(RunConfig(), 4).stop_reason() is None


def test_the_time_of_attempts_that_end_within_an_update_counts(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """An hour per update. Each attempt is told to stop an hour after it began: no whole update, no later checkpoint."""
    latents, step = Batches.clean_latents, Trainer.step

    def told(*arguments: Any) -> Any:
        clock[0] += HOUR
        signal.raise_signal(signal.SIGTERM)
        return latents(*arguments)

    def attempt() -> None:
        with monkeypatch.context() as patch, pytest.raises(PreemptedError):
            patch.setattr(Batches, "clean_latents", told)
            run(budgeted(place(job, tmp_path), 10))

    def take_an_hour(self: Trainer) -> None:
        clock[0] += HOUR
        step(self)

    monkeypatch.setattr(Trainer, "step", take_an_hour)
    attempt()
    attempt()
    stopped = run(budgeted(place(job, tmp_path), 3))
    assert (stopped.num_updates, stopped.gpu_hours) == (1, 3)
    attempt()
    assert run(budgeted(place(job, tmp_path), 10)).gpu_hours == 3 + 1 + 5


def test_loading_the_model_counts(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    def take_two_hours(*arguments: Any) -> Any:
        clock[0] += 2 * HOUR
        return trained_model(*arguments)

    monkeypatch.setattr("srpo.trainer.trained_model", take_two_hours)
    assert run(place(job, tmp_path, num_updates=1)).gpu_hours == 2


def test_a_spent_budget_stops_with_a_checkpoint_and_a_larger_one_goes_on(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """An hour per update, a budget of three: update 3, where no checkpoint is due, has one and is the last."""
    step = Trainer.step

    def take_an_hour(self: Trainer) -> None:
        clock[0] += HOUR
        step(self)

    monkeypatch.setattr(Trainer, "step", take_an_hour)
    stopped = run(budgeted(place(job, tmp_path), 3))
    assert stopped.num_updates == 3 and stopped.gpu_hours == 3
    assert stopped.stopped == "the run has taken 3 GPU-hours, and resources.max_gpu_hours is 3"
    assert weights_of(tmp_path, 3)
    again = run(budgeted(place(job, tmp_path), 3))
    assert again.num_updates == 3 and again.stopped, "the hours of the first attempt count"
    whole_run = run(budgeted(place(job, tmp_path), 6))
    assert whole_run.num_updates == 6 and whole_run.gpu_hours == 6
    assert whole_run.stopped is None, "a run that is at its end was not stopped"
    assert_same_weights(whole, tmp_path, 6)
