"""Stochastic rounding against its definition, and what a movement below half a unit becomes wherever bf16 is made."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo.config import LoraConfig, ModelConfig
from srpo.export.weights import CONFIG, WEIGHTS, write_bf16
from srpo.models import load_model
from srpo.rounding import rounded
from srpo.start import begin_from
from srpo.tuning import add_lora

Tensors = dict[str, Tensor]
BF16 = ModelConfig(weights="bf16")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("sign", [-1, 1])
def test_it_goes_to_either_neighbour_with_the_probability_that_keeps_the_mean(share: float, sign: int) -> None:
    """Between 1 and 1 + 2^-7, the next number that bf16 has: a Bernoulli variable, within four standard errors."""
    unit, num = 2.0**-7, 100_000
    found = (rounded("weight", torch.full((num,), sign * (1 + share * unit))).float() * sign - 1) / unit
    assert set(found.unique().tolist()) == ({0.0, 1.0} if share else {0.0})
    assert found.mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / num) ** 0.5)


def test_what_bf16_can_hold_stays_bit_for_bit() -> None:
    """Every one of its numbers: subnormal, both zeros and infinities too; what is not a number stays none."""
    grid = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.bfloat16)
    for held in (grid, grid.float()):
        found = rounded("weight", held)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found.isnan(), grid.isnan())
        assert torch.equal(found.view(torch.int16)[~grid.isnan()], grid.view(torch.int16)[~grid.isnan()])
    only_low_bits = torch.tensor([0x7F800001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert rounded("weight", only_low_bits.repeat(1000)).isnan().all()


def test_a_name_is_rounded_in_one_way_and_another_in_another() -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    first = rounded("a", values)
    torch.manual_seed(2)
    assert torch.equal(rounded("a", values), first)
    assert not torch.equal(rounded("b", values), first)
    state = torch.get_rng_state()
    rounded("a", values)
    assert torch.equal(torch.get_rng_state(), state), "training goes on with the same draws"


def test_float32_stays_as_it_is() -> None:
    values = torch.randn(8)
    assert torch.equal(rounded("a", values, torch.float32), values)
    assert rounded("a", values.bfloat16(), torch.float32).dtype == torch.float32


def kept(base: Tensors, moved: Tensors, found: Tensors) -> float:
    """The projection of a movement on the one that it should be, as a share of that."""
    along = sum(((found[name].float() - base[name]) * (moved[name] - base[name])).sum() for name in base)
    return float(along / sum((moved[name] - base[name]).square().sum() for name in base))


@pytest.fixture(scope="module")
def movement(flux_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, Tensors, Path]:
    """A base on bf16's grid, the same after about 1e-5 in every weight, and the folder that holds it in float32."""
    generator = torch.Generator().manual_seed(0)
    base = {
        name: tensor.bfloat16().float() for name, tensor in load_file(flux_folder / "transformer" / WEIGHTS).items()
    }
    moved = {name: tensor + 1e-5 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    folder = tmp_path_factory.mktemp("moved")
    save_file(moved, folder / WEIGHTS)
    shutil.copyfile(flux_folder / "transformer" / CONFIG, folder / CONFIG)
    return base, moved, folder


def test_a_movement_is_kept_alike_where_it_is_read_started_from_and_exported(
    movement: tuple[Tensors, Tensors, Path], flux_folder: Path, tmp_path: Path
) -> None:
    base, moved, folder = movement
    write_bf16(folder, folder / CONFIG, tmp_path)
    exported = load_file(tmp_path / WEIGHTS)
    assert exported.keys() == base.keys()
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    assert kept(base, moved, exported) == pytest.approx(1, abs=0.02)
    assert kept(base, moved, {name: tensor.bfloat16() for name, tensor in moved.items()}) < 0.5, "to nearest"
    started = load_model(BF16, flux_folder).transformer
    begin_from(started, folder, None)
    read = [load_model(BF16, flux_folder, path).transformer for path in (folder, folder / WEIGHTS)]
    for transformer in (started, *read):
        found = transformer.state_dict()
        assert all(torch.equal(found[name], exported[name]) for name in exported)


def test_an_adapter_that_is_merged_into_bf16_moves_it_as_far(flux_folder: Path, tmp_path: Path) -> None:
    adapted = load_model(ModelConfig(), flux_folder).transformer
    add_lora(adapted, LoraConfig(rank=4))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-5)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(adapted),
        transformer_lora_adapter_metadata=adapted.peft_config["default"].to_dict(),
    )
    base = {name: tensor.float() for name, tensor in load_model(BF16, flux_folder).transformer.state_dict().items()}
    moved = dict(base)
    for name, layer in adapted.named_modules():
        if hasattr(layer, "lora_B"):
            change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
            moved[f"{name}.weight"] = base[f"{name}.weight"] + change.detach()
    merged = load_model(BF16, flux_folder).transformer
    begin_from(merged, tmp_path, None)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    assert kept(base, moved, merged.state_dict()) == pytest.approx(1, abs=0.03)
    assert kept(base, moved, {name: tensor.bfloat16() for name, tensor in moved.items()}) < 0.5, "to nearest"
