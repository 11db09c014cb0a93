"""Pictures from prompts: the same prompt, seed and settings give the same pixels, however the work is spread.

Each picture is a forward pass of its own: one of 1024 x 1024 fills a device, and no picture depends on its neighbours.
"""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from srpo.config import ModelConfig, PromptsConfig, WeightsFormat
from srpo.devices import check_device
from srpo.errors import ConfigError, memory_needed
from srpo.models import Embeddings, TextToImage, check_guidance, check_model, load_model, load_text_encoder
from srpo.preference import with_word
from srpo.prompts import read_prompts
from srpo.rollout import sample, seeded_noise, tf32
from srpo.strict import Strict

CPU = torch.device("cpu")
AT_ONCE = 128
"""Prompts that are encoded before any is drawn: at most 1 GiB of embeddings for T5-XXL at 512 tokens in float32."""
MAX_PATH = 4096  # longer texts cannot be paths
PLACES = ("builtin:", "hf://", "s3://")  # of files that are not here


class Sampling(Strict):
    """How pictures are made."""

    seed: int = 0
    """Prompt number i (from 0) gets the noise of seed + i."""
    num_steps: int = 50
    """Steps of the model's own schedule."""
    guidance: float | None = 3.5
    """Guidance, as the model's family means it; None for none."""
    prefix: str | None = None
    """Control word in front of every prompt; None or empty: the prompts as they are."""

    def text(self, prompt: str) -> str:
        """What the model is asked to draw."""
        return with_word(self.prefix, [prompt])[0] if self.prefix else prompt


class Painter:
    """A model that turns prompts into pictures. Its parts are loaded when they are needed, and the text encoders are
    never on the device together with the transformer: either may fill it.
    """

    def __init__(
        self, config: ModelConfig, folder: Path, transformer: Path | None = None, device: str | None = None
    ) -> None:
        if device != "cpu":
            check_device()
        check_model(config, folder)
        self.config = config
        self.folder = folder
        self.transformer = transformer
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model: TextToImage | None = None

    def images(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Image.Image]:
        """One picture after another."""
        for image in self.tensors(prompts, sampling):
            yield to_picture(image)

    def tensors(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Tensor]:
        """The same as (3, height, width) in [0, 1], before they are rounded to 8 bits."""
        seeds = range(sampling.seed, sampling.seed + len(prompts))
        return self.draw(list(zip(prompts, seeds, strict=True)), sampling)

    def draw(self, pairs: Sequence[tuple[str, int]], sampling: Sampling) -> Iterator[Tensor]:
        """The image (3, height, width) in [0, 1] of each prompt from the noise of the seed beside it.

        ConfigError, before anything is loaded, for a guidance that the model would miss or ignore.
        """
        check_guidance(self.config, self.folder, {"guidance": sampling.guidance})
        for start in range(0, len(pairs), AT_ONCE):
            with memory_needed(
                "keep the weights in fewer bits (--weights nf4; model.weights), or draw smaller pictures"
            ):
                yield from self._draw_all(pairs[start : start + AT_ONCE], sampling)

    def _draw_all(self, pairs: Sequence[tuple[str, int]], sampling: Sampling) -> Iterator[Tensor]:
        encoded = self._encode([sampling.text(prompt) for prompt, _ in pairs])
        model = self._loaded()
        for (_, seed), embeddings in zip(pairs, encoded, strict=True):
            yield self._draw(model, _to(self.device, embeddings), seed, sampling)

    def _encode(self, texts: Sequence[str]) -> list[Embeddings]:
        """The embeddings of each text by itself, on the CPU; nothing else is on the device meanwhile."""
        if self._model is not None:
            self._model.to(CPU)
        encoder = load_text_encoder(self.config, self.folder).to(self.device)
        length = self.config.max_sequence_length
        encoded = [_to(CPU, encoder.encode_prompts([text], length)) for text in texts]
        del encoder
        gc.collect()  # a pipeline and its parts know each other
        torch.cuda.empty_cache()
        return encoded

    @torch.no_grad()
    def _draw(self, model: TextToImage, embeddings: Embeddings, seed: int, sampling: Sampling) -> Tensor:
        """One image (3, height, width) in [0, 1]."""
        height, width = self.config.height, self.config.width
        noise = seeded_noise(model.latent_shape(height, width), [seed]).to(self.device)
        sigmas = model.sampling_sigmas(sampling.num_steps, height, width)
        with tf32():
            return model.decode(sample(model, embeddings, noise, sigmas, sampling.guidance))[0]

    def _loaded(self) -> TextToImage:
        """The model on the device."""
        if self._model is None:
            self._model = load_model(self.config, self.folder, self.transformer, self.device)
        return self._model.to(self.device)


class ModelFiles(Strict):
    """A model on disk that has not been loaded yet; it can be handed to other processes."""

    reference: str
    """What it is: a path, `builtin:shapes`, or `models:/name/version` with the version's number."""
    model: ModelConfig
    base: Path
    """Diffusers folder."""
    base_sha256: str
    transformer: Path | None = None
    """Folder or file of the transformer to use instead of the base's."""
    transformer_sha256: str
    sampling: Sampling

    def painter(self, device: str | None = None) -> Painter:
        """Load it."""
        return Painter(self.model, self.base, self.transformer, device)

    def drawn(self, height: int | None, width: int | None, weights: WeightsFormat | None) -> "ModelFiles":
        """The same model for pictures of another size, or with its weights kept otherwise."""
        given = {"height": height, "width": width, "weights": weights}
        given = {key: value for key, value in given.items() if value is not None}
        return self.model_copy(update={"model": self.model.model_copy(update=given)})


def _to(device: torch.device, embeddings: Embeddings) -> Embeddings:
    return {name: tensor.to(device) for name, tensor in embeddings.items()}


def to_picture(image: Tensor) -> Image.Image:
    """An image (3, height, width) in [0, 1] as 8-bit RGB, rounded to the nearest level."""
    pixels = (image.detach().float().cpu() * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def read_texts(prompts: str) -> list[str]:
    """The prompts of a file, here or elsewhere, or the text itself; ConfigError if there is nothing to draw."""
    path = Path(prompts)
    if prompts.startswith(PLACES) or (len(prompts) < MAX_PATH and path.is_file()):
        return [prompt.text for prompt in read_prompts(prompts, "held_out", PromptsConfig().max_characters)]
    if not prompts.strip():
        raise ConfigError("--prompts is empty; give a text, or a file with one prompt per line")
    one_word = len(prompts.split()) == 1
    if path.suffix in {".txt", ".csv", ".tsv", ".json", ".jsonl"} or (one_word and (path.suffix or "/" in prompts)):
        raise ConfigError(f"--prompts: no file at {path}")
    return [prompts]
