"""What a run costs, counted before it begins: its phases themselves, on tensors that have shapes but no storage.

Work is counted operation by operation (`torch.utils.flop_counter`), memory by the storages alive at once. Nothing is
loaded: the folder's config files are enough. Left out are what an allocator loses (5 to 10 %) and a kernel's workspace.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srpo.align import SigmaGrid
from srpo.config import RunConfig, Settings, WeightsFormat
from srpo.flow import num_evaluations
from srpo.models import TextToImage
from srpo.models.shared import TextSkeleton
from srpo.models.weights import in_blocks, load_dtype
from srpo.objective import objective, passes
from srpo.preference import Branch, make_branches
from srpo.prompts.encode import batch_size
from srpo.rewards import Reward
from srpo.rewards.preprocessing import resampling
from srpo.rollout import Rollout
from srpo.tuning import adapted, add_lora, save_memory, trainable
from srpo.weightless import LiveBytes, tensors_of, without_storage

BYTES: dict[WeightsFormat, float] = {"fp32": 4, "bf16": 2, "int8": 1, "nf4": 0.5 + 4 / 64}
"""Of one value in the blocks; NF4 has a float32 scale for every 64, int8 one for every row, which is nothing."""
MOMENTS = 2
EIGHT_BIT = 1 + 4 / 256
"""Bytes of an 8-bit moment: a float32 scale for every 256."""


class Memory(Settings):
    """Bytes on the device of one process (of its slice, where the weights are sharded)."""

    embed: int
    """Text encoders, and most of what they make of a batch of prompts."""
    weights: int
    """Transformer, VAE and reward, while the transformer is trained."""
    optimizer: int
    """Moments."""
    working: int
    """Most activations, gradients and temporaries of an update."""
    watching: int
    """Most temporaries of a measurement on held-out prompts during training."""
    evaluate: int
    """Transformer, VAE and reward, and most temporaries of an evaluation; drawing takes no more."""

    @property
    def phases(self) -> dict[str, int]:
        """Bytes at the peak of each phase; one begins when all that another had is gone."""
        train = self.weights + self.optimizer + max(self.working, self.watching)
        return {"embed": self.embed, "train": train, "evaluate": self.evaluate}

    @property
    def memory(self) -> int:
        """Bytes at the peak of all phases."""
        return max(self.phases.values())


class Cost(Memory):
    """A run's memory, and the floating-point operations of one update of one process."""

    rollout: float
    """Operations of the rollouts, averaged over the run: updates on real images have none."""
    gradient: float
    """Operations of everything with gradient: transformer forward, recomputation and backward, VAE, reward."""
    forward: float
    """Operations of one forward of the transformer for one image: the unit of `forward_equivalents`."""

    @property
    def forward_equivalents(self) -> float:
        """All work of the update in forwards of the transformer, summed over its images."""
        return (self.rollout + self.gradient) / self.forward


def count(
    config: RunConfig, model: TextToImage, reward: Reward, text: TextSkeleton, room: float = math.inf
) -> Cost | None:
    """The cost of a run, whose parts lie on the meta device and are used up.

    None, as early as that is clear, if more than `room` bytes are needed.
    """
    if config.train.lora is not None:
        add_lora(model.transformer, config.train.lora)
    save_memory(model.transformer, model.vae, config.train)
    embed, branches = embedding(config, text), _branches(config)
    with _without_storage(config, model, reward):
        weights, optimizer = _weights(model, reward, config), _moments(trainable(model.transformer), config)
        if max(embed, weights, (weights + optimizer) * (1 - _elsewhere(config))) > room:
            return None
        memory = _memory(config, model, reward, branches, embed, weights, optimizer)
        if memory.memory > room:
            return None
        return Cost(**memory.model_dump(), **_work(config, model, reward, branches))


def _memory(
    config: RunConfig,
    model: TextToImage,
    reward: Reward,
    branches: list[Branch],
    embed: int,
    weights: int,
    optimizer: int,
) -> Memory:
    """`weights`, `optimizer`: bytes of all of them, not of a slice."""
    with torch.no_grad():  # the reward's texts are encoded once, in the first of many updates
        reward(torch.zeros(1, 3, 8, 8), *([text] for text in _texts(branches)))
    rollout = _rollout(config, model, config.train.batch_size)
    several = config.train.accumulation * config.align.num_injections > 1
    with LiveBytes(tensors_of(_modules(model, reward))) as live:
        for _ in range(2 if several else 1):  # from the second on there are gradients beside the activations
            _gradient(config, model, reward, rollout, branches)
    model.transformer.zero_grad()
    copies = sum(layer.weight.nbytes for layer in adapted(model.transformer)) if config.rollout.merge_lora else 0
    parameters = trainable(model.transformer)
    elsewhere = _elsewhere(config)
    sliced = int(sum(parameter.numel() * parameter.element_size() for parameter in parameters) * elsewhere)
    drawing = _drawing(config, model, reward, autocast=False)
    watched = drawing if elsewhere else _drawing(config, model, reward, autocast=True)  # a slice is gathered in bf16
    return Memory(
        embed=embed,
        weights=weights - sliced,
        optimizer=int(optimizer * (1 - elsewhere)),
        working=max(live.peak - sliced, copies),  # at the peak, when all gradients are there
        watching=watched,
        evaluate=weights + drawing,
    )


