"""What the model makes of prompts it is not trained on: the same prompts and noise each time, scored and shown."""

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torchvision.utils import make_grid, save_image

from srpo.config import RunConfig
from srpo.evaluation.images import MONITOR, image_seed
from srpo.evaluation.scores import Scorer, Scores
from srpo.models import TextToImage
from srpo.prompts import StoredEmbeddings, select
from srpo.rollout import sample, seeded_noise


class HeldOut:
    """A fixed set of held-out images, shared out over the processes."""

    def __init__(
        self,
        config: RunConfig,
        prompts: list[str],
        embeddings: StoredEmbeddings,
        scorer: Scorer,
        accelerator: Accelerator,
    ) -> None:
        self.config = config
        self.prompts = prompts
        self.embeddings = embeddings
        self.scorer = scorer
        self.accelerator = accelerator

    @torch.no_grad()
    def measure(self, model: TextToImage, strip: Path) -> Scores:
        """Every metric of every image of the set, on all processes; the first images are saved as a strip."""
        mine, size = self._share(), self.config.evaluation.batch_size
        parts = [self._batch(model, mine[start : start + size]) for start in range(0, len(mine), size)]
        first = range(self.config.monitor.strip_images)
        images = torch.cat([images for images, _ in parts])
        shown: list[Tensor] = gather_object(
            [image.float().cpu() for index, image in zip(mine, images, strict=True) if index in first]
        )
        if self.accelerator.is_main_process:
            save_image(make_grid(shown, nrow=len(shown), padding=1), strip)
        gathered: list[Mapping[str, Tensor]] = gather_object([scores for _, scores in parts])
        return {name: torch.cat([scores[name] for scores in gathered]) for name in gathered[0]}

    def _share(self) -> list[int]:
        """This process's members of the set: neighbours, so that together the processes keep its order."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = self.config.monitor.num_images
        return list(range(count * rank // world, count * (rank + 1) // world))

    def _batch(self, model: TextToImage, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of some members of the set, and their scores on the CPU."""
        settings, size = self.config.evaluation, (self.config.model.height, self.config.model.width)
        chosen = [index % len(self.prompts) for index in indices]
        seeds = [
            image_seed(self.config.seed, prompt, index // len(self.prompts), MONITOR)
            for index, prompt in zip(indices, chosen, strict=True)
        ]
        noise = seeded_noise(model.latent_shape(*size), seeds)
        device = self.accelerator.device
        embeddings = {name: tensor.to(device) for name, tensor in select(self.embeddings, chosen).items()}
        with self.accelerator.autocast():
            sigmas = model.sampling_sigmas(settings.num_steps, *size)
            images = model.decode(sample(model, embeddings, noise.to(device), sigmas, settings.guidance))
        scores = self.scorer(images.float(), [self.prompts[index] for index in chosen])
        return images, {name: values.cpu() for name, values in scores.items()}
