"""GPUs as a plan knows them: usable memory, peak speed (dense bf16, from the makers' data sheets); and those here."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from srpo.errors import ConfigError

DEVICES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


class Gpu(NamedTuple):
    """One device."""

    memory: float
    """GiB that a program can use."""
    peak: float
    """TFLOP/s in bf16 with fp32 accumulation, dense."""


GPUS = {
    "3090": Gpu(23.6, 71),
    "4090": Gpu(23.6, 165),
    "5090": Gpu(31.3, 209),
    "L40S": Gpu(44.5, 362),
    "A100-40": Gpu(39.4, 312),
    "A100-80": Gpu(79.2, 312),
    "H100": Gpu(79.2, 989),
    "H20": Gpu(95.6, 148),
    "H200": Gpu(139.8, 989),
    "B200": Gpu(178.4, 2250),
}

REACHABLE = 0.8
"""Share of the peak that large matrix products reach: the floor of any implementation."""
EXPECTED = 0.35
"""Share that diffusion training usually reaches without compilation (published runs: 12 to 37 %)."""
ALLOCATOR = 1.08
"""What an allocator loses to fragments, over the bytes in use."""


def find_gpu(name: str) -> Gpu:
    """A GPU by name; ConfigError lists the names."""
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: not in the list; choose from {', '.join(GPUS)}")
    return GPUS[name]


def check_device() -> None:
    """Make torch ready for its device: convolutions, through which rewards see, in whole float32, not its TF32.

    ConfigError where work would go to the CPU because torch cannot use the NVIDIA GPU that is here.

    CUDA_VISIBLE_DEVICES that shows none asks for the CPU. What counts is a device: a container without any sees the
    driver of its node too.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or not any(DEVICES.glob("nvidia[0-9]*")) or torch.cuda.is_available():
        return
    raise ConfigError(
        f"there is an NVIDIA GPU, but torch, which is built for CUDA {torch.version.cuda}, cannot use it with driver "
        f"{driver_version()}; install a newer driver, or set CUDA_VISIBLE_DEVICES= (to nothing) to work on the CPU"
    )


def check_processes(num_processes: int) -> None:
    """ConfigError where so many processes of this machine would have to share its GPUs."""
    import torch

    if 0 < (count := torch.cuda.device_count()) < num_processes:
        raise ConfigError(
            f"{num_processes} processes are to train on this machine, which has {count} GPU{'s' if count > 1 else ''}; "
            "lower train.num_processes (and raise train.accumulation as much), or set CUDA_VISIBLE_DEVICES= (to "
            "nothing) to train on the CPU"
        )


def driver_version() -> str:
    """The version of this machine's NVIDIA driver, `unknown` where it does not say."""
    found = re.search(r"\d+\.\d[\d.]*", DRIVER.read_text(encoding="utf-8")) if DRIVER.exists() else None
    return found.group() if found else "unknown"
