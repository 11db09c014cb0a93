"""An SRPO update on random weights of any size, by the product's own parts; `gpu.py` measures it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from srpo.config import RunConfig, load_config
from srpo.criteria import criteria_of
from srpo.forecast.cost import Cost, count
from srpo.forecast.weightless import LiveBytes, tensors_of
from srpo.methods import make_method
from srpo.models import Embeddings, TextToImage, model_skeleton, text_skeleton
from srpo.models.weights import load_dtype, quantise
from srpo.record import Clock
from srpo.rewards import hps, reward_skeleton
from srpo.rewards.dual_encoder import DualEncoderReward
from srpo.rollout import Rollout, roll_out
from srpo.tuning import add_lora, make_optimizer, save_memory, stepping, trainable

ROOT = Path(__file__).parent.parent
SHAPES = ROOT / "srpo" / "shapes" / "weights"
MICRO_BATCHES = 2
"""Of an update, where the preset has more: the second meets the gradients of the first, as all later ones do."""


@dataclass(frozen=True)
class Size:
    """Which models are built."""

    name: str
    recipe: Path
    model: Path
    """Folder of config files."""
    reward: Path
    """Beside the JSON of the reward's architecture, where it has one."""


FULL = Size("FLUX.1-dev", ROOT / "configs" / "flux_hpsv2.yaml", ROOT / "benchmarks" / "flux_dev", Path("none"))
SMALL = Size("Shapes", ROOT / "configs" / "shapes.yaml", SHAPES / "flux", SHAPES / "reward" / "none")


@dataclass
class Bench:
    """Everything that an update works with."""

    config: RunConfig
    device: torch.device
    model: TextToImage
    reward: DualEncoderReward
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    embeddings: Embeddings
    num_micro_batches: int
    clock: Clock
    """Of the last update."""

    @property
    def seconds_per_prompt(self) -> float:
        """Of an update of as many micro-batches as the preset has."""
        seconds, train = self.clock.parts, self.config.train
        each = (seconds["rollout"] + seconds["gradient"]) / (self.num_micro_batches * train.batch_size)
        return each + seconds["optimizer"] / (train.batch_size * train.accumulation)


def config_of(size: Size, preset: str) -> RunConfig:
    """The recipe on a preset's hardware; compiling is switched here."""
    files = [size.recipe, ROOT / "configs" / "hardware" / f"{preset}.yaml"]
    return load_config(
        files, ("train.compile=false", "prompts.train=builtin:shapes", "prompts.held_out=builtin:shapes")
    )


def predict(size: Size, config: RunConfig) -> Cost:
    """What `srpo.forecast.cost` says."""
    model, text = model_skeleton(config.model, size.model), text_skeleton(config.model, size.model)
    cost = count(config, model, [reward_skeleton(config.reward, size.reward)], text)
    assert cost, "there is no limit to what it may need"
    return cost


def build(size: Size, config: RunConfig, device: torch.device) -> Bench:
    """Random weights on the device, prepared for training as the trainer does it."""
    model = model_skeleton(config.model, size.model)
    fill(model.transformer, device, load_dtype(config.model.weights))
    fill(model.vae, device, torch.float32)
    quantise(model.transformer, config.model.weights, device)
    if config.train.lora is not None:
        add_lora(model.transformer, config.train.lora)
    save_memory(model.transformer, model.vae, config.train)
    reward = hps.skeleton(size.reward, config.reward.architecture, device)
    parameters = trainable(model.transformer)
    embeddings = model.blank_embeddings(config.train.batch_size, config.model.max_sequence_length)
    return Bench(
        config=config,
        device=device,
        model=model,
        reward=reward,
        parameters=parameters,
        optimizer=make_optimizer(parameters, config.train),
        embeddings={name: torch.randn(tensor.shape, device=device) for name, tensor in embeddings.items()},
        num_micro_batches=min(MICRO_BATCHES, config.train.accumulation),
        clock=Clock(device),
    )


def fill(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Random values in the place of meta weights, of a size that keeps activations as large as they come in."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            made = torch.zeros(value.shape, device=device, dtype=dtype)
            if value.ndim > 1:
                made.normal_(std=value[0].numel() ** -0.5)
            elif name == "weight":
                made.fill_(1)
            setattr(part, name, nn.Parameter(made, value.requires_grad))
    assert not list(module.buffers()), "a buffer without a value"


def gradients(bench: Bench, online: bool) -> None:
    """The gradient of an update, as the loop makes it."""
    config, batch = bench.config, bench.config.train.batch_size
    noise_shape = batch, *bench.model.latent_shape(config.model.height, config.model.width)
    criteria, prompts = criteria_of(config, [bench.reward]), [f"prompt {index}" for index in range(batch)]
    method = make_method(config, bench.model, criteria, partial(autocast, bench))
    for _ in range(bench.num_micro_batches):
        noise = torch.randn(noise_shape, device=bench.device)
        with bench.clock("rollout"), autocast(bench):
            x0 = roll_out(bench.model, bench.embeddings, noise, config.rollout) if online else torch.randn_like(noise)
        with bench.clock("gradient"):
            positions = method.positions.draw((1, batch), torch.Generator().manual_seed(0))
            for loss, _ in method.losses(Rollout(x0, noise, bench.embeddings, prompts), positions, update=1):
                (loss / bench.num_micro_batches).backward()


def autocast(bench: Bench) -> torch.autocast:
    """The precision that the config asks for."""
    return torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.config.train.precision == "bf16")


def update(bench: Bench, online: bool) -> dict[str, float]:
    """One update; seconds of its parts."""
    bench.clock = Clock(bench.device)
    gradients(bench, online)
    with bench.clock("optimizer"), stepping(bench.parameters):
        nn.utils.clip_grad_norm_(bench.parameters, bench.config.train.max_grad_norm)
        bench.optimizer.step()
        bench.optimizer.zero_grad(set_to_none=True)
    return dict(bench.clock.parts)


def memory(bench: Bench, online: bool) -> tuple[float, float | None]:
    """GiB in use and held at the peak; on a CPU counted in one more update, the optimizer's temporaries left out."""
    if bench.device.type == "cuda":
        peaks = torch.cuda.max_memory_allocated(bench.device), torch.cuda.max_memory_reserved(bench.device)
        return peaks[0] / 2**30, peaks[1] / 2**30
    modules = (bench.model.transformer, bench.model.vae, bench.reward)
    known = list(tensors_of(modules))
    with LiveBytes(known) as live:
        gradients(bench, online)
    bench.optimizer.zero_grad(set_to_none=True)
    moments = [tensor for state in bench.optimizer.state.values() for tensor in parts_of(state)]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in (*known, *moments)}
    return (live.peak + sum(held.values())) / 2**30, None


def parts_of(state: dict[str, object]) -> Iterator[Tensor]:
    """The plain tensors of a parameter's moments; 8-bit ones are made of several."""
    for value in state.values():
        if hasattr(value, "__tensor_flatten__"):
            yield from (getattr(value, name) for name in value.__tensor_flatten__()[0])
        elif isinstance(value, Tensor):
            yield value
