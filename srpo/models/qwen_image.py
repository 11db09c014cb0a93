"""Qwen-Image (arXiv:2508.02324): any folder in diffusers' `QwenImagePipeline` layout, at any size.

The transformer takes sigma, latents packed 2x2 with the picture's shape in patches, and prompts of different lengths
with a mask. It has no guidance input: guidance is true classifier-free guidance, a second forward with an empty prompt,
after which each token is brought back to the length it has without (as the published pipeline does). The VAE is one for
video, given a single frame; its latents are normalised channel by channel: decoded latents are
`x0 * latents_std + latents_mean`, encoded ones the inverse.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor
from torch.nn.functional import pad
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from srpo.errors import ConfigError
from srpo.models import Family, TextSkeleton
from srpo.models.layout import check_component, check_loads, check_tokenizer, read_json, require_folder
from srpo.models.shared import FolderModel, FolderText, FolderVae, check_image_size, pack, unpack

PARTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
NEGATIVE_PROMPT = " "
"""What the published pipeline's users are told to pass for an empty one."""
NEGATIVE_TOKENS = 6
"""What is left of it in the prompt template: itself, and five tokens that end the turn."""
TEMPLATE_TOKENS = 34
"""What the template puts before a prompt, encoded with it and cut off after (`prompt_template_encode_start_idx`)."""
OTHER_MODELS = ("use_additional_t_cond", "use_layer3d_rope", "zero_cond_t")
"""Settings of its siblings, which edit pictures or draw them in layers."""


class QwenImageText(FolderText):
    """Qwen-Image's tokenizer and language model, in diffusers' own pipeline, which knows the prompt template."""

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Tensor]:
        """`prompt_embeds` (batch, max_sequence_length, dim), zeros behind each prompt, where `prompt_embeds_mask`
        (batch, max_sequence_length) is False; and `negative_prompt_embeds` (batch, tokens, dim).
        """
        embeds, mask = self.pipeline.encode_prompt(list(prompts), max_sequence_length=max_sequence_length)
        negative, _ = self.pipeline.encode_prompt([NEGATIVE_PROMPT], max_sequence_length=max_sequence_length)
        mask = torch.ones_like(embeds[..., 0]) if mask is None else mask
        missing = max_sequence_length - embeds.shape[1]
        return {
            "prompt_embeds": pad(embeds, (0, 0, 0, missing)),
            "prompt_embeds_mask": pad(mask.bool(), (0, missing)),
            "negative_prompt_embeds": negative.expand(len(prompts), -1, -1),
        }


class QwenImageVae(FolderVae):
    """Qwen-Image's VAE, which is all that latents of pictures need; see `srpo.models.LatentSpace`."""

    vae_class = AutoencoderKLQwenImage

    @property
    def multiple(self) -> int:
        """The VAE divides by a power of 2, the patches by 2 more."""
        return 2 ** (len(self.vae.config.temperal_downsample) + 1)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.vae.config.z_dim

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (batch, 3, height, width) in [0, 1]: of a video with one frame."""
        mean, std = self._normal(images)
        latents = self.vae.encode((2 * images - 1).unsqueeze(2)).latent_dist.mode().squeeze(2)
        return (latents - mean) / std

    def decode(self, x0: Tensor) -> Tensor:
        """Images in [0, 1] of latents (batch, c, h, w): the only frame of a video."""
        mean, std = self._normal(x0)
        decoded = self.vae.decode((x0 * std + mean).unsqueeze(2), return_dict=False)[0].squeeze(2)
        return (decoded / 2 + 0.5).clamp(0, 1)

    def _normal(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel (c, 1, 1)."""
        config = self.vae.config
        mean, std = (torch.tensor(values).to(like) for values in (config.latents_mean, config.latents_std))
        return mean[:, None, None], std[:, None, None]


