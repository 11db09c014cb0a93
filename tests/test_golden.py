"""Parity with the reference's recorded numbers: every number, one case at a time and in batches."""

from typing import Any

import pytest
import torch

from tests.parity import RELATIVE, Golden, golden_sets

pytestmark = pytest.mark.golden


@pytest.fixture(params=golden_sets(), ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


@pytest.mark.parametrize("together", [True, False], ids=["one-batch", "one-by-one"])
def test_every_case_alone(golden: Golden, together: bool) -> None:
    for case in golden.cases:
        golden.check([case], together)


@pytest.mark.parametrize("together", [True, False], ids=["one-batch", "one-by-one"])
def test_cases_in_a_batch(golden: Golden, together: bool) -> None:
    golden.check(golden.cases, together)
    golden.check(golden.cases[-3:], together)


def test_a_batch_of_four_is_four_updates_accumulated(golden: Golden) -> None:
    """Every gradient of the transformer, ten times nearer than the recorded numbers are met."""

    def gradient(cases: list[dict[str, Any]]) -> torch.Tensor:
        golden.update(cases, together=True)
        return torch.cat([p.grad.flatten() for p in golden.model.transformer.parameters() if p.grad is not None])

    four = golden.cases[:4]
    assert len(four) == 4
    accumulated = torch.stack([gradient([case]) for case in four]).sum(dim=0) / 4
    assert accumulated.norm() > 0
    assert (gradient(four) - accumulated).norm() <= RELATIVE / 10 * accumulated.norm()
