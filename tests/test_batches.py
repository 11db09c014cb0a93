"""Rollouts as the trainer makes them: used again, solved, rounded or merged as the config says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo import rollout
from srpo.artifacts import TrainJob
from srpo.batches import Batches
from srpo.config import RunConfig
from srpo.draws import Draw
from srpo.errors import ConfigError
from srpo.record import read_journal
from srpo.rollout import Rollout, describe
from srpo.tuning import adapted
from tests.jobs import assert_same_weights, place, run, with_rollout

Collect = Callable[[TrainJob], tuple[list[Rollout], list[dict[str, Any]]]]


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch) -> Collect:
    """Runs a job; its rollouts, and how the model stood in each that was sampled."""

    def collected(job: TrainJob) -> tuple[list[Rollout], list[dict[str, Any]]]:
        rollouts: list[Rollout] = []
        sampled: list[dict[str, Any]] = []
        roll_out, sample = Batches._roll_out, rollout.sample

        def watched(self: Batches, draw: Draw, update: int) -> Rollout:
            rollouts.append(roll_out(self, draw, update))
            return rollouts[-1]

        def noted(model: Any, *arguments: Any) -> torch.Tensor:
            merged = [layer.merged for layer in adapted(model.transformer)]
            sampled.append({"bf16": torch.is_autocast_enabled("cpu"), "merged": merged, "solver": arguments[-1]})
            return sample(model, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Batches, "_roll_out", watched)
            patch.setattr(rollout, "sample", noted)
            run(job)
        return rollouts, sampled

    return collected


def short(job: TrainJob, folder: Path, num_updates: int = 1, **settings: object) -> TrainJob:
    return place(with_rollout(job, **settings), folder, num_updates=num_updates, schedule="constant")


def test_updates_share_rollouts_micro_batch_by_micro_batch(job: TrainJob, tmp_path: Path, collect: Collect) -> None:
    """Two micro-batches in an update, and two updates on each rollout."""
    rollouts, sampled = collect(short(job, tmp_path, num_updates=4, reuse=2))
    assert len(rollouts) == 8 and len(sampled) == 4
    for first, again in ((0, 2), (1, 3), (4, 6), (5, 7)):
        assert torch.equal(rollouts[first].x0, rollouts[again].x0)
        assert torch.equal(rollouts[first].noise, rollouts[again].noise)
        assert rollouts[first].prompts == rollouts[again].prompts
    assert not torch.equal(rollouts[0].x0, rollouts[1].x0) and not torch.equal(rollouts[0].x0, rollouts[4].x0)


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_that_uses_rollouts_again_resumes_bit_for_bit(job: TrainJob, tmp_path: Path, stop: int) -> None:
    run(short(job, tmp_path / "whole", num_updates=6, reuse=3))
    run(short(job, tmp_path / "parts", num_updates=stop, reuse=3))
    run(short(job, tmp_path / "parts", num_updates=6, reuse=3))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", 6)


def test_a_run_does_not_go_on_with_another_reuse(job: TrainJob, tmp_path: Path) -> None:
    run(short(job, tmp_path, num_updates=2, reuse=2))
    with pytest.raises(ConfigError, match="other settings in rollout"):
        run(short(job, tmp_path, num_updates=4))


def test_a_bf16_rollout_is_near_while_the_gradient_stays_in_fp32(
    job: TrainJob, tmp_path: Path, collect: Collect
) -> None:
    (exact, *_), _ = collect(short(job, tmp_path / "fp32"))
    (rounded, *_), sampled = collect(short(job, tmp_path / "bf16", precision="bf16"))
    assert all(state["bf16"] for state in sampled)
    assert rounded.x0.dtype == torch.float32
    assert 0 < (rounded.x0 - exact.x0).norm() / exact.x0.norm() < 0.05
    assert not torch.is_autocast_enabled("cpu")


def test_a_merged_adapter_trains_as_one_that_is_not(job: TrainJob, tmp_path: Path, collect: Collect) -> None:
    """In the second update, when the adapter has learnt something."""
    config = job.config.model_dump()
    config["train"] |= {"lora": {"rank": 4}, "learning_rate": 1e-2}
    job = job.model_copy(update={"config": RunConfig.model_validate(config)})
    _, apart = collect(short(job, tmp_path / "apart", num_updates=2))
    _, merged = collect(short(job, tmp_path / "merged", num_updates=2, merge_lora=True))
    assert not any(any(state["merged"]) for state in apart)
    assert all(state["merged"] and all(state["merged"]) for state in merged)
    expected, got = (read_journal(tmp_path / name / "metrics.jsonl")[1] for name in ("apart", "merged"))
    for name in ("loss", "grad_norm", "denoise/relative"):
        assert got[name] == pytest.approx(expected[name], rel=1e-3)


def test_the_solver_is_the_configs(job: TrainJob, tmp_path: Path, collect: Collect) -> None:
    (euler, *_), _ = collect(short(job, tmp_path / "euler"))
    (heun, *_), sampled = collect(short(job, tmp_path / "heun", solver="heun"))
    assert {state["solver"] for state in sampled} == {"heun"}
    assert not torch.equal(euler.x0, heun.x0)


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({}, "25 evaluations per image and update"),
        ({"rollout": {"num_steps": 30}}, "30 evaluations per image and update"),
        ({"align": {"num_injections": 4}}, "25 evaluations per image and update; exact: num_injections 4"),
        (
            {"rollout": {"num_steps": 8, "solver": "heun", "reuse": 3}},
            "5 evaluations per image and update; lossy: num_steps 8 for 25, solver heun for euler, reuse for 3 updates",
        ),
        (
            {"rollout": {"merge_lora": True}, "train": {"lora": {}, "precision": "fp32"}},
            "25 evaluations per image and update; exact: merge_lora",
        ),
        (
            {"rollout": {"merge_lora": True, "precision": "bf16"}, "train": {"lora": {}, "precision": "fp32"}},
            "25 evaluations per image and update; lossy: precision bf16 for fp32, merge_lora rounded to bf16",
        ),
        (
            {"rollout": {"merge_lora": True}, "train": {"lora": {}}},
            "25 evaluations per image and update; lossy: merge_lora rounded to bf16",
        ),
        (
            {"rollout": {"merge_lora": True}, "model": {"weights": "bf16"}, "train": {"lora": {}, "precision": "fp32"}},
            "25 evaluations per image and update; lossy: merge_lora rounded to bf16",
        ),
        ({"method": "draft_lv"}, "at most 25 evaluations per image and update"),
        ({"images": {"source": "photos"}}, "none: all updates take images"),
    ],
)
def test_a_plan_says_what_is_exact_and_what_is_lossy(settings: dict[str, Any], finding: str) -> None:
    assert describe(RunConfig.model_validate(settings)) == finding
