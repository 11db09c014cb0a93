"""What a run costs, counted before it begins: its phases themselves, on tensors that have shapes but no storage.

Work is counted operation by operation (`torch.utils.flop_counter`), memory by the storages alive at once. Nothing is
loaded: the folder's config files are enough. Left out are what an allocator loses (5 to 10 %) and a kernel's workspace.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import prod

import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from srpo.config import RunConfig, TrainConfig, WeightsFormat
from srpo.control_words import control_words
from srpo.criteria import Criterion, criteria_of
from srpo.flow import num_evaluations
from srpo.forecast.cuda_rules import Int8, Nf4, compute_as_quantised, cuda_autocast
from srpo.forecast.weightless import LiveBytes, tensors_of, without_storage
from srpo.methods import Method, make_method
from srpo.models import TextSkeleton, TextToImage
from srpo.models.weights import load_dtype
from srpo.preference import control_word, with_word
from srpo.prompts.encode import batch_size
from srpo.rewards import Reward
from srpo.rewards.preprocessing import resampling
from srpo.rollout import Rollout
from srpo.strict import Strict
from srpo.tuning import adapted, add_lora, save_memory, trainable

BYTES: dict[WeightsFormat, float] = {"fp32": 4, "bf16": 2, "int8": 1, "nf4": 0.5 + 4 / 64}
"""Of one value in the blocks; NF4 has a float32 scale for every 64, int8 one for every row, which is nothing."""
MOMENTS = 2
EIGHT_BIT = 1 + 4 / 256
"""Bytes of an 8-bit moment: a float32 scale for every 256."""


class Memory(Strict):
    """Bytes on the device of one process (of its slice, where the weights are sharded)."""

    embed: int
    """Text encoders, and most of what they make of a batch of prompts."""
    weights: int
    """Transformer, VAE, rewards, and held-out scores that the monitor names, while the transformer is trained."""
    optimizer: int
    """Moments."""
    working: int
    """Most activations, gradients and temporaries of an update."""
    watching: int
    """Most temporaries of a measurement on held-out prompts during training."""
    evaluate: int
    """Transformer, VAE, rewards and held-out scores, and most temporaries of an evaluation; drawing takes no more."""

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
    held_out: float
    """Operations of one held-out image: drawn, decoded, and scored by the run's rewards."""

    @property
    def forward_equivalents(self) -> float:
        """All work of the update in forwards of the transformer, summed over its images."""
        return (self.rollout + self.gradient) / self.forward


def count(
    config: RunConfig, model: TextToImage, rewards: Sequence[Reward], text: TextSkeleton, room: float = math.inf
) -> Cost | None:
    """The cost of a run, whose parts lie on the meta device and are used up.

    None, as early as that is clear, if more than `room` bytes are needed.
    """
    compute_as_quantised(model.transformer, config.model.weights)
    if config.train.lora is not None:
        add_lora(model.transformer, config.train.lora)
    save_memory(model.transformer, model.vae, config.train)
    criteria = criteria_of(config, rewards)
    for criterion in criteria:
        criterion.scale = 1.0  # it is measured later, and costs the same
    method = make_method(config, model, criteria, partial(_autocast, config))
    embed = embedding(config, text)
    with _without_storage(method):
        num_trained = sum(prod(parameter.shape) for parameter in trainable(model.transformer))
        weights, optimizer = _weights(method), moment_bytes(num_trained, config.train)
        if max(embed, weights, (weights + optimizer) * (1 - _elsewhere(config))) > room:
            return None
        memory = _memory(method, embed, weights, optimizer)
        if memory.memory > room:
            return None
        return Cost(**memory.model_dump(), **_work(method))


def _memory(method: Method, embed: int, weights: int, optimizer: int) -> Memory:
    """`weights`, `optimizer`: bytes of all of them, not of a slice."""
    config, model = method.config, method.model
    with torch.no_grad():  # texts are encoded once, in the first of many updates
        for criterion in method.criteria:
            criterion.reward(torch.zeros(1, 3, 8, 8), *([text] for text in _texts(criterion)))
    rollout = _rollout(config, model, config.train.batch_size)
    several = config.train.accumulation * config.num_injections > 1
    with LiveBytes(tensors_of(_modules(method))) as live:
        for _ in range(2 if several else 1):  # from the second on there are gradients beside the activations
            _gradient(method, rollout)
    model.transformer.zero_grad()
    copies = sum(layer.weight.nbytes for layer in adapted(model.transformer)) if config.rollout.merge_lora else 0
    parameters = trainable(model.transformer)
    elsewhere = _elsewhere(config)
    sliced = int(sum(parameter.numel() * parameter.element_size() for parameter in parameters) * elsewhere)
    copy_size = 2 if config.train.precision == "bf16" else 4
    gathered = copy_size * sum(p.numel() for p in parameters) if config.train.gather == "each_update" else 0
    unreduced = sliced if several and config.train.reduce == "each_update" else 0  # gradients, whole until the last
    drawing = _drawing(method, autocast=False)
    watched = drawing if elsewhere else _drawing(method, autocast=True)  # a slice is gathered in bf16
    copied = sum(p.nbytes for p in parameters) * (1 - elsewhere) if config.train.computes_with_copies else 0
    return Memory(
        embed=embed,
        weights=weights - sliced,
        optimizer=int(optimizer * (1 - elsewhere)),
        working=max(live.peak - sliced, copies) + gathered + unreduced,  # at the peak, when all gradients are there
        watching=watched + gathered + int(copied),  # the exact weights, meanwhile
        evaluate=weights + drawing,
    )


