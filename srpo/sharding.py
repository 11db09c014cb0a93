"""Fully sharded training (FSDP2): each process keeps a slice of every weight, gradient and moment.

torch's `fully_shard` directly, because accelerate ignores its own FSDP plugin on CPU; so the path that the tests run is
the one that runs on GPUs. Whole tensors exist only while a block computes, and where a checkpoint is written: the model
is sliced before it has weights, then each process reads its rows of every tensor, so that neither device nor memory
ever holds more than a slice of it.
"""

import warnings
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from srpo.models.layout import weight_files
from srpo.rounding import rounded


def shard(transformer: nn.Module, folder: Path, accelerator: Accelerator, keep: bool = False) -> None:
    """Slice a transformer without weights over all processes and read them from a folder of safetensors, or one file.

    bf16 gathers under bf16 autocast. `keep`: what was gathered stays until `release`.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    cut(transformer, mesh, torch.bfloat16 if accelerator.mixed_precision == "bf16" else None, keep)
    _read_slices(transformer, folder, accelerator.device)


def cut(transformer: nn.Module, mesh: DeviceMesh, gathered: torch.dtype | None, keep: bool) -> None:
    """Slice each block, which is gathered as this dtype (None: its own) and reduced in fp32; `keep` as in `shard`."""
    # autocast casts what each layer takes; casting a block's inputs would round the rotary positions
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in transformer.children():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
    # the root too: what is left whole after a forward pass would be saved instead of the master weights
    fully_shard(transformer, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
    if keep:
        cast("FSDPModule", transformer).set_reshard_after_backward(False)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)  # no block works in place


def _read_slices(transformer: nn.Module, folder: Path, device: torch.device) -> None:
    """Give each parameter the rows of it that this process keeps, as `fully_shard` has cut it."""
    slices: dict[str, Tensor] = {}
    targets = dict(transformer.named_parameters())
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in targets.keys() & set(file.keys()):
                slices[name] = _slice_like(targets[name], file.get_tensor(name), device)
    missing, _ = transformer.load_state_dict(slices, strict=False, assign=True)
    assert not set(missing) & targets.keys(), "the folder has been checked"


@torch.no_grad()
def fill_weights(transformer: nn.Module, folder: Path) -> None:
    """Give each parameter, whole or a slice, its values from a folder of safetensors, or one file, in place."""
    targets = dict(transformer.named_parameters())
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                target = targets[name]
                tensor = rounded(name, file.get_tensor(name), target.dtype)
                target.copy_(_slice_like(target, tensor, target.device) if isinstance(target, DTensor) else tensor)


def _slice_like(target: Tensor, tensor: Tensor, device: torch.device) -> DTensor:
    """This process's rows of a whole tensor, which is mapped from its file, copied to the device."""
    assert isinstance(target, DTensor)
    mesh = target.device_mesh
    rows = -(-len(tensor) // mesh.size())
    first = mesh.get_local_rank() * rows
    mine = tensor[first : first + rows].to(device, target.dtype, copy=True)
    return DTensor.from_local(
        mine, mesh, target.placements, run_check=False, shape=target.shape, stride=target.stride()
    )


def is_sharded(transformer: nn.Module) -> bool:
    """Whether `shard` was called."""
    return isinstance(transformer, FSDPModule)


def defer_reduction(transformer: nn.Module, more: bool) -> None:
    """Whether gradients stay whole after a backward pass, because more of them come, or are reduced into slices."""
    if isinstance(transformer, FSDPModule):
        transformer.set_requires_gradient_sync(not more)


def release(transformer: nn.Module) -> None:
    """Let go of what was gathered, before the slices are changed or written; nothing happens where none are."""
    for module in transformer.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor into one that may be sharded."""
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements)
    target.copy_(value)