class QwenImage(FolderModel, QwenImageVae):
    """A Qwen-Image model; see `srpo.models.TextToImage` for what each verb promises."""

    transformer_class = QwenImageTransformer2DModel

    def velocity(self, x: Tensor, sigma: Tensor, embeddings: dict[str, Tensor], guidance: float | None) -> Tensor:
        """One forward of the transformer, two with a guidance; x: (batch, c, h, w), sigma: (batch,)."""
        prompts, mask = without_padding(embeddings["prompt_embeds"], embeddings.get("prompt_embeds_mask"))
        velocity = self._forward(x, sigma, prompts, mask)
        if guidance is not None:
            negative = self._forward(x, sigma, embeddings["negative_prompt_embeds"], None)
            velocity = guide(velocity, negative, guidance)
        return unpack(velocity, *x.shape[2:])

    def _forward(self, x: Tensor, sigma: Tensor, prompts: Tensor, mask: Tensor | None) -> Tensor:
        """The velocity of packed latents (batch, tokens, 4c)."""
        batch, _, height, width = x.shape
        dtype = self.transformer.dtype
        with self._timestep.set_to(sigma.to(x)):
            output = self.transformer(
                hidden_states=pack(x).to(dtype),
                timestep=sigma.to(x),
                encoder_hidden_states=prompts.to(dtype),
                encoder_hidden_states_mask=mask,
                img_shapes=[[(1, height // 2, width // 2)]] * batch,
                return_dict=False,
            )[0]
        return output.to(x.dtype)

    def blank_embeddings(self, batch: int, max_sequence_length: int) -> dict[str, Tensor]:
        """Zeros in the shape of what `QwenImageText` makes of `batch` prompts that are as long as they may be."""
        width = self.transformer.config.joint_attention_dim
        return {
            "prompt_embeds": torch.zeros(batch, max_sequence_length, width),
            "negative_prompt_embeds": torch.zeros(batch, NEGATIVE_TOKENS, width),
        }


def without_padding(embeds: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Prompts cut to the longest of the batch; no mask where all are as long, which attention is faster without."""
    if mask is None:
        return embeds, None
    lengths = mask.sum(dim=1).tolist()
    longest = max(lengths)
    return embeds[:, :longest], None if min(lengths) == longest else mask[:, :longest]


def guide(velocity: Tensor, negative: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance of velocities (batch, tokens, 4c): away from `negative`, tokens as long as before."""
    guided = negative + guidance * (velocity - negative)
    return guided * (velocity.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


def text_skeleton(folder: Path) -> TextSkeleton:
    """The encoder on the meta device, from its config file alone."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(**read_json(folder / "text_encoder" / "config.json"))
        )

    def forward(ids: Tensor) -> object:
        made = model.model.language_model(input_ids=ids, output_hidden_states=True)
        return made, model.lm_head(made.last_hidden_state)  # the pipeline has the scores of all words made, too

    return TextSkeleton((model.eval(),), forward, TEMPLATE_TOKENS)


def load_text(folder: Path, dtype: torch.dtype) -> QwenImageText:
    """The text side alone; neither transformer nor VAE is read."""
    options = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    pipeline = QwenImagePipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", **options).eval(),
        tokenizer=Qwen2Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
    )
    return QwenImageText(pipeline)


def published_guidance(folder: Path) -> float:
    """As the model's card samples it."""
    return 4.0


def guidance_problem(folder: Path, guidance: float | None) -> str:
    """Up to 1, classifier-free guidance would spend a second forward on guiding nowhere."""
    fits = guidance is None or guidance > 1
    return "" if fits else "guides by a second forward, with a guidance above 1 (usually 4); set it to null for none"


def check(folder: Path, height: int, width: int) -> None:
    """Every part present, whole and of the shapes its config announces; the image size one that the VAE takes."""
    require_folder(folder, PARTS)
    settings = read_json(folder / "transformer" / "config.json")
    if other := [name for name in OTHER_MODELS if settings.get(name)]:
        raise ConfigError(f"the transformer in {folder} does not draw from text alone ({', '.join(other)}: true)")
    check_component(folder / "transformer", QwenImageTransformer2DModel)
    check_component(folder / "vae", AutoencoderKLQwenImage)
    check_component(folder / "text_encoder", Qwen2_5_VLForConditionalGeneration)
    check_loads(folder / "scheduler", FlowMatchEulerDiscreteScheduler)
    check_tokenizer(folder / "tokenizer", Qwen2Tokenizer)
    check_image_size(height, width, QwenImageVae.skeleton(folder).multiple)


FAMILY = Family(
    model=QwenImage,
    vae=QwenImageVae,
    load_text=load_text,
    check=check,
    text_skeleton=text_skeleton,
    guidance_problem=guidance_problem,
    guidance=published_guidance,
    pipeline=QwenImagePipeline,
)
