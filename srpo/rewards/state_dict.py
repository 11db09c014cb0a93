"""State dicts of published checkpoints: safetensors, or a .pt without anything but tensors in it."""

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from srpo.errors import ConfigError
from srpo.models.layout import Shapes, file_shapes


def read_state_dict(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pt file, where they may lie under `state_dict`."""
    if path.suffix == ".safetensors":
        return load_file(path, device=device)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path} is truncated or not a checkpoint of tensors ({str(error).splitlines()[0]})"
        ) from None
    return content.get("state_dict", content)


def state_dict_shapes(path: Path) -> Shapes:
    """Names and shapes of a checkpoint's tensors, without their values."""
    if path.suffix == ".safetensors":
        return file_shapes(path)
    return {name: tuple(tensor.shape) for name, tensor in read_state_dict(path, device="meta").items()}
