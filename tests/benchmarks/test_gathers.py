"""The bytes counted are those worked out by hand from the number of weights."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks import gathers
from benchmarks.bench import SMALL
from srpo.config import load_config
from srpo.models import model_skeleton


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Two processes, of which one is here."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("keep", "once"), [(False, False), (True, False), (True, True)])
def test_bytes_of_an_update(mesh: DeviceMesh, keep: bool, once: bool) -> None:
    """Three micro-batches: each draws by five steps, learns by one pass, which goes through all blocks twice."""
    settings = ("rollout.num_steps=5", "train.accumulation=3", "train.gradient_checkpointing=full")
    config = load_config(SMALL.recipe, settings)
    counted = gathers.of_update(config, SMALL.model, torch.bfloat16, keep, once, mesh)
    weights = sum(math.prod(each.shape) for each in model_skeleton(config.model, SMALL.model).transformer.parameters())
    assert counted[gathers.REDUCE] == pytest.approx((1 if once else 3) * 4 * weights, rel=0.01)
    assert counted[gathers.GATHER] == pytest.approx((1 if keep else 3 * (5 + 2)) * 2 * weights, rel=0.05)
