"""What makes an SRPO update fast: one lever at a time, from a loop that behaves like the reference's to ours.

    python benchmarks/update.py [--prompts 16] [--repeats 5]

Same model (Shapes), same prompts, same noise and levels, one process; every variant's gradient is compared with the
first one's. Seconds are medians over interleaved repeats and depend on the machine; the counters do not.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from srpo.align import SigmaGrid, direct_align
from srpo.config import AlignConfig, PreferenceConfig, load_config
from srpo.control_words import control_words
from srpo.criteria import Criterion
from srpo.flow import shifted_sigmas
from srpo.hub import resolve
from srpo.models import Embeddings, TextToImage, load_model, load_text_encoder
from srpo.objective import Asked, objective
from srpo.preference import Branch, hinge, make_branches, relative_preference
from srpo.rewards import load_reward
from srpo.rewards.dual_encoder import DualEncoderReward
from srpo.rollout import Rollout, sample, seeded_noise

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"


@dataclass(frozen=True)
class Variant:
    """A loop, by what it does differently from ours."""

    name: str
    anomaly_mode: bool = False
    """Autograd anomaly detection is on for the whole process."""
    trainable_vae: bool = False
    """The VAE is not frozen: its weights get gradients that nobody uses or clears."""
    texts_each_time: bool = False
    """Text features are computed anew with every call of the reward."""
    one_branch_at_a_time: bool = False
    """Each branch has a forward and backward pass of its own."""
    batch_size: int = 1
    """Prompts in one forward pass."""


def variants(num_prompts: int) -> list[Variant]:
    """From the reference's behaviour to ours, each with one lever more than the one before."""
    reference = Variant(
        "as the reference behaves",
        anomaly_mode=True,
        trainable_vae=True,
        texts_each_time=True,
        one_branch_at_a_time=True,
    )
    steps: list[tuple[str, dict[str, Any]]] = [
        ("anomaly mode off", {"anomaly_mode": False}),
        ("VAE frozen", {"trainable_vae": False}),
        ("text features cached (the clean batch-1 loop)", {"texts_each_time": False}),
        ("both branches in one pass", {"one_branch_at_a_time": False}),
        (f"{num_prompts} prompts in one pass (ours)", {"batch_size": num_prompts}),
    ]
    chain = [reference]
    for name, change in steps:
        chain.append(replace(chain[-1], name=name, **change))
    return chain


@dataclass
class Counters:
    """What does not depend on the machine."""

    no_grad_samples: int = 0
    """Samples that the transformer saw without gradient."""
    grad_samples: int = 0
    """Samples that it saw with gradient (and went back through)."""
    texts_encoded: int = 0

    def forward_equivalents(self, num_prompts: int) -> float:
        """Transformer forwards per prompt; a backward counts as two."""
        return (self.no_grad_samples + 3 * self.grad_samples) / num_prompts


