"""What a GPU computes otherwise than a CPU, so that work counted here with fake tensors is a GPU's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from srpo.config import WeightsFormat
from srpo.models.weights import in_blocks

NORMS = "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "softmax.int", "log_softmax.int"
POWERS = "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "reciprocal", "rsqrt", "exp", "log", "softplus"
NEAREST = "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_nearest3d", "_upsample_nearest_exact3d"
SMOOTH = "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "_upsample_bicubic2d_aa"
FLOAT32 = (*NORMS, *POWERS, *NEAREST, *SMOOTH)
"""What models use of the AT_FORALL_FP32 lists in ATen/autocast_mode.h: autocast on CUDA computes it in float32."""


def _in_float32(operation: Any, *args: Any, **named: Any) -> Any:
    args, named = tree_map_only(Tensor, lambda each: each.float() if each.is_floating_point() else each, (args, named))
    with torch.autocast("cpu", enabled=False):
        return operation(*args, **named)


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Autocast for the CPU keeps CUDA's results inside: float32 of what would stay in bf16."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name in FLOAT32:
            packet, _, overload = name.partition(".")
            operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, partial(_in_float32, operation), "AutocastCPU")
        yield


class Int8(nn.Linear):
    """As torchao computes it: from a copy of the weight, which the backward pass keeps."""

    def forward(self, input: Tensor) -> Tensor:
        """The product x W^T + b in bf16; (..., in_features) to (..., out_features)."""
        return nn.functional.linear(input.bfloat16(), self.weight.to(torch.bfloat16, copy=True), self.bias)


class Nf4(nn.Linear):
    """As bitsandbytes computes it: the backward pass makes its copy anew."""

    def forward(self, input: Tensor) -> Tensor:
        """The product x W^T + b in bf16; (..., in_features) to (..., out_features)."""
        return nn.functional.linear(input.bfloat16(), self.weight, self.bias)


def compute_as_quantised(transformer: nn.Module, weights: WeightsFormat) -> None:
    """Let the layers of the blocks, which keep their weights, compute as quantised ones do."""
    kind = {"int8": Int8, "nf4": Nf4}.get(weights)
    for name, module in transformer.named_modules():
        if kind and in_blocks(module, name):
            module.__class__ = kind
