"""Work that is shared out: a process for each GPU, or one on the CPU where there is none."""

import torch


def count_processes(given: int | None) -> int:
    """As many as given; one per GPU, or one on the CPU, if None."""
    return given or max(1, torch.cuda.device_count())


def device_of(rank: int) -> torch.device:
    """Where the process of a rank (from 0) works: the GPUs in turn, the CPU where there is none."""
    count = torch.cuda.device_count()
    return torch.device("cuda", rank % count) if count else torch.device("cpu")
