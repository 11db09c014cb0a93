"""Rollouts that several updates train on; kept in checkpoints, because the weights that drew them have moved on."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_rollouts(folder: Path, rank: int, noise: Tensor, kept: Iterable[Tensor]) -> None:
    """Noise of the whole update (images, channels, h, w), and this process's x0 (batch, channels, h, w) in order."""
    tensors = {"noise": noise.contiguous(), "x0": torch.stack(list(kept)).cpu()}
    save_file(tensors, _path(folder, rank))


def load_rollouts(folder: Path, rank: int, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What `save_rollouts` wrote: noise on the CPU, x0 on `device`."""
    tensors = load_file(_path(folder, rank))
    return tensors["noise"], tensors["x0"].to(device).unbind()


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rollouts-{rank:04d}.safetensors"
