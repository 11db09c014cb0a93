"""A transformer's tensors as files for other programs: bfloat16, or float8 with one scale per matrix.

float8_e4m3fn has 3 bits of mantissa: a number is kept within 1/16 of itself, or within 2^-10 of the scale below the
smallest normal number, 2^-6. The scale puts a matrix's largest entry at the format's largest number, 448.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo.export.names import original_tensors
from srpo.files import link_or_copy
from srpo.models.layout import file_shapes, weight_files
from srpo.models.weights import METADATA, adapter_settings
from srpo.rounding import rounded

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
OTHER_SCALES = "rank_pattern", "alpha_pattern", "use_rslora"
"""Settings of an adapter, not of those trained here, by which it counts otherwise than alpha / rank."""
MARKER = "scaled_fp8"  # ComfyUI's: an empty tensor whose type is that of the matrices


@dataclass(frozen=True)
class Fp8Error:
    """How far dequantised matrices are from the originals."""

    relative: float
    """Norm of the difference over norm of the originals, over all matrices."""
    worst: float
    """The same for the matrix where it is largest."""
    worst_name: str


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a transformer, one file or a folder with one or several; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._files = {name: file for file in weight_files(path) for name in file_shapes(file)}

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write_bf16(transformer: Path, config: Path, folder: Path) -> None:
    """One bf16 file and its config.json: a transformer for FluxPipeline, and for ComfyUI's `diffusion_models/`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: rounded(name, tensor) for name, tensor in StoredTensors(transformer).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(config, folder / CONFIG)


def write_adapter(adapter: Path, file: Path) -> None:
    """The adapter with alpha / rank multiplied into its tensors, so that it counts as much where nobody reads alpha."""
    settings = adapter_settings(adapter)
    rank, alpha = (settings.get(f"transformer.{name}", 1) for name in ("r", "lora_alpha"))
    if rank == alpha or any(settings.get(f"transformer.{name}") for name in OTHER_SCALES):
        link_or_copy(adapter, file)
        return
    tensors = StoredTensors(adapter)
    scaled = {name: tensors[name] * (alpha / rank if ".lora_B." in name else 1) for name in tensors}
    metadata = {"format": "pt", METADATA: json.dumps(settings | {"transformer.lora_alpha": rank})}
    save_file(scaled, file, metadata=metadata)


def write_fp8(transformer: Path, file: Path) -> Fp8Error:
    """ComfyUI's scaled fp8: matrices in float8 with `<layer>.scale_weight`, the rest in bf16, and the marker."""
    tensors: dict[str, Tensor] = {MARKER: torch.empty(0, dtype=FP8)}
    errors: dict[str, tuple[float, float]] = {}
    for name, tensor in original_tensors(StoredTensors(transformer)):
        if tensor.ndim != 2:
            tensors[name] = rounded(name, tensor)
            continue
        tensors[name], scale = quantise(tensor)
        tensors[f"{name.removesuffix('.weight')}.scale_weight"] = scale
        difference = dequantise(tensors[name], scale) - tensor.float()
        errors[name] = (float(difference.norm()), float(tensor.float().norm()))
    save_file(tensors, file, metadata={"format": "pt"})
    return _summarise(errors)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(float8 matrix, float32 scale) with `weight` about their product."""
    weight = weight.float()
    largest = weight.abs().max()
    scale = torch.where(largest > 0, largest / FP8_MAX, torch.ones_like(largest))
    return (weight / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


def dequantise(matrix: Tensor, scale: Tensor) -> Tensor:
    """The float32 matrix that a float8 one stands for."""
    return matrix.float() * scale


def _summarise(errors: dict[str, tuple[float, float]]) -> Fp8Error:
    """One figure over all matrices, and the worst matrix."""
    ratios = {name: difference / norm if norm else 0.0 for name, (difference, norm) in errors.items()}
    worst = max(ratios, key=ratios.__getitem__)
    total = sum(difference**2 for difference, _ in errors.values()) / sum(norm**2 for _, norm in errors.values())
    return Fp8Error(total**0.5, ratios[worst], worst)
