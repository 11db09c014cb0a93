"""Trains the FLUX transformer by flow matching, then distils classifier-free guidance into its guidance input.

Phase 1: `velocity(x, caption, guidance 1) = noise - x0`, captions dropped now and then. Phase 2, student and teacher
from the averaged weights of phase 1: `velocity(x, caption, g) = v("") + g * (v(caption) - v(""))`, g in 1..5.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from srpo.flow import add_noise, shift_sigma
from srpo.models.flux import image_ids
from srpo.models.shared import pack
from srpo.shapes import TEXT_TOKENS
from srpo.shapes.build.data import draw, scaled
from srpo.shapes.build.descent import optimise
from srpo.shapes.build.text import CaptionTable, TextEncoders
from srpo.shapes.build.vae import encode
from srpo.shapes.models import transformer
from srpo.shapes.render import SEEN

NUM_STEPS = 4500
DISTIL_STEPS = 1000
NUM_PICTURES = 24_000
BATCH = 32
CHUNK = 500
LEARNING_RATE = 1.5e-3
DISTIL_LEARNING_RATE = 5e-4
EMA_DECAY = 0.998
CAPTION_DROPOUT = 0.1
SHIFT = 2.0
"""Of the noise levels in training: as many levels above 2/3 as below."""
GUIDANCE = (1.0, 5.0)
LATENT_SIDE = 8  # 32 pixels / 4 (VAE)


Text = tuple[Tensor, Tensor]
"""T5's tokens (batch, tokens, width) and CLIP's pooled output (batch, width)."""


@dataclass(frozen=True)
class Noised:
    """A batch at its noise levels: packed latents, sigma, the true velocity, caption rows."""

    x: Tensor
    sigma: Tensor
    velocity: Tensor
    rows: Tensor


def velocity(model: FluxTransformer2DModel, x: Tensor, sigma: Tensor, text: Text, guidance: Tensor) -> Tensor:
    """`noise - x0` of packed latents (batch, tokens, channels); sigma and guidance (batch,)."""
    tokens, pooled = text
    return model(
        hidden_states=x,
        timestep=sigma,
        guidance=guidance,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        txt_ids=torch.zeros(TEXT_TOKENS, 3),
        img_ids=image_ids(LATENT_SIDE, LATENT_SIDE, x),
        return_dict=False,
    )[0]


@dataclass(frozen=True)
class Pictures:
    """What both phases learn from: packed latents, the table rows of their captions, and the table."""

    latents: Tensor
    rows: Tensor
    table: CaptionTable

    def batches(self, generator: torch.Generator) -> Iterator[Noised]:
        """Endless random batches at random noise levels."""
        while True:
            chosen = torch.randint(len(self.latents), (BATCH,), generator=generator)
            x0 = self.latents[chosen]
            noise = torch.randn(x0.shape, generator=generator)
            uniform = torch.rand(BATCH, generator=generator)
            sigma = shift_sigma(SHIFT, uniform)
            yield Noised(add_noise(x0, noise, sigma), sigma, noise - x0, self.rows[chosen])


def encode_pictures(vae: AutoencoderKL, encoders: TextEncoders, seed: int, scale: float) -> Pictures:
    """Rendered pictures of seen contents as latents."""
    generator = torch.Generator().manual_seed(seed)
    table = CaptionTable(encoders, SEEN)
    latents, rows = [], []
    for _ in range(-(-scaled(NUM_PICTURES, scale) // CHUNK)):
        images, captions = draw(SEEN, CHUNK, generator)
        latents.append(pack(encode(vae, images)))
        rows += [table.rows[caption] for caption in captions]
    return Pictures(torch.cat(latents), torch.tensor(rows), table)


def train_teacher(pictures: Pictures, seed: int, scale: float) -> FluxTransformer2DModel:
    """Phase 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = transformer().train()
    batches = pictures.batches(generator)

    def loss() -> Tensor:
        return matching_loss(model, next(batches), pictures.table, generator)

    _optimise("transformer", model, loss, scaled(NUM_STEPS, scale), LEARNING_RATE)
    return model


def distil(teacher: FluxTransformer2DModel, pictures: Pictures, seed: int, scale: float) -> FluxTransformer2DModel:
    """Phase 2; the student starts as a copy of the teacher."""
    generator = torch.Generator().manual_seed(seed)
    teacher.eval().requires_grad_(False)
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    batches = pictures.batches(generator)

    def loss() -> Tensor:
        return distillation_loss(student, teacher, next(batches), pictures.table, generator)

    _optimise("distillation", student, loss, scaled(DISTIL_STEPS, scale), DISTIL_LEARNING_RATE)
    return student.eval().requires_grad_(False)


def matching_loss(
    model: FluxTransformer2DModel, batch: Noised, table: CaptionTable, generator: torch.Generator
) -> Tensor:
    """Flow matching, with captions dropped now and then."""
    kept = torch.rand(len(batch.x), generator=generator) >= CAPTION_DROPOUT
    predicted = velocity(model, batch.x, batch.sigma, table[batch.rows * kept], torch.ones(len(batch.x)))
    return (predicted - batch.velocity).square().mean()


def distillation_loss(
    student: FluxTransformer2DModel,
    teacher: FluxTransformer2DModel,
    batch: Noised,
    table: CaptionTable,
    generator: torch.Generator,
) -> Tensor:
    """The student at a random guidance against the teacher with classifier-free guidance."""
    guidance = torch.empty(len(batch.x)).uniform_(*GUIDANCE, generator=generator)
    target = guided(teacher, batch, table, guidance)
    return (velocity(student, batch.x, batch.sigma, table[batch.rows], guidance) - target).square().mean()


@torch.no_grad()
def guided(teacher: FluxTransformer2DModel, batch: Noised, table: CaptionTable, scale: Tensor) -> Tensor:
    """Classifier-free guidance: `v("") + scale * (v(caption) - v(""))`."""
    both = torch.cat([torch.zeros_like(batch.rows), batch.rows])
    x, sigma = torch.cat([batch.x] * 2), torch.cat([batch.sigma] * 2)
    free, bound = velocity(teacher, x, sigma, table[both], torch.ones(len(x))).chunk(2)
    return free + scale[:, None, None] * (bound - free)


def _optimise(
    name: str, model: FluxTransformer2DModel, loss_of: Callable[[], Tensor], num_steps: int, learning_rate: float
) -> None:
    """With the settings that both phases share."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    optimise(name, model, loss_of, num_steps, optimizer, EMA_DECAY, warmup=min(200, num_steps // 4 + 1))
