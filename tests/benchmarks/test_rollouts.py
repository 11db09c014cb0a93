"""The rollout benchmark: its levers are settings, and its distances mean what they say."""

from pathlib import Path

import pytest
import torch

from benchmarks.rollouts import ADAPTER, DEFAULT, LEVERS, Result, compare_x0, config_of, distance, forwards
from srpo.artifacts import TrainJob
from srpo.launch import prepare_job


def test_every_lever_changes_what_it_is_compared_with() -> None:
    names = {lever.name: lever for lever in LEVERS}
    assert len(names) == len(LEVERS)
    for lever in LEVERS:
        beside = names[lever.beside]
        assert (config_of(lever) == config_of(beside)) == (lever is beside)
    assert config_of(names[DEFAULT]).rollout.num_steps == 25


def test_forwards_are_counted_as_by_hand() -> None:
    """One branch of a forward and a backward worth two, beside the rollout."""
    counted = {lever.name: forwards(config_of(lever)) for lever in LEVERS}
    assert (counted[DEFAULT], counted["6 steps of heun"], counted["reuse 4"]) == (25 + 3, 11 + 3, 25 / 4 + 3)
    assert counted["num_injections 2"] == 25 + 2 * 3


def test_a_distance_is_relative() -> None:
    x0 = torch.randn(3, 4)
    assert distance(x0, x0) == 0
    assert distance(1.1 * x0, x0) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.slow
def test_order_two_comes_nearer_to_where_the_flow_leads(tmp_path: Path) -> None:
    results = {lever.name: Result(lever) for lever in LEVERS if lever.beside == DEFAULT}
    job = TrainJob.load(prepare_job(config_of(LEVERS[0]), tmp_path))
    compare_x0(job, list(results.values()), job.weights.model.path / "transformer")
    assert results[DEFAULT].error == 0 < results[DEFAULT].from_the_end
    assert results["12 steps of ab2"].from_the_end < results["12 Euler steps"].from_the_end
    assert results["reuse 2"].error == results["num_injections 2"].error == 0
    assert ADAPTER not in results
