"""What updates train on: latents that are rolled out, kept from an earlier update, or of real images."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save
from torch import Tensor

from srpo.artifacts import PromptSets
from srpo.checkpoint import own_file
from srpo.config import RunConfig
from srpo.draws import Draw, Draws, Shelf
from srpo.images import LATENTS, load_image_set
from srpo.methods.base import Method
from srpo.models import TextToImage
from srpo.prompts import load_prompt_set
from srpo.random_state import random_state, restore_random_state
from srpo.rollout import Rollout, roll_out


class Batches:
    """This process's share of every update's images."""

    def __init__(
        self, config: RunConfig, model: TextToImage, method: Method, prompts: PromptSets, accelerator: Accelerator
    ) -> None:
        self.config, self.model, self.method, self.accelerator = config, model, method, accelerator
        self.prompts, self.embeddings = load_prompt_set(prompts.train)
        self.images = load_image_set(prompts.images) if prompts.images else None
        shape, size = model.latent_shape, (config.model.height, config.model.width)
        buckets = self.images.buckets if self.images else {}
        shelves = [Shelf(shape(*bucket), images) for bucket, images in buckets.items()]
        self.draws = Draws(config, method.positions, shape(*size), len(self.prompts), shelves)
        self.kept: deque[Tensor] = deque(maxlen=config.train.accumulation)
        """The x0 of the last micro-batches, oldest first."""

    def draw(self, update: int) -> list[Draw]:
        """This process's micro-batches of the next update."""
        return self.draws.draw(update)[self.accelerator.process_index :: self.accelerator.num_processes]

    def clean_latents(self, draw: Draw, update: int) -> Rollout:
        """Of real images, or sampled by the model."""
        return self._read(draw) if draw.offline else self._roll_out(draw, update)

    def _read(self, draw: Draw) -> Rollout:
        """Latents of the drawn real images, with the drawn noise."""
        assert self.images
        device = self.accelerator.device
        embeddings = self.images.embeddings.select(draw.prompts, device)
        x0 = self.images.latents.select(draw.prompts, device)[LATENTS]
        captions = [self.images.captions[index] for index in draw.prompts]
        return Rollout(x0, draw.noise.to(device), embeddings, captions, draw.moves)

    def _roll_out(self, draw: Draw, update: int) -> Rollout:
        """Latents sampled from the drawn noise, as far as the method wants it, or kept from an earlier update."""
        device = self.accelerator.device
        embeddings = self.embeddings.select(draw.prompts, device)
        noise = draw.noise.to(device)
        if self.draws.fresh(update):
            sigmas = self.method.sigmas(draw.positions)
            with self.accelerator.autocast():
                self.kept.append(roll_out(self.model, embeddings, noise, self.config.rollout, sigmas))
        else:
            self.kept.append(self.kept[0])
        return Rollout(self.kept[-1], noise, embeddings, [self.prompts[index] for index in draw.prompts], draw.moves)

    def state(self) -> dict[str, bytes]:
        """What this process has of its own in a checkpoint: name -> content of a safetensors file."""
        state = {"rng": random_state(self.draws.generator)}
        if self.config.rollout.reuse > 1:
            state["rollouts"] = _rollouts_content(self.draws.noise, self.kept)
        return state

    def restore(self, folder: Path) -> None:
        """Put back what `state` has said, from a checkpoint's folder."""
        rank = self.accelerator.process_index
        own = own_file(folder, "rng", rank)  # one that has joined draws as all do
        restore_random_state(own if own.exists() else own_file(folder, "rng", 0), self.draws.generator)
        if self.config.rollout.reuse > 1:
            self.draws.noise, kept = _load_rollouts(own_file(folder, "rollouts", rank), self.accelerator.device)
            self.kept.extend(kept)


def _rollouts_content(noise: Tensor, kept: Iterable[Tensor]) -> bytes:
    """As a safetensors file: noise of the whole update (images, channels, h, w), and a process's x0 in order."""
    x0 = {f"x0.{index:04d}": tensor.cpu().contiguous() for index, tensor in enumerate(kept)}
    return save({"noise": noise} | x0)


def _load_rollouts(path: Path, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """What `_rollouts_content` said, from the file that it was written to: noise on the CPU, x0 on `device`."""
    tensors = load_file(path)
    noise = tensors.pop("noise")
    return noise, [tensors[name].to(device) for name in sorted(tensors)]
