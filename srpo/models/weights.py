"""How the transformer's weights are kept in memory: as they were trained, in bf16, or quantised once and frozen.

bf16, which quantised weights pass through too, is rounded stochastically (`srpo.rounding`).

Quantised are the linear layers of the repeated blocks, which hold nearly all of the weights; what stands around them
stays in bf16. int8: one scale per output channel (torchao). nf4: blocks of 64 values on a grid of normal quantiles
(QLoRA, arXiv:2305.14314; bitsandbytes). Both are lossy, which only a base that is not trained can bear.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn

from srpo.config import WeightsFormat
from srpo.config.world import QUANTISED
from srpo.errors import ConfigError
from srpo.models.layout import Shapes, compare_shapes, file_shapes, folder_shapes, weight_files
from srpo.rounding import rounded

ADAPTER, METADATA = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"
"""An adapter's file, and the key of its settings there, as diffusers writes them."""
ADAPTED = re.compile(r"transformer\.(?P<layer>.+)\.lora_(?P<side>A|B)\.weight")
"""Names of an adapter's tensors."""


def load_dtype(weights: WeightsFormat) -> torch.dtype:
    """What the file's tensors are read as."""
    return torch.float32 if weights == "fp32" else torch.bfloat16


def load_transformer(
    cls: Any, base: Path, aligned: Path | None, weights: WeightsFormat | None, device: torch.device
) -> Any:
    """A transformer of `cls`, kept in a format: the base's, an aligned one (folder or file), or under an adapter.

    Each tensor goes to the device as it is read. What is quantised there stays on the CPU until it is its turn, mapped
    from the file if that holds bf16. Without a format the parameters are on the meta device, in float32: something else
    will read them.
    """
    if weights is None:
        with init_empty_weights(include_buffers=False):
            return cls.from_config(cls.load_config(base, local_files_only=True)).eval()
    adapter = adapter_file(aligned)
    source = base if adapter or aligned is None else aligned
    transformer = _read(cls, base if source.is_file() else source, source, weights, device)
    quantise(transformer, weights, device)
    if adapter:
        add_adapter(transformer, adapter)
    return transformer


def add_adapter(transformer: Any, adapter: Path) -> None:
    """Put the adapter in a file on a transformer."""
    named = {"prefix": "transformer", "weight_name": adapter.name}
    transformer.load_lora_adapter(adapter.parent, local_files_only=True, **named)


def adapter_file(path: Path | None) -> Path | None:
    """The file of an adapter, if that is what is at `path`: the file, or a folder that holds it; else None."""
    if path is None or (path / ADAPTER).is_file():
        return path and path / ADAPTER
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return files[0] if len(files) == 1 and any(".lora_" in name for name in file_shapes(files[0])) else None


def adapter_settings(adapter: Path) -> dict[str, Any]:
    """What the file of an adapter says of its form, by names like `transformer.lora_alpha`; empty if nothing."""
    with safe_open(adapter, framework="pt") as file:
        settings: dict[str, Any] = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    return settings


def check_transformer(path: Path, base: Path) -> None:
    """Refuse a transformer or an adapter (file or folder) that does not fit the model folder `base`; reads headers."""
    shapes = folder_shapes(base / "transformer")
    if adapter := adapter_file(path):
        _check_adapter(adapter, shapes)
    else:
        compare_shapes(str(path), shapes, folder_shapes(path))


def _check_adapter(path: Path, base: Shapes) -> None:
    for name, shape in file_shapes(path).items():
        found = ADAPTED.fullmatch(name)
        layer = base.get(f"{found['layer']}.weight") if found else None
        if not found or layer is None:
            raise ConfigError(
                f"{path} holds {name}, which is no change of a layer of the base's transformer; give an adapter of the "
                "same model in diffusers' form (transformer.LAYER.lora_A.weight, transformer.LAYER.lora_B.weight)"
            )
        side = 1 if found["side"] == "A" else 0
        if shape[side] != layer[side]:
            raise ConfigError(f"{path} changes a layer of another size: {name} is {shape}, the base's {layer}")


def _read(cls: Any, config: Path, source: Path, weights: WeightsFormat, device: torch.device) -> Any:
    """The tensors of a folder, or a file (the form in which SRPO's own are released), by the config in a folder.

    Not diffusers' `from_pretrained`, which rounds to nearest. One tensor at a time is held in the file's own type. What
    is to be quantised stays on the CPU.
    """
    dtype, waiting = load_dtype(weights), set[str]()
    with init_empty_weights(include_buffers=False):  # Qwen's rotary angles are neither: they have to be real
        transformer = cls.from_config(cls.load_config(config, local_files_only=True))
    if weights in QUANTISED:
        waiting = {f"{name}.weight" for name, module in transformer.named_modules() if in_blocks(module, name)}
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(source):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = rounded(name, file.get_tensor(name), dtype)
                tensors[name] = tensor if name in waiting else tensor.to(device)
    transformer.load_state_dict(tensors, assign=True)
    return transformer.eval()


def quantise(transformer: nn.Module, weights: WeightsFormat, device: torch.device) -> None:
    """Replace the linear layers of the blocks in place, one by one, on a device; nothing to do for fp32 and bf16.

    What comes in is brought to bf16 first. Under autocast these layers would keep a float32 input's type otherwise, as
    no other layer does, and all that follows would be twice as large.
    """
    if weights not in QUANTISED:
        return
    if weights == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(transformer, Int8WeightOnlyConfig(), filter_fn=in_blocks, device=device)
    else:
        for name in [name for name, module in transformer.named_modules() if in_blocks(module, name)]:
            transformer.set_submodule(name, _nf4(transformer.get_submodule(name), device))
    for name, module in transformer.named_modules():
        if in_blocks(module, name):
            module.register_forward_pre_hook(_in_bf16)


def in_blocks(module: nn.Module, name: str) -> bool:
    """A linear layer of one of the repeated blocks (`transformer_blocks.3.attn.to_q`)."""
    return isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split(".")[:2])


def _in_bf16(module: nn.Module, arguments: tuple[torch.Tensor]) -> torch.Tensor:
    return arguments[0].to(torch.bfloat16)


def _nf4(linear: nn.Module, device: torch.device) -> nn.Module:
    """The layer with its weight in NF4 on a device; it computes in bf16 whatever comes in."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    assert isinstance(linear, nn.Linear)
    quantised = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        device="meta",
    )
    weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
    quantised.support_avx512bf16_for_cpu = False  # a rollout would pack the weight, which a backward pass cannot read
    quantised.weight = weight.to(device=device)  # moving is what quantises
    quantised.bias = linear.bias
    return quantised
