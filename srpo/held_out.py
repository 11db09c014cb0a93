"""What the model makes of prompts it is not trained on: the same prompts and noise each time, scored and shown.

`drift` is how far the images have moved from the base model's of the same noise: the root mean square difference of
their pixels, at most 128 a side, averaged over the images.

Where training computes with bf16 copies of its weights, the images are drawn with weights on bf16's grid that have
moved as far, in the mean, as the exact ones, with which an evaluation draws.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from srpo.artifacts import TrainJob
from srpo.config import RunConfig
from srpo.criteria import Criterion
from srpo.errors import ConfigError
from srpo.evaluation.images import MONITOR, image_seed
from srpo.evaluation.pairs import DRIFT, SIDE
from srpo.evaluation.scores import Scorer, Scores, load_scores, summarise
from srpo.files import atomic_file
from srpo.models import TextToImage
from srpo.prompts import load_categories, load_prompt_set
from srpo.prompts.split import split_held_out, take
from srpo.rollout import sample, seeded_noise
from srpo.rounding import on_bf16_grid
from srpo.shards import StoredRows

BASE_IMAGES = "base.safetensors"


class HeldOut:
    """A fixed set of images of the monitor's held-out prompts, shared out over the processes."""

    def __init__(
        self,
        config: RunConfig,
        prompts: list[str],
        embeddings: StoredRows,
        categories: list[str],
        scorer: Scorer,
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.config = config
        self.prompts = prompts
        share, _ = split_held_out(categories, config.monitor.share)
        self.places = [share[i] for i in take([categories[place] for place in share], config.monitor.num_images)]
        self.embeddings = embeddings
        self.scorer = scorer
        self.accelerator = accelerator
        self.folder = folder

    def strip(self, update: int) -> Path:
        """Where the first images after an update are kept: the base model's above, the present ones below."""
        return self.folder / f"update-{update:06d}.png"

    @torch.no_grad()
    def measure(
        self, model: TextToImage, update: int, told: Callable[[], bool], of_base: bool = False
    ) -> tuple[Scores, dict[str, float]] | None:
        """Every metric of every image, on all processes, and their means, the spread and the drift over the set.

        Those of the base, which comes first, are kept for the drift and the strips of all that follow. Only the main
        process gets the means, and saves the strip. None once `told` to stop, which all processes ask between batches,
        equally often, and are answered the same.
        """
        mine, size = self._share(), self.config.evaluation.batch_size
        most = -(-self.config.monitor.num_images // self.accelerator.num_processes)
        # all take part in each pass of a sliced model, if need be for nothing
        drawn = mine if self.config.train.sharding == "none" else mine + mine[-1:] * (most - len(mine))
        parts = []
        with self._weights_moved(model), self.scorer.scores_at(self.accelerator.device):
            for start in range(0, most, size):
                if told():
                    return None
                if batch := drawn[start : start + size]:
                    parts.append(self._batch(model, batch))
        images = torch.cat([images for images, _ in parts])[: len(mine)]
        own = {name: torch.cat([found[name] for _, found in parts])[: len(mine)] for name in parts[0][1]}
        num_shown = sum(index < self.config.monitor.strip_images for index in mine)
        shown: list[Tensor] = gather_object(
            [images[:num_shown].clone()]
        )  # a view would be sent with all of its storage
        small: list[Tensor] = gather_object([_small(images)])
        gathered: list[Mapping[str, Tensor]] = gather_object([own])
        scores = {name: torch.cat([part[name] for part in gathered]) for name in gathered[0]}
        if not self.accelerator.is_main_process:
            return scores, {}
        drift = self._compare(torch.cat(shown), torch.cat(small), self.strip(update), of_base)
        return scores, summarise(scores) | {DRIFT: drift}

    def _weights_moved(self, model: TextToImage) -> AbstractContextManager[None]:
        """Around drawing: to nearest bf16 most weights would go back to the base's."""
        return on_bf16_grid(model.transformer) if self.config.train.computes_with_copies else nullcontext()

    def _compare(self, shown: Tensor, small: Tensor, strip: Path, of_base: bool) -> float:
        """Drift of the small images from the base's, which are kept; the strip shows both."""
        from torchvision.utils import make_grid, save_image

        self.folder.mkdir(parents=True, exist_ok=True)
        if of_base:
            with atomic_file(self.folder / BASE_IMAGES) as staging:
                save_file({"shown": shown, "small": small}, staging)
        base = load_file(self.folder / BASE_IMAGES)
        rows = [shown] if of_base else [base["shown"], shown]
        save_image(make_grid(torch.cat(rows), nrow=len(shown), padding=1), strip)
        return float((small - base["small"]).square().mean((1, 2, 3)).sqrt().mean())

    def _share(self) -> list[int]:
        """This process's members of the set: neighbours, so that together the processes keep its order."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = self.config.monitor.num_images
        return list(range(count * rank // world, count * (rank + 1) // world))

    def _batch(self, model: TextToImage, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of some members of the set, and their scores, in float32 on the CPU."""
        settings, size = self.config.evaluation, (self.config.model.height, self.config.model.width)
        chosen = [self.places[index % len(self.places)] for index in indices]
        seeds = [
            image_seed(self.config.seed, prompt, index // len(self.places), MONITOR)
            for index, prompt in zip(indices, chosen, strict=True)
        ]
        noise = seeded_noise(model.latent_shape(*size), seeds)
        device = self.accelerator.device
        embeddings = self.embeddings.select(chosen, device)
        with self.accelerator.autocast():
            sigmas = model.sampling_sigmas(settings.num_steps, *size)
            images = model.decode(sample(model, embeddings, noise.to(device), sigmas, settings.guidance))
        images = images.float()
        scores = self.scorer(images, [self.prompts[index] for index in chosen])
        return images.cpu(), {name: values.cpu() for name, values in scores.items()}


def _small(images: Tensor) -> Tensor:
    """Images (batch, 3, height, width) scaled down to at most 128 pixels a side, by averaging."""
    scale = min(1.0, SIDE / max(images.shape[-2:]))
    return images if scale == 1 else interpolate(images, scale_factor=scale, mode="area")


def load_held_out(job: TrainJob, criteria: Sequence[Criterion], accelerator: Accelerator, goes_on: bool) -> HeldOut:
    """The monitor's share of the held-out prompts, with what scores their images.

    ConfigError where a run that `goes_on` has lost what the base made of them.
    """
    config, held_out = job.config, job.prompts.held_out
    scores = load_scores(config.watched_scores, job.weights, torch.device("cpu"))
    scorer = Scorer(criteria, config.evaluation.world, scores, config.evaluation.grid_periods)
    samples = Path(job.output_dir) / "samples"
    texts, embeddings = load_prompt_set(held_out)
    if goes_on and accelerator.is_main_process and not (samples / BASE_IMAGES).is_file():
        raise ConfigError(
            f"{samples / BASE_IMAGES} is gone, the base model's images, from which drift is measured; bring it back, "
            "or start a new run"
        )
    return HeldOut(config, texts, embeddings, load_categories(held_out), scorer, accelerator, samples)
