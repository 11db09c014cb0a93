"""From float32 to bf16 without losing a movement that is smaller than half a unit, as most of what training does is.

A published base lies on bf16's grid, so to nearest such a weight goes back to the base's. Rounded up or down at random,
with the probability that keeps the mean, each weight is off by less than a unit, but all together have moved as far.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def rounded(name: str, tensor: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor as `dtype`: for bf16 rounded stochastically, under the same name always in the same way, where it lies.

    What lies on bf16's grid, and what is not finite, stays as it is.
    """
    if dtype != torch.bfloat16 or tensor.dtype == dtype:
        return tensor.to(dtype)
    tensor = tensor.float()
    generator = torch.Generator(tensor.device).manual_seed(zlib.crc32(name.encode()))
    noise = torch.randint(1 << 16, tensor.shape, generator=generator, dtype=torch.int32, device=tensor.device)
    # bf16 is the upper half of float32; the noise carries into it with the probability that the lower half says
    upper = noise.add_(tensor.view(torch.int32)).bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()
    return torch.where(tensor.isnan(), tensor.bfloat16(), upper)


@contextmanager
def on_bf16_grid(module: nn.Module) -> Iterator[None]:
    """The trained weights of a module, whole or in slices, rounded stochastically inside; bit for bit back after it.

    What computes in bf16 inside then sees how far they have moved.
    """
    trained = {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}
    here = {name: weight.to_local() if isinstance(weight, DTensor) else weight for name, weight in trained.items()}
    before = {name: weight.clone() for name, weight in here.items()}
    try:
        for name, weight in here.items():
            weight.copy_(rounded(name, weight))
        yield
    finally:
        for name, weight in here.items():
            weight.copy_(before[name])
