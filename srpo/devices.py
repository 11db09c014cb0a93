"""What this machine has to work with: GPUs with their driver, cores, a compiler; and how work is shared out over it."""

import math
import os
import re
import shutil
from pathlib import Path

import torch

from srpo.errors import ConfigError

DEVICES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of all cores that a container has in each period, or `max`, and the period."""


def count_processes(given: int | None) -> int:
    """As many as given; one per GPU, or one on the CPU, if None."""
    return given or max(1, torch.cuda.device_count())


def device_of(rank: int) -> torch.device:
    """Where the process of a rank (from 0) works: the GPUs in turn, the CPU where there is none."""
    count = torch.cuda.device_count()
    return torch.device("cuda", rank % count) if count else torch.device("cpu")


def check_device() -> None:
    """Make torch ready for its device: convolutions, through which rewards see, in whole float32, not its TF32.

    ConfigError where work would go to the CPU because torch cannot use the NVIDIA GPU that is here.

    CUDA_VISIBLE_DEVICES that shows none asks for the CPU. What counts is a device: a container without any sees the
    driver of its node too.
    """
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


def num_cores() -> int:
    """Cores that this process may use, of a node's no more than its container's quota (the limit of a pod)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = CPU_MAX.read_text(encoding="utf-8").split() if CPU_MAX.exists() else ("max", "")
    return count if quota == "max" else min(count, math.ceil(int(quota) / int(period)))


def find_compiler() -> str | None:
    """The C compiler that Triton builds with: CC, or else gcc or clang."""
    named = os.environ.get("CC")
    return shutil.which(named) if named is not None else shutil.which("gcc") or shutil.which("clang")
