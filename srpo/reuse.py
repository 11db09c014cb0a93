"""Rollouts that several updates train on; kept in checkpoints, because the weights that drew them have moved on."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_rollouts(folder: Path, rank: int, noise: Tensor, kept: Iterable[Tensor]) -> None:
    """Noise of the whole update (images, channels, h, w), and this process's x0 (batch, channels, h, w) in order."""
    x0 = {f"x0.{index:04d}": tensor.cpu().contiguous() for index, tensor in enumerate(kept)}
    save_file({"noise": noise} | x0, _path(folder, rank))


def load_rollouts(folder: Path, rank: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """What `save_rollouts` wrote: noise on the CPU, x0 on `device`."""
    tensors = load_file(_path(folder, rank))
    noise = tensors.pop("noise")
    return noise, [tensors[name].to(device) for name in sorted(tensors)]


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rollouts-{rank:04d}.safetensors"
