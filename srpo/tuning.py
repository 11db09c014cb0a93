"""What of the transformer is trained, by which optimizer, and what is kept for the backward pass."""

import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from srpo.config import LoraConfig, TrainConfig
from srpo.devices import find_compiler
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import ModelMixin

KEPT = {
    "aten.mm.default",
    "aten.addmm.default",
    "aten.bmm.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "bitsandbytes.gemm_4bit.default",  # a layer of nf4 weights
    "flash_attn._flash_attn_forward.default",  # of the packages flash-attn 2 and 3, and diffusers' own for the latter
    "flash_attn_3.fwd.default",
    "_diffusers_flash_attn_3._flash_attn_forward.default",
}
"""Operations whose results `selective` checkpointing keeps: nearly all of the time, a fraction of the memory.

By name, because a package defines its own when it is imported.
"""


QUERY_AND_KEY_NORMS = {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}
HALF_PRECISION = ("flash", "sage", "cudnn")
"""What the names of attention kernels have in them that take bf16 and no fp32."""


def trainable(transformer: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def add_lora(transformer: nn.Module, lora: LoraConfig) -> None:
    """An adapter (arXiv:2106.09685) on the named layers; it begins as no change, in float32 on a base of any format."""
    from peft import LoraConfig as PeftConfig

    names = [name for name, _ in transformer.named_modules()]
    if unknown := [part for part in lora.target_modules if not any(f".{name}".endswith(f".{part}") for name in names)]:
        raise ConfigError(f"train.lora.target_modules: the transformer has no layer named {', '.join(unknown)}")
    transformer.requires_grad_(False)
    try:
        transformer.add_adapter(  # type: ignore[operator]
            PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.target_modules))
        )
    except ValueError as error:  # a layer of another kind
        raise ConfigError(f"train.lora.target_modules: {error}") from None
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def adapted(transformer: nn.Module) -> list[Any]:
    """The layers that carry an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def merged(transformer: nn.Module) -> Iterator[None]:
    """The adapter added to copies of the weights, so that a layer is one product; the very weights return after it."""
    layers = adapted(transformer)
    weights = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # "safe" adds to a copy
        yield
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()


def save_memory(transformer: "ModelMixin", vae: "ModelMixin", config: TrainConfig) -> None:
    """Recompute in the backward pass what the config says is not kept."""
    if config.gradient_checkpointing == "full":
        transformer.enable_gradient_checkpointing()
    elif config.gradient_checkpointing == "selective":
        transformer.enable_gradient_checkpointing(_selectively)
    if config.vae_checkpointing and vae._supports_gradient_checkpointing:  # plan says where it does nothing
        vae.enable_gradient_checkpointing()


def _selectively(module: nn.Module, *arguments: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(module.__call__, *arguments, use_reentrant=False, context_fn=contexts)


def _policy(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if str(operation) in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def speed_up(transformer: "ModelMixin", config: TrainConfig) -> None:
    """Choose the attention kernel and compile the repeated blocks; ConfigError where the kernel is not to be had."""
    if config.attention is not None:
        try:
            transformer.set_attention_backend(config.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"train.attention: {config.attention!r} cannot be used here: {error}") from None
        if config.precision == "bf16" and "native" not in config.attention.lower():
            give_one_type(transformer)
    if config.compile:
        # blocks past the limit run uncompiled: two graphs for each batch size, with and without gradient
        torch._dynamo.config.recompile_limit = 64
        transformer.compile_repeated_blocks()


def give_one_type(transformer: nn.Module) -> None:
    """Bring queries and keys to bf16 after their norms, which autocast computes in fp32, as values are.

    Torch's own attention casts them itself, the kernels of packages do not.
    """
    for name, module in transformer.named_modules():
        if name.rpartition(".")[2] in QUERY_AND_KEY_NORMS:
            module.register_forward_hook(lambda _, __, output: output.to(torch.bfloat16))


def check_attention(config: TrainConfig, on_gpu: bool) -> None:
    """ConfigError for a kernel that diffusers does not know, that has no fp32, or whose package a GPU lacks."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements

    if config.attention is None:
        return
    known = sorted(each.value for each in AttentionBackendName)
    if config.attention.lower() not in known:
        raise ConfigError(f"train.attention: no kernel named {config.attention!r}; choose from {', '.join(known)}")
    if config.precision == "fp32" and any(kind in config.attention.lower() for kind in HALF_PRECISION):
        raise ConfigError(f"train.attention: {config.attention!r} computes in bf16; set train.precision to bf16")
    if on_gpu:
        try:
            _check_attention_backend_requirements(AttentionBackendName(config.attention.lower()))
        except RuntimeError as error:
            raise ConfigError(f"train.attention: {config.attention!r} cannot be used here: {error}") from None


def check_compiler(config: TrainConfig, on_gpu: bool) -> None:
    """ConfigError for settings that a GPU runs compiled, torchao's optimizers among them, where that cannot be."""
    needs = {
        "train.compile": config.compile,
        "train.optimizer 'adamw_8bit'": config.optimizer == "adamw_8bit",
        "train.rounding 'stochastic'": config.rounding == "stochastic",
    }
    named = ", ".join(setting for setting, used in needs.items() if used)
    if not on_gpu or not named:
        return
    if find_compiler() is None:
        raise ConfigError(
            f"{named}: on a GPU Triton compiles this, and there is no C compiler here (CC, gcc or clang); "
            "install one, or do without"
        )
    header = Path(sysconfig.get_path("include", "posix_prefix")) / "Python.h"
    if not header.is_file():
        raise ConfigError(
            f"{named}: on a GPU Triton compiles this, and Python's headers are not here ({header}); "
            "install them (python3-dev), or do without"
        )


def make_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> Optimizer:
    """AdamW, with moments in 8 bits, or rounding bf16 weights stochastically, as the config says."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    stochastic = config.rounding == "stochastic"
    if config.optimizer == "adamw" and not stochastic:
        return torch.optim.AdamW(parameters, **settings)
    from torchao import optim

    cls = optim.AdamW8bit if config.optimizer == "adamw_8bit" else optim._AdamW
    optimizer: Optimizer = cls(parameters, bf16_stochastic_round=stochastic, **settings)
    return optimizer


def stepping(parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
    """Around an optimizer step: torchao compiles its step, which takes a minute that only a GPU pays back."""
    on_gpu = parameters[0].device.type == "cuda"
    return nullcontext() if on_gpu else torch.compiler.set_stance("force_eager")


def set_learning_rate(group: dict[str, Any], rate: float) -> None:
    """Of one parameter group; torchao keeps it in a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def make_scheduler(optimizer: Optimizer, config: TrainConfig) -> LRScheduler:
    """The learning rate of each update, as the config says."""
    from diffusers.optimization import get_scheduler

    scheduler: LRScheduler = get_scheduler(
        config.schedule,
        optimizer,
        num_warmup_steps=config.num_warmup_updates,
        num_training_steps=config.num_updates,
    )
    return scheduler


def restore_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Go on where a `state_dict` that was kept as JSON says, with its rates in the optimizer."""
    # base rates as they are: JSON made floats of the tensors that torchao's optimizers count with
    scheduler.load_state_dict({key: value for key, value in state.items() if key != "base_lrs"})
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        set_learning_rate(group, float(rate))
