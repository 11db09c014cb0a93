"""A process for each GPU, one on the CPU; a GPU that torch cannot use is said so, before the CPU works instead."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srpo import devices as machine
from srpo.config import ModelConfig, TrainConfig
from srpo.devices import check_device, count_processes, device_of, driver_version
from srpo.encoding import Encoding
from srpo.errors import ConfigError
from srpo.evaluation.measure import draw_and_score
from srpo.generate import Painter
from srpo.train import make_accelerator

NONE: Any = None
TOO_OLD = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 12.2.0\n"
)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/dev of a machine whose driver is too old for torch."""
    (tmp_path / "version").write_text(TOO_OLD)
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(machine, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "dev"


@pytest.mark.parametrize(
    "begin",
    [
        lambda: make_accelerator(TrainConfig()),
        lambda: next(Encoding.share(NONE, [0], NONE)),
        lambda: draw_and_score([], NONE, NONE, {}, [], NONE),
        lambda: Painter(ModelConfig(source="nowhere"), Path("nowhere")),
    ],
    ids=["train", "embed", "evaluate", "generate"],
)
def test_all_that_computes_refuses_a_gpu_whose_driver_is_too_old(devices: Path, begin: Callable[[], object]) -> None:
    (devices / "nvidia0").touch()
    with pytest.raises(
        ConfigError, match=r"built for CUDA 13\.2, cannot use it with driver 535\.129\.03; install a newer"
    ):
        begin()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_the_cpu_can_be_asked_for(devices: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    (devices / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    check_device()


def test_a_container_without_a_device_on_a_node_with_gpus_has_none(devices: Path) -> None:
    (devices / "nvidiactl").touch()
    check_device()


def test_a_driver_that_says_nothing_is_unknown(devices: Path) -> None:
    machine.DRIVER.unlink()
    assert driver_version() == "unknown"


def test_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes are to train on this machine, which has 1 GPU; lower"):
        make_accelerator(TrainConfig())
    machine.check_processes(1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    machine.check_processes(2)


@pytest.mark.parametrize("begin", [lambda: make_accelerator(TrainConfig(precision="fp32")), check_device])
def test_no_convolution_is_computed_in_tf32(begin: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what torch does unless it is told; rewards look at pictures through one."""
    convolutions: Any = torch.backends.cudnn.conv
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr("srpo.train.Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    assert convolutions.fp32_precision == "tf32"
    begin()
    assert convolutions.fp32_precision != "tf32"


@pytest.mark.parametrize(
    ("gpus", "processes", "devices"), [(0, 1, ["cpu", "cpu", "cpu"]), (2, 2, ["cuda:0", "cuda:1", "cuda:0"])]
)
def test_a_process_for_each_gpu_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, gpus: int, processes: int, devices: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert (count_processes(None), count_processes(3)) == (processes, 3)
    assert [str(device_of(rank)) for rank in range(3)] == devices


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 6), ("350000 100000", 4), ("900000 100000", 6)])
def test_a_container_has_no_more_cores_than_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(machine, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert machine.num_cores() == cores
