"""A process for each GPU, one on the CPU; more processes than GPUs share them."""

import pytest
import torch

from srpo.devices import count_processes, device_of


@pytest.mark.parametrize(
    ("gpus", "processes", "devices"), [(0, 1, ["cpu", "cpu", "cpu"]), (2, 2, ["cuda:0", "cuda:1", "cuda:0"])]
)
def test_a_process_for_each_gpu_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, gpus: int, processes: int, devices: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert (count_processes(None), count_processes(3)) == (processes, 3)
    assert [str(device_of(rank)) for rank in range(3)] == devices
