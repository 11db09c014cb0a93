"""FLUX: any folder in diffusers' `FluxPipeline` layout, at any size (FLUX.1-dev first).

The transformer takes sigma and the raw guidance (diffusers multiplies both by 1000 inside), image ids (0, row, column)
and text ids of zeros; latents are packed 2x2 on the way in and unpacked on the way out. Constants of the VAE come from
its config: decoded latents are `x0 / scaling_factor + shift_factor`, encoded ones the inverse.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from srpo.errors import ConfigError
from srpo.models import Family, TextSkeleton
from srpo.models.layout import check_component, check_loads, check_tokenizer, read_json, require_folder
from srpo.models.shared import FolderModel, FolderText, FolderVae, check_image_size, pack, unpack

PARTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae")


class FluxText(FolderText):
    """FLUX's tokenizers and text encoders."""

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Tensor]:
        """`prompt_embeds` (batch, tokens, dim) of T5 and `pooled_prompt_embeds` (batch, dim) of CLIP."""
        prompt_embeds, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), prompt_2=None, max_sequence_length=max_sequence_length
        )
        return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled}


class FluxVae(FolderVae):
    """FLUX's VAE, which is all that latents of pictures need; see `srpo.models.LatentSpace`."""

    vae_class = AutoencoderKL

    @property
    def multiple(self) -> int:
        """The VAE divides by a power of 2, the patches by 2 more."""
        return 2 ** len(self.vae.config.block_out_channels)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.vae.config.latent_channels

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (batch, 3, height, width) in [0, 1]."""
        config = self.vae.config
        mean = self.vae.encode(2 * images - 1).latent_dist.mode()
        return (mean - config.shift_factor) * config.scaling_factor

    def decode(self, x0: Tensor) -> Tensor:
        """Images in [0, 1] of latents (batch, c, h, w); the whole image at once, so that no seam reaches the reward."""
        config = self.vae.config
        decoded = self.vae.decode(x0 / config.scaling_factor + config.shift_factor, return_dict=False)[0]
        return (decoded / 2 + 0.5).clamp(0, 1)


class Flux(FolderModel, FluxVae):
    """A FLUX model; see `srpo.models.TextToImage` for what each verb promises."""

    transformer_class = FluxTransformer2DModel

    def velocity(self, x: Tensor, sigma: Tensor, embeddings: dict[str, Tensor], guidance: float | None) -> Tensor:
        """One forward of the transformer; x: (batch, c, h, w), sigma: (batch,)."""
        _, _, height, width = x.shape
        tokens = embeddings["prompt_embeds"]
        guided = self.transformer.config.guidance_embeds
        if guided and guidance is None:
            raise ConfigError("this FLUX takes a guidance (1 to 5, usually 3.5); got null")
        dtype = self.transformer.dtype
        inputs = [sigma.to(x)]
        if guided and guidance is not None:
            inputs.append(torch.full_like(inputs[0], guidance))
        with self._timestep.set_to(*(1000 * value for value in inputs)):
            output = self.transformer(
                hidden_states=pack(x).to(dtype),
                timestep=inputs[0],
                guidance=inputs[1] if guided else None,
                pooled_projections=embeddings["pooled_prompt_embeds"].to(dtype),
                encoder_hidden_states=tokens.to(dtype),
                txt_ids=torch.zeros(tokens.shape[1], 3, device=x.device, dtype=x.dtype),
                img_ids=image_ids(height, width, x),
                return_dict=False,
            )[0]
        return unpack(output.to(x.dtype), height, width)

    def blank_embeddings(self, batch: int, max_sequence_length: int) -> dict[str, Tensor]:
        """Zeros in the shape of what `FluxText` makes of `batch` prompts."""
        config = self.transformer.config
        return {
            "prompt_embeds": torch.zeros(batch, max_sequence_length, config.joint_attention_dim),
            "pooled_prompt_embeds": torch.zeros(batch, config.pooled_projection_dim),
        }


def text_skeleton(folder: Path) -> TextSkeleton:
    """The encoders on the meta device, from their config files alone."""
    with torch.device("meta"):
        clip = CLIPTextModel(CLIPTextConfig(**read_json(folder / "text_encoder" / "config.json")))
        t5 = T5EncoderModel(T5Config(**read_json(folder / "text_encoder_2" / "config.json")))
    return TextSkeleton((clip.eval(), t5.eval()), lambda ids: t5(input_ids=ids))


def image_ids(height: int, width: int, like: Tensor) -> Tensor:
    """(0, row, column) of each 2x2 patch of latents height x width: (tokens, 3)."""
    rows = torch.arange(height // 2, device=like.device, dtype=like.dtype)
    columns = torch.arange(width // 2, device=like.device, dtype=like.dtype)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)


def load_text(folder: Path, dtype: torch.dtype) -> FluxText:
    """The text side alone; neither transformer nor VAE is read."""
    options = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    pipeline = FluxPipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", **options).eval(),
        text_encoder_2=T5EncoderModel.from_pretrained(folder / "text_encoder_2", **options).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2", local_files_only=True),
    )
    return FluxText(pipeline)


def published_guidance(folder: Path) -> float | None:
    """The guidance is an input of the transformer (FLUX.1-dev has it, FLUX.1-schnell does not)."""
    return 3.5 if read_json(folder / "transformer" / "config.json").get("guidance_embeds", False) else None


def guidance_problem(folder: Path, guidance: float | None) -> str:
    """One where the transformer has no input for it, or none where it has."""
    guided = published_guidance(folder) is not None
    if guided == (guidance is not None):
        return ""
    return "takes a guidance (1 to 5, usually 3.5)" if guided else "takes no guidance; set it to null"


def check(folder: Path, height: int, width: int) -> None:
    """Every part present, whole and of the shapes its config announces; the image size one that the VAE takes."""
    require_folder(folder, PARTS)
    check_component(folder / "transformer", FluxTransformer2DModel)
    check_component(folder / "vae", AutoencoderKL)
    check_component(folder / "text_encoder", CLIPTextModel)
    check_component(folder / "text_encoder_2", T5EncoderModel)
    check_loads(folder / "scheduler", FlowMatchEulerDiscreteScheduler)
    check_tokenizer(folder / "tokenizer", CLIPTokenizer)
    check_tokenizer(folder / "tokenizer_2", T5TokenizerFast)
    model = Flux.skeleton(folder)
    if (inputs := model.transformer.config.in_channels) != 4 * model.channels:
        raise ConfigError(
            f"the transformer in {folder} does not draw from text alone: it takes {inputs} channels, of which latents "
            f"are {4 * model.channels}"
        )
    check_image_size(height, width, model.multiple)


FAMILY = Family(
    model=Flux,
    vae=FluxVae,
    load_text=load_text,
    check=check,
    text_skeleton=text_skeleton,
    guidance_problem=guidance_problem,
    guidance=published_guidance,
    pipeline=FluxPipeline,
)
