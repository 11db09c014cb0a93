"""What an update costs, counted before it runs: the update itself, on tensors that have shapes but no storage.

Work is counted operation by operation (`torch.utils.flop_counter`), memory by the storages alive at once. Nothing is
loaded: the folder's config files are enough. Left out are what an allocator loses (5 to 10 %) and a kernel's workspace.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from srpo.config import RunConfig, Settings, WeightsFormat
from srpo.control_words import control_words
from srpo.criteria import Criterion, criteria_of
from srpo.gpus import ALLOCATOR, EXPECTED, REACHABLE, find_gpu
from srpo.methods import Method, make_method
from srpo.models import TextToImage
from srpo.models.weights import in_blocks
from srpo.preference import control_word, with_word
from srpo.rewards import Reward
from srpo.rewards.preprocessing import resampling
from srpo.rollout import Rollout
from srpo.tuning import add_lora, save_memory, trainable

BYTES: dict[WeightsFormat, float] = {"fp32": 4, "bf16": 2, "int8": 1, "nf4": 0.5 + 4 / 64}
"""Of one value in the blocks; NF4 has a float32 scale for every 64, int8 one for every row, which is nothing."""
MOMENTS = 2
EIGHT_BIT = 1 + 4 / 256
"""Bytes of an 8-bit moment: a float32 scale for every 256."""


class Cost(Settings):
    """One update of one process: floating-point operations and bytes (of its slice, where the weights are sharded)."""

    rollout: float
    """Operations of the rollouts."""
    gradient: float
    """Operations of everything with gradient: transformer forward, recomputation and backward, VAE, reward."""
    forward: float
    """Operations of one forward of the transformer for one image: the unit of `forward_equivalents`."""
    weights: int
    """Bytes of transformer, VAE and reward."""
    optimizer: int
    """Bytes of the moments."""
    working: int
    """Most bytes of activations, gradients and temporaries alive at once."""

    @property
    def forward_equivalents(self) -> float:
        """All work of the update in forwards of the transformer, summed over its images."""
        return (self.rollout + self.gradient) / self.forward

    @property
    def memory(self) -> int:
        """Bytes on the device at the peak."""
        return self.weights + self.optimizer + self.working


class Prediction(Settings):
    """What a run asks of one GPU."""

    gpu: str
    memory: float
    """GiB at the peak, with what the allocator loses."""
    fits: bool
    seconds_per_update: float
    """At the share of the peak speed that training usually reaches."""
    floor_per_update: float
    """At the share that large matrix products reach."""
    hours: float
    """All updates, without held-out measurements and evaluation."""
    forward_equivalents: float
    """Work per image, in forwards of the transformer."""


def predict(config: RunConfig, cost: Cost, gpu: str) -> Prediction:
    """The cost on a GPU of `srpo.gpus`."""
    device = find_gpu(gpu)
    memory = cost.memory / 2**30 * ALLOCATOR
    work = (cost.rollout + cost.gradient) / (device.peak * 1e12)
    return Prediction(
        gpu=gpu,
        memory=memory,
        fits=memory <= device.memory,
        seconds_per_update=work / EXPECTED,
        floor_per_update=work / REACHABLE,
        hours=work / EXPECTED * config.train.num_updates / 3600,
        forward_equivalents=cost.forward_equivalents / (config.train.batch_size * config.train.accumulation),
    )


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


def count(config: RunConfig, model: TextToImage, reward: Reward, added: Sequence[Reward] = ()) -> Cost:
    """The cost of one update of one process; model, reward and added rewards lie on the meta device and are used up."""
    if config.train.lora is not None:
        add_lora(model.transformer, config.train.lora)
    save_memory(model.transformer, model.vae, config.train)
    images = config.train.batch_size * config.train.accumulation
    criteria = criteria_of(config, (reward, *added))
    for criterion in criteria:
        criterion.scale = 1.0
    method = make_method(config, model, criteria, partial(_autocast, config))
    positions = method.positions.draw((1, config.train.batch_size), Generator().manual_seed(0))  # all cost the same
    modules = (model.transformer, model.vae, *_modules(criteria))
    with _without_storage(model, modules, config):
        rollout = _rollout(config, model)
        levels = torch.full((config.train.batch_size,), 0.5)
        with FlopCounterMode(display=False) as forward, torch.no_grad(), _autocast(config):
            model.velocity(rollout.noise, levels, rollout.embeddings, config.rollout.guidance)
        with torch.no_grad():  # texts are encoded once, in the first of many updates
            for criterion in criteria:
                criterion.reward(torch.zeros(1, 3, 8, 8), *([text] for text in _texts(criterion)))
        parameters = trainable(model.transformer)
        with LiveBytes(_tensors(modules)) as live:
            _gradient(method, rollout, positions)
        model.transformer.zero_grad()
        with FlopCounterMode(display=False) as gradient:  # apart: its hooks keep tensors alive
            _gradient(method, rollout, positions)
    one = forward.get_total_flops() / config.train.batch_size
    trained = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    processes = config.train.num_processes if config.train.sharding != "none" else 1
    elsewhere = 1 - 1 / processes
    return Cost(
        rollout=one * images * method.rollout_steps,
        gradient=gradient.get_total_flops() * config.train.accumulation * config.num_injections,
        forward=one,
        weights=_weights(model.transformer, modules[1:], config) - int(trained * elsewhere),
        optimizer=_moments(parameters, config) // processes,
        working=live.peak - int(trained * elsewhere),  # at the peak, when all gradients are there
    )


def _gradient(method: Method, rollout: Rollout, positions: Tensor) -> None:
    """Forward and backward of one injection, as the loop does it."""
    for loss, _ in method.losses(rollout, positions, update=1):
        loss.backward()


def _texts(criterion: Criterion) -> set[str]:
    """All texts that a reward will be asked about in the first update."""
    words = control_words(criterion.preference)
    return {"", *(text for group in words.of("", 1) for text in with_word(control_word(group, 1), [""]))}


def _rollout(config: RunConfig, model: TextToImage) -> Rollout:
    """Images of a micro-batch, without storage."""
    batch, size = config.train.batch_size, (config.model.height, config.model.width)
    noise = torch.empty(batch, *model.latent_shape(*size))
    embeddings = model.blank_embeddings(batch, config.model.max_sequence_length)
    return Rollout(noise.clone(), noise, embeddings, [""] * batch)


def _autocast(config: RunConfig) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16")


@contextmanager
def _without_storage(model: TextToImage, modules: Sequence[nn.Module], config: RunConfig) -> Iterator[None]:
    """Fake tensors in the place of all weights, and of everything that is made inside."""
    precision = torch.float32 if config.model.weights == "fp32" else torch.bfloat16
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in modules:
            _fill(module, precision if module is model.transformer else torch.float32)
        try:
            yield
        finally:
            resampling.cache_clear()  # what was kept of this has no values


def _modules(criteria: Sequence[Criterion]) -> list[nn.Module]:
    return [criterion.reward for criterion in criteria if isinstance(criterion.reward, nn.Module)]


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


def _tensors(modules: Sequence[nn.Module]) -> Iterator[Tensor]:
    """All weights and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _weights(trained: nn.Module, frozen: Sequence[nn.Module], config: RunConfig) -> int:
    """Bytes of all weights in the formats they are kept in."""
    transformer = 0.0
    for name, module in trained.named_modules():
        quantised = in_blocks(module, name) and config.model.weights in ("int8", "nf4")
        for key, value in module.named_parameters(recurse=False):
            small = BYTES[config.model.weights] if quantised and key == "weight" else value.element_size()
            transformer += value.numel() * small
    others = [value for module in frozen for value in module.parameters()]
    return int(transformer) + sum(value.numel() * value.element_size() for value in others)


def _moments(parameters: list[nn.Parameter], config: RunConfig) -> int:
    """Bytes of AdamW's two moments, which are kept like the weights they belong to, or in 8 bits."""
    plain = 2 if config.train.rounding == "stochastic" else 4
    each = EIGHT_BIT if config.train.optimizer == "adamw_8bit" else plain
    return int(sum(prod(parameter.shape) for parameter in parameters) * MOMENTS * each)
