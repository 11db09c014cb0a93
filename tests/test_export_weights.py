"""Exported tensors against other implementations: diffusers' own conversion, and the arithmetic of the format."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file

from srpo.export.names import original_tensors
from srpo.export.weights import FP8, MARKER, StoredTensors, dequantise, quantise, write_bf16, write_fp8
from srpo.rounding import rounded


def test_diffusers_own_conversion_undoes_the_renaming() -> None:
    """At FLUX.1-dev's widths, which that conversion has built in; one column is enough, as only rows are stacked."""
    config = dict(FluxTransformer2DModel(num_layers=0, num_single_layers=0).config) | {
        "num_layers": 2,
        "num_single_layers": 2,
        "guidance_embeds": True,
    }
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(config)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape[0], *[1] * (tensor.ndim - 1), generator=generator)
        for name, tensor in model.state_dict().items()
    }
    back = convert_flux_transformer_checkpoint_to_diffusers(dict(original_tensors(state)))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_exported_transformer_is_the_original_rounded_to_bf16(flux_folder: Path, tmp_path: Path) -> None:
    write_bf16(flux_folder / "transformer", flux_folder / "transformer" / "config.json", tmp_path)
    loaded = FluxTransformer2DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).state_dict()
    original = FluxTransformer2DModel.from_pretrained(flux_folder / "transformer").state_dict()
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[name], rounded(name, original[name])) for name in original)


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e4])
def test_float8_keeps_a_number_within_half_a_step(spread: float) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * spread
    matrix, scale = quantise(weight)
    assert (matrix.dtype, scale.dtype, scale.shape) == (FP8, torch.float32, ())
    half_step = torch.maximum(weight.abs() / 16, scale * 2**-10)
    assert ((dequantise(matrix, scale) - weight).abs() <= half_step * (1 + 1e-5)).all()
    assert matrix.float().abs().max() == 448


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not dequantise(*quantise(torch.zeros(3, 3))).any()


def test_scaled_fp8_holds_matrices_with_scales_and_the_rest_in_bf16(flux_folder: Path, tmp_path: Path) -> None:
    error = write_fp8(flux_folder / "transformer", tmp_path / "fp8.safetensors")
    tensors = load_file(tmp_path / "fp8.safetensors")
    marker = tensors.pop(MARKER)
    assert (marker.dtype, marker.numel()) == (FP8, 0)
    originals = dict(original_tensors(StoredTensors(flux_folder / "transformer")))
    difference = norm = 0.0
    for name, original in originals.items():
        if original.ndim == 2:
            scale = tensors.pop(f"{name.removesuffix('.weight')}.scale_weight")
            found = dequantise(tensors.pop(name), scale)
            assert ((found - original).abs() <= torch.maximum(original.abs() / 16, scale * 2**-10) * (1 + 1e-5)).all()
            difference, norm = (
                difference + float((found - original).square().sum()),
                norm + float(original.square().sum()),
            )
        else:
            assert torch.equal(tensors.pop(name), rounded(name, original))
    assert not tensors
    assert error.relative == pytest.approx((difference / norm) ** 0.5, rel=1e-4)
    assert error.relative <= error.worst < 1 / 16
