"""Fully sharded training (FSDP2): each process keeps a slice of every weight, gradient and moment.

torch's `fully_shard` directly, because accelerate ignores its own FSDP plugin on CPU; so the path that the tests run is
the one that runs on GPUs. Whole tensors exist only while a block computes, and where a checkpoint is written.
"""

import warnings

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(transformer: nn.Module, accelerator: Accelerator) -> None:
    """Slice the weights over all processes, block by block; bf16 gathers under bf16 autocast, fp32 reductions."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    gathered = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    # autocast casts what each layer takes; casting a block's inputs would round the rotary positions
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in transformer.children():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy)
    # the root too: what is left whole after a forward pass would be saved instead of the master weights
    fully_shard(transformer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)  # no block works in place


def is_sharded(transformer: nn.Module) -> bool:
    """Whether `shard` was called."""
    return isinstance(transformer, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor into one that may be sharded."""
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements)
    target.copy_(value)