@dataclass
class World:
    """Everything that the variants share."""

    model: TextToImage
    reward: DualEncoderReward
    align: AlignConfig
    preference: PreferenceConfig
    num_rollout_steps: int
    rollout_guidance: float | None
    prompts: list[str]
    embeddings: Embeddings
    noise: Tensor
    positions: Tensor
    counters: Counters = field(default_factory=Counters)

    @classmethod
    def make(cls, model: TextToImage, reward: DualEncoderReward, prompts: list[str], embeddings: Embeddings) -> "World":
        """Draw noise and levels once, and count what passes through transformer and text encoder."""
        align, preference = AlignConfig(), PreferenceConfig(positive=("Bright",), negative=("Dark",))
        noise = seeded_noise(model.latent_shape(32, 32), range(len(prompts)))
        positions = SigmaGrid(align).draw((len(prompts),), torch.Generator().manual_seed(0))
        world = cls(model, reward, align, preference, 25, 1.0, prompts, embeddings, noise, positions)
        model.transformer.register_forward_pre_hook(world._count_forward, with_kwargs=True)
        encode = reward.encode_texts

        def counted(tokens: Tensor) -> Tensor:
            world.counters.texts_encoded += len(tokens)
            return encode(tokens)

        reward.encode_texts = counted
        return world

    def _count_forward(self, module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        samples = len(named["hidden_states"])
        if torch.is_grad_enabled():
            self.counters.grad_samples += samples
        else:
            self.counters.no_grad_samples += samples

    def roll_out(self, rows: Sequence[int]) -> Rollout:
        """Clean latents of some prompts."""
        embeddings = {name: tensor[list(rows)] for name, tensor in self.embeddings.items()}
        noise = self.noise[list(rows)]
        sigmas = shifted_sigmas(self.num_rollout_steps, 3.0)
        x0 = sample(self.model, embeddings, noise, sigmas, self.rollout_guidance)
        return Rollout(x0, noise, embeddings, [self.prompts[row] for row in rows])

    def branches(self, rows: Sequence[int]) -> list[Branch]:
        """Both branches of some prompts."""
        grid, words = SigmaGrid(self.align), control_words(self.preference)
        positions, prompts = self.positions[list(rows)], [self.prompts[row] for row in rows]
        return make_branches(self.align, self.preference, words, grid, positions, prompts, update=1)


def update(world: World, variant: Variant) -> None:
    """One update's gradient over all prompts, left on the transformer."""
    count = len(world.prompts)
    world.model.transformer.zero_grad()
    for start in range(0, count, variant.batch_size):
        rows = range(start, start + variant.batch_size)
        rollout, branches = world.roll_out(rows), world.branches(rows)
        groups = [[branch] for branch in branches] if variant.one_branch_at_a_time else [branches]
        for group in groups:
            loss = (_by_branch if variant.one_branch_at_a_time else _together)(world, variant, rollout, group)
            (loss * variant.batch_size / count).backward()


def _by_branch(world: World, variant: Variant, rollout: Rollout, group: list[Branch]) -> Tensor:
    """One branch, written out as the reference's loop goes."""
    (branch,) = group
    if variant.texts_each_time:
        world.reward.text_cache.clear()

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return world.model.velocity(x, sigma, rollout.embeddings, world.align.guidance)

    x0_hat = direct_align(velocity, rollout.x0, rollout.noise, branch.sigma_from, branch.sigma_to)
    target, other = world.reward(world.model.decode(x0_hat), branch.target, branch.other)
    return hinge(relative_preference(target, other, branch.k), world.preference.margin).mean() / 2


def _together(world: World, variant: Variant, rollout: Rollout, group: list[Branch]) -> Tensor:
    """The product's own objective."""
    asked = [Asked(Criterion("", world.reward, world.preference), group)]
    return objective(world.model, rollout, asked, len(group), world.align.guidance)[0]


@dataclass
class Measured:
    """One variant's results."""

    variant: Variant
    counters: Counters = field(default_factory=Counters)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    """Most that a forward pass keeps for its backward pass, weights left out."""
    stray_gradients: int = 0
    """Parameters of VAE and reward that were left with a gradient."""
    gradient: Tensor | None = None


@contextlib.contextmanager
def behaving_as(world: World, variant: Variant) -> Iterator[None]:
    """Switch to a variant's process-wide settings, and back to ours."""
    vae = world.model.vae
    vae.requires_grad_(variant.trainable_vae)
    world.reward.text_cache.clear()
    with torch.autograd.set_detect_anomaly(variant.anomaly_mode):
        yield
    vae.requires_grad_(False)
    vae.zero_grad()


def measure(world: World, measured: Measured) -> None:
    """Run one update of a variant and note its time, its counters and its gradient."""
    with behaving_as(world, measured.variant):
        world.counters = Counters()
        wall, cpu = time.perf_counter(), time.process_time()
        update(world, measured.variant)
        measured.seconds.append(time.perf_counter() - wall)
        measured.cpu_seconds.append(time.process_time() - cpu)
        measured.counters = world.counters
        frozen = [*world.model.vae.parameters(), *world.reward.parameters()]
        measured.stray_gradients = sum(parameter.grad is not None for parameter in frozen)
        parameters = world.model.transformer.parameters()
        measured.gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def measure_memory(world: World, measured: Measured) -> None:
    """Run one update of a variant and note what its largest pass keeps for the way back (exact, but slow)."""
    modules = (world.model.transformer, world.model.vae, world.reward)
    weights = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        measured.peak_bytes = max(measured.peak_bytes, sum(kept.values()))
        return tensor

    def start_pass(*_: object) -> None:
        if torch.is_grad_enabled():
            kept.clear()

    handle = world.model.transformer.register_forward_pre_hook(start_pass)
    with behaving_as(world, measured.variant), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        update(world, measured.variant)
    handle.remove()


def difference(first: Measured, other: Measured) -> float:
    """Norm of the difference of two gradients, relative to the first."""
    assert first.gradient is not None and other.gradient is not None
    return float((other.gradient - first.gradient).norm() / first.gradient.norm())


def run(world: World, repeats: int) -> list[Measured]:
    """All variants, interleaved, after one round to warm up; AssertionError if a gradient differs."""
    chain = [Measured(variant) for variant in variants(len(world.prompts))]
    for measured in chain:
        measure_memory(world, measured)  # the round to warm up
    for _ in range(repeats):
        for measured in chain:
            measure(world, measured)
    for measured in chain:
        assert difference(chain[0], measured) < 1e-4, f"{measured.variant.name}: another gradient"
    return chain


def show(chain: list[Measured], num_prompts: int) -> None:
    """The table, per prompt."""
    table = Table(
        "loop",
        "s / prompt",
        "CPU-s / prompt",
        "lever",
        "so far",
        "kept MiB",
        "forwards",
        "texts",
        "stray grads",
        "gradient",
    )
    before = first = statistics.median(chain[0].seconds)
    for measured in chain:
        seconds, cpu = statistics.median(measured.seconds), statistics.median(measured.cpu_seconds)
        table.add_row(
            measured.variant.name,
            f"{seconds / num_prompts:.4f}",
            f"{cpu / num_prompts:.4f}",
            f"{before / seconds:.2f}x",
            f"{first / seconds:.2f}x",
            f"{measured.peak_bytes / 2**20:.1f}",
            f"{measured.counters.forward_equivalents(num_prompts):g}",
            f"{measured.counters.texts_encoded / num_prompts:g}",
            str(measured.stray_gradients),
            f"{difference(chain[0], measured):.0e}",
        )
        before = seconds
    Console(width=160).print(table)


def main(
    num_prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of the update.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds over all variants.")] = 5,
) -> None:
    """Run, print the table."""
    config = load_config(CONFIG)
    folder = resolve(config.model.source, "model")
    model = load_model(config.model, folder)
    reward = load_reward(config.reward, resolve(config.reward.source, "reward"))
    assert isinstance(reward, DualEncoderReward)
    from srpo.shapes import seen_captions

    prompts = seen_captions()[:num_prompts]
    embeddings = load_text_encoder(config.model, folder).encode_prompts(prompts, config.model.max_sequence_length)
    world = World.make(model, reward, prompts, embeddings)
    show(run(world, repeats), len(prompts))


if __name__ == "__main__":
    typer.run(main)
