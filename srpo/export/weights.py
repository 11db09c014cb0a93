"""A transformer's tensors as files for other programs: bfloat16, or float8 with one scale per matrix.

float8_e4m3fn has 3 bits of mantissa: a number is kept within 1/16 of itself, or within 2^-10 of the scale below the
smallest normal number, 2^-6. The scale puts a matrix's largest entry at the format's largest number, 448.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo.export.names import original_tensors
from srpo.models.layout import weight_files

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
MARKER = "scaled_fp8"  # ComfyUI's: an empty tensor whose type is that of the matrices


@dataclass(frozen=True)
class Fp8Error:
    """How far dequantised matrices are from the originals."""

    relative: float
    """Norm of the difference over norm of the originals, over all matrices."""
    worst: float
    """The same for the matrix where it is largest."""
    worst_name: str


def read_transformer(path: Path) -> dict[str, Tensor]:
    """All tensors of a transformer: one file, or a folder with one or several."""
    tensors: dict[str, Tensor] = {}
    for file in [path] if path.is_file() else weight_files(path):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors


def write_bf16(transformer: Path, config: Path, folder: Path) -> None:
    """One bf16 file and its config.json: a transformer for FluxPipeline, and for ComfyUI's `diffusion_models/`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in read_transformer(transformer).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(config, folder / CONFIG)


def write_fp8(transformer: Path, file: Path) -> Fp8Error:
    """ComfyUI's scaled fp8: matrices in float8 with `<layer>.scale_weight`, the rest in bf16, and the marker."""
    tensors: dict[str, Tensor] = {MARKER: torch.empty(0, dtype=FP8)}
    errors: dict[str, tuple[float, float]] = {}
    for name, tensor in original_tensors(read_transformer(transformer)):
        if tensor.ndim != 2:
            tensors[name] = tensor.to(torch.bfloat16)
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
