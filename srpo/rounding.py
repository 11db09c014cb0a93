"""From float32 to bf16 without losing a movement that is smaller than half a unit, as most of what training does is.

A published base lies on bf16's grid, so to nearest such a weight goes back to the base's. Rounded up or down at random,
with the probability that keeps the mean, each weight is off by less than a unit, but all together have moved as far.
"""

import zlib

import torch
from torch import Tensor


def rounded(name: str, tensor: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor as `dtype`: for bf16 rounded stochastically, under the same name always in the same way.

    What lies on bf16's grid, and what is not finite, stays as it is.
    """
    if dtype != torch.bfloat16 or tensor.dtype == dtype:
        return tensor.to(dtype)
    tensor = tensor.float()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randint(1 << 16, tensor.shape, generator=generator, dtype=torch.int32).to(tensor.device)
    # bf16 is the upper half of float32; the noise carries into it with the probability that the lower half says
    upper = noise.add_(tensor.view(torch.int32)).bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()
    return torch.where(tensor.isnan(), tensor.bfloat16(), upper)
