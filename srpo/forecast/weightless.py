"""Tensors that have shapes but no storage, and the bytes that they would take."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made and still alive inside the context, and their most so far.

    `known`: tensors that were there before; a view of one makes nothing.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@contextmanager
def without_storage(modules: Iterable[tuple[nn.Module, torch.dtype]]) -> Iterator[None]:
    """Fake tensors in the place of all weights of meta modules, and of everything that is made inside."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module, dtype in modules:
            _fill(module, dtype)
        yield


def tensors_of(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """All weights and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _fill(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace meta weights by fake ones: `dtype` where they are frozen or all trained, float32 in an adapter."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                kind = torch.float32 if "lora_" in str(name) else dtype
                part._parameters[name] = nn.Parameter(torch.empty(value.shape, dtype=kind), value.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