def _work(config: RunConfig, model: TextToImage, reward: Reward, branches: list[Branch]) -> dict[str, float]:
    """Operations of an update, counted apart from memory: the counter's hooks keep tensors alive."""
    rollout = _rollout(config, model, config.train.batch_size)
    levels = torch.full((config.train.batch_size,), 0.5)
    rolled_out = 1 - config.num_offline_updates / config.train.num_updates
    guidance = config.rollout.guidance if rolled_out else config.align.guidance
    with FlopCounterMode(display=False) as forward, torch.no_grad(), _autocast(config):
        model.velocity(rollout.noise, levels, rollout.embeddings, guidance)
    with FlopCounterMode(display=False) as gradient:
        _gradient(config, model, reward, rollout, branches)
    one = forward.get_total_flops() / config.train.batch_size
    images = config.train.batch_size * config.train.accumulation
    evaluations = num_evaluations(config.rollout.solver, config.rollout.num_steps)
    return {
        "rollout": one * images * evaluations * rolled_out / config.rollout.reuse,
        "gradient": gradient.get_total_flops() * config.train.accumulation * config.align.num_injections,
        "forward": one,
    }


def embedding(config: RunConfig, text: TextSkeleton) -> int:
    """Bytes of the text encoders and of what they make of a batch of prompts."""
    dtype, tokens = load_dtype(config.model.weights), config.model.max_sequence_length + text.template
    with without_storage((encoder, dtype) for encoder in text.encoders):
        ids = torch.zeros(batch_size(config.model), tokens, dtype=torch.long)
        weights = list(tensors_of(text.encoders))
        with torch.no_grad(), LiveBytes(weights) as live:
            text.forward(ids)
    return sum(tensor.numel() * tensor.element_size() for tensor in weights) + live.peak


def _drawing(config: RunConfig, model: TextToImage, reward: Reward, autocast: bool) -> int:
    """Most bytes made at once by drawing a batch of held-out images and scoring it."""
    batch = config.evaluation.batch_size
    start = _rollout(config, model, batch)
    cast = _autocast(config) if autocast else nullcontext()
    with torch.no_grad(), LiveBytes(tensors_of(_modules(model, reward))) as live:
        with cast:
            levels = torch.full((batch,), 0.5)
            x0 = model.velocity(start.noise, levels, start.embeddings, config.evaluation.guidance)
            images = model.decode(x0)
        reward(images.float(), start.prompts)
    return live.peak


def _gradient(config: RunConfig, model: TextToImage, reward: Reward, rollout: Rollout, branches: list[Branch]) -> None:
    """Forward and backward of one injection, as the loop does it."""
    for group in passes(branches, config.align.together):
        with _autocast(config):
            loss, _ = objective(model, reward, rollout, group, len(branches), config.align.guidance, config.preference)
        loss.backward()


def _branches(config: RunConfig) -> list[Branch]:
    """The branches of an update in the middle of the grid; they cost the same at every level."""
    positions = torch.full((config.train.batch_size,), config.align.num_levels // 2)
    prompts = [""] * config.train.batch_size
    return make_branches(config.align, config.preference, SigmaGrid(config.align), positions, prompts, 1)


def _texts(branches: list[Branch]) -> set[str]:
    """All texts that the reward will be asked about."""
    return {"", *(text for branch in branches for text in (*branch.target, *branch.other))}


def _rollout(config: RunConfig, model: TextToImage, batch: int) -> Rollout:
    """Images without storage."""
    size = config.model.height, config.model.width
    noise = torch.empty(batch, *model.latent_shape(*size))
    embeddings = model.blank_embeddings(batch, config.model.max_sequence_length)
    return Rollout(noise.clone(), noise, embeddings, [""] * batch)


def _autocast(config: RunConfig) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16")


def _elsewhere(config: RunConfig) -> float:
    """Share of what is sliced that other processes keep."""
    return 1 - 1 / config.train.num_processes if config.train.sharding != "none" else 0.0


@contextmanager
def _without_storage(config: RunConfig, model: TextToImage, reward: Reward) -> Iterator[None]:
    """Fake tensors in the place of all weights, and of everything that is made inside."""
    kept = load_dtype(config.model.weights)
    kinds = [(part, kept if part is model.transformer else torch.float32) for part in _modules(model, reward)]
    try:
        with without_storage(kinds):
            yield
    finally:
        resampling.cache_clear()  # what was kept of this has no values


def _modules(model: TextToImage, reward: Reward) -> list[nn.Module]:
    return [model.transformer, model.vae, *([reward] if isinstance(reward, nn.Module) else [])]


def _weights(model: TextToImage, reward: Reward, config: RunConfig) -> int:
    """Bytes of all weights in the formats they are kept in."""
    transformer = 0.0
    for name, module in model.transformer.named_modules():
        quantised = in_blocks(module, name) and config.model.weights in ("int8", "nf4")
        for key, value in module.named_parameters(recurse=False):
            small = BYTES[config.model.weights] if quantised and key == "weight" else value.element_size()
            transformer += value.numel() * small
    others = [value for module in _modules(model, reward)[1:] for value in module.parameters()]
    return int(transformer) + sum(value.numel() * value.element_size() for value in others)


def _moments(parameters: list[nn.Parameter], config: RunConfig) -> int:
    """Bytes of AdamW's two moments, which are kept like the weights they belong to, or in 8 bits."""
    plain = 2 if config.train.rounding == "stochastic" else 4
    each = EIGHT_BIT if config.train.optimizer == "adamw_8bit" else plain
    return int(sum(prod(parameter.shape) for parameter in parameters) * MOMENTS * each)
