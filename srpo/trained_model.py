"""The model as it is trained: loaded, made ready as the config says, and in the end written as diffusers reads it."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from srpo.config import RunConfig
from srpo.models import TextToImage, find_family, load_model, load_without_transformer
from srpo.sharding import shard
from srpo.tuning import add_lora, check_compiler, save_memory, speed_up, trainable


def trained_model(config: RunConfig, base: Path, accelerator: Accelerator) -> tuple[TextToImage, list[nn.Parameter]]:
    """The model on the device, still the base's in all it computes, and the parameters of its transformer to train.

    `base`: folder of the pipeline. ConfigError for settings that this machine cannot run.
    """
    check_compiler(config.train, accelerator.device.type == "cuda")
    model = _load(config, base, accelerator.device)
    transformer, train = model.transformer, config.train
    if train.lora is not None:
        add_lora(transformer, train.lora)
    save_memory(transformer, model.vae, train)
    speed_up(transformer, train)
    if train.sharding == "fsdp2":
        shard(transformer, base / "transformer", accelerator, keep=train.gather == "each_update")
    return model, trainable(transformer)


def _load(config: RunConfig, base: Path, device: torch.device) -> TextToImage:
    """With its weights; a transformer that will be sliced has none yet."""
    if config.train.sharding == "none":
        return load_model(config.model, base, device=device)
    model = load_without_transformer(config.model, base)
    model.vae.to(device)
    return model


def export(model: TextToImage, config: RunConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the trained weights, whole, by name, as diffusers reads them: a transformer's folder, or a LoRA file."""
    transformer = model.transformer
    if config.train.lora is not None:
        from peft import get_peft_model_state_dict

        find_family(config.model.family).pipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(transformer, state_dict=tensors),
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
        return
    with torch.device("meta"):
        bare = type(transformer).from_config(transformer.config)
    bare.load_state_dict(tensors, assign=True)
    bare.save_pretrained(folder)
