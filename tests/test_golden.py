"""Parity with the reference's recorded numbers: every number, one case at a time and in batches."""

import pytest

from tests.parity import Golden, golden_sets

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
