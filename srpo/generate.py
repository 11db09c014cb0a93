"""Pictures from prompts: the same prompt, seed and settings give the same pixels, whatever else is in the batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from srpo.config import ModelConfig, PromptsConfig, Settings
from srpo.errors import ConfigError
from srpo.models import TextEncoder, TextToImage, check_model, load_model, load_text_encoder
from srpo.preference import with_word
from srpo.prompts import read_prompts
from srpo.rollout import sample, seeded_noise

MAX_PATH = 4096  # longer texts cannot be paths


class Sampling(Settings):
    """How pictures are made."""

    seed: int = 0
    """Prompt number i (from 0) gets the noise of seed + i."""
    num_steps: int = 50
    """Steps of the model's own schedule."""
    guidance: float | None = 3.5
    """Guidance, as the model's family means it; None for none."""
    prefix: str | None = None
    """Control word in front of every prompt; None or empty: the prompts as they are."""


class Generator:
    """A loaded model that turns prompts into pictures."""

    def __init__(self, config: ModelConfig, folder: Path, transformer: Path | None = None) -> None:
        check_model(config, folder)
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: TextToImage = load_model(config, folder, transformer).to(self.device)
        self.text: TextEncoder = load_text_encoder(config, folder).to(self.device)

    def images(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Image.Image]:
        """One picture after another."""
        for image in self.tensors(prompts, sampling):
            yield to_picture(image)

    def tensors(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Tensor]:
        """The same as (3, height, width) in [0, 1], before they are rounded to 8 bits."""
        for index, prompt in enumerate(with_word(sampling.prefix, prompts) if sampling.prefix else prompts):
            yield self._draw(prompt, sampling.seed + index, sampling)

    @torch.no_grad()
    def _draw(self, prompt: str, seed: int, sampling: Sampling) -> Tensor:
        """One image (3, height, width) in [0, 1]."""
        height, width = self.config.height, self.config.width
        noise = seeded_noise(self.model.latent_shape(height, width), [seed]).to(self.device)
        sigmas = self.model.sampling_sigmas(sampling.num_steps, height, width)
        embeddings = self.text.encode_prompts([prompt], self.config.max_sequence_length)
        x0 = sample(self.model, embeddings, noise, sigmas, sampling.guidance)
        return self.model.decode(x0)[0]


def to_picture(image: Tensor) -> Image.Image:
    """An image (3, height, width) in [0, 1] as 8-bit RGB, rounded to the nearest level."""
    pixels = (image.detach().float().cpu() * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def read_texts(prompts: str) -> list[str]:
    """The lines of a file, or the text itself; ConfigError if there is nothing to draw."""
    path = Path(prompts)
    if len(prompts) < MAX_PATH and path.is_file():
        return [prompt.text for prompt in read_prompts(prompts, "held_out", PromptsConfig().max_characters)]
    if not prompts.strip():
        raise ConfigError("--prompts is empty; give a text, or a file with one prompt per line")
    if path.suffix in {".txt", ".csv", ".jsonl"}:
        raise ConfigError(f"--prompts: no file at {path}")
    return [prompts]


def write_pictures(
    generator: Generator, prompts: Sequence[str], sampling: Sampling, model: str, folder: Path
) -> Iterator[Path]:
    """One PNG per prompt, named by number; its text fields say how it was made."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(generator.images(prompts, sampling)):
        facts = sampling.model_dump() | {"prompt": prompts[index], "seed": sampling.seed + index, "model": model}
        text = PngInfo()
        for key, value in facts.items():
            text.add_itxt(key, str(value))
        path = folder / f"{index:04d}.png"
        picture.save(path, pnginfo=text)
        yield path
