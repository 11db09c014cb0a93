"""Rollouts that several updates train on; kept in checkpoints, because the weights that drew them have moved on."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor


def rollouts_content(noise: Tensor, kept: Iterable[Tensor]) -> bytes:
    """As a safetensors file: noise of the whole update (images, channels, h, w), and a process's x0 in order."""
    x0 = {f"x0.{index:04d}": tensor.cpu().contiguous() for index, tensor in enumerate(kept)}
    return save({"noise": noise} | x0)


def load_rollouts(path: Path, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """What `rollouts_content` said, from the file that it was written to: noise on the CPU, x0 on `device`."""
    tensors = load_file(path)
    noise = tensors.pop("noise")
    return noise, [tensors[name].to(device) for name in sorted(tensors)]