def _work(method: Method) -> dict[str, float]:
    """Operations of an update, counted apart from memory: the counter's hooks keep tensors alive."""
    config, model = method.config, method.model
    rollout = _rollout(config, model, config.train.batch_size)
    levels = torch.full((config.train.batch_size,), 0.5)
    rolled_out = 1 - config.num_offline_updates / config.train.num_updates
    guidance = config.rollout.guidance if rolled_out else config.align.guidance
    with FlopCounterMode(display=False) as forward, torch.no_grad(), _autocast(config):
        model.velocity(rollout.noise, levels, rollout.embeddings, guidance)
    with FlopCounterMode(display=False) as gradient:
        _gradient(method, rollout)
    one = forward.get_total_flops() / config.train.batch_size
    start = _rollout(config, model, 1)
    with FlopCounterMode(display=False) as step, torch.no_grad():
        model.velocity(start.noise, levels[:1], start.embeddings, config.evaluation.guidance)
    with FlopCounterMode(display=False) as scored, torch.no_grad():
        _score(method, model.decode(start.noise), start.prompts)
    images = config.train.batch_size * config.train.accumulation
    share = method.rollout_steps / config.rollout.num_steps
    evaluations = share * num_evaluations(config.rollout.solver, config.rollout.num_steps)
    return {
        "rollout": one * images * evaluations * rolled_out / config.rollout.reuse,
        "gradient": gradient.get_total_flops() * config.train.accumulation * config.num_injections,
        "forward": one,
        "held_out": step.get_total_flops() * config.evaluation.num_steps + scored.get_total_flops(),
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


def _drawing(method: Method, autocast: bool) -> int:
    """Most bytes made at once by drawing a batch of held-out images and scoring it."""
    config, model = method.config, method.model
    batch = config.evaluation.batch_size
    start = _rollout(config, model, batch)
    cast = _autocast(config) if autocast else nullcontext()
    with torch.no_grad(), LiveBytes(tensors_of(_modules(method))) as live:
        with cast:
            levels = torch.full((batch,), 0.5)
            x0 = model.velocity(start.noise, levels, start.embeddings, config.evaluation.guidance)
            images = model.decode(x0)
        _score(method, images, start.prompts)
    return live.peak


def _score(method: Method, images: Tensor, prompts: list[str]) -> None:
    for criterion in method.criteria:
        criterion.reward(images.float(), prompts)


def _gradient(method: Method, rollout: Rollout) -> None:
    """Forward and backward of one injection, as the loop does it."""
    shape = 1, method.config.train.batch_size
    positions = method.positions.draw(shape, Generator().manual_seed(0))  # they cost the same wherever they are
    for loss, _ in method.losses(rollout, positions, update=1):
        loss.backward()


def _texts(criterion: Criterion) -> set[str]:
    """All texts that a reward will be asked about in the first update."""
    words = control_words(criterion.preference)
    return {"", *(text for group in words.of("", 1) for text in with_word(control_word(group, 1), [""]))}


def _rollout(config: RunConfig, model: TextToImage, batch: int) -> Rollout:
    """Images without storage."""
    size = config.model.height, config.model.width
    noise = torch.empty(batch, *model.latent_shape(*size))
    embeddings = model.blank_embeddings(batch, config.model.max_sequence_length)
    return Rollout(noise.clone(), noise, embeddings, [""] * batch)


def _autocast(config: RunConfig) -> torch.autocast:
    whole = config.train.sharding == "none"  # copies in bf16 are kept until the end of autocast; of slices, for a block
    return torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16", cache_enabled=whole)


def _elsewhere(config: RunConfig) -> float:
    """Share of what is sliced that other processes keep."""
    return 1 - 1 / config.train.num_processes if config.train.sharding != "none" else 0.0


@contextmanager
def _without_storage(method: Method) -> Iterator[None]:
    """Fake tensors in the place of all weights, and of everything that is made inside, as a GPU would make it."""
    kept, transformer = load_dtype(method.config.model.weights), method.model.transformer
    kinds = [(part, kept if part is transformer else torch.float32) for part in _modules(method)]
    try:
        with without_storage(kinds), cuda_autocast():
            yield
    finally:
        resampling.cache_clear()  # what was kept of this has no values


def _modules(method: Method) -> list[nn.Module]:
    rewards = [criterion.reward for criterion in method.criteria]
    return [method.model.transformer, method.model.vae, *(each for each in rewards if isinstance(each, nn.Module))]


def _weights(method: Method) -> int:
    """Bytes of all weights in the formats they are kept in."""
    config, transformer = method.config, 0.0
    for module in method.model.transformer.modules():
        quantised = isinstance(module, (Int8, Nf4))
        for key, value in module.named_parameters(recurse=False):
            small = BYTES[config.model.weights] if quantised and key == "weight" else value.element_size()
            transformer += value.numel() * small
    others = [value for module in _modules(method)[1:] for value in module.parameters()]
    return int(transformer) + sum(value.numel() * value.element_size() for value in others)


def moment_bytes(num_values: int, train: TrainConfig) -> int:
    """Bytes of AdamW's two moments of so many values, which are kept like the weights they belong to, or in 8 bits."""
    each = EIGHT_BIT if train.optimizer == "adamw_8bit" else weight_bytes(train)
    return int(num_values * MOMENTS * each)


def weight_bytes(train: TrainConfig) -> int:
    """Bytes of a weight that is trained: float32, or bf16 where that is rounded stochastically."""
    return 2 if train.rounding == "stochastic" else 4
