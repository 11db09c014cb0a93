"""Trains the AutoencoderKL: squared error, details first, and a light KL term, on seen contents only."""

import logging

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from srpo.shapes.build.data import Average, descend, draw, in_chunks, warmup_cosine
from srpo.shapes.models import LATENT_CHANNELS, autoencoder
from srpo.shapes.render import HELD_OUT, SEEN, Content, blur

NUM_STEPS = 1600
BATCH = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 2e-5
DETAIL_WEIGHT = 2.0
DETAIL_BLUR = 2.0  # pixels
INITIAL_LOG_VARIANCE = -6.0
EMA_DECAY = 0.995
logger = logging.getLogger(__name__)


def train_vae(seed: int, num_steps: int = NUM_STEPS) -> AutoencoderKL:
    """A trained autoencoder whose `scaling_factor` and `shift_factor` give latents of mean 0 and deviation 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = quiet_autoencoder().train()
    average = Average(vae, EMA_DECAY)
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=1e-4)
    schedule = warmup_cosine(optimizer, num_steps)
    for step in range(num_steps):
        images, _ = draw(SEEN, BATCH, generator)
        loss = vae_loss(vae, images)
        descend(loss, vae, optimizer, schedule)
        average.update(vae)
        if (step + 1) % 100 == 0:
            logger.info("vae %d/%d: loss %.5f", step + 1, num_steps, loss.item())
    average.copy_to(vae)
    return _normalise_latents(vae.eval().requires_grad_(False), generator)


def quiet_autoencoder() -> AutoencoderKL:
    """A new autoencoder with little noise in its latents, else the decoder first learns to ignore their details."""
    vae = autoencoder()
    output = vae.encoder.conv_out
    with torch.no_grad():
        output.bias[LATENT_CHANNELS:] = INITIAL_LOG_VARIANCE
        output.weight[LATENT_CHANNELS:] *= 0.1
    return vae


def vae_loss(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Squared error of the pixels in [-1, 1], more of it for what a blur removes, plus the KL divergence per latent."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(images * 2 - 1).latent_dist
        decoded = vae.decode(posterior.sample()).sample
    error = decoded.float() - (images * 2 - 1)
    details = error - blur(error, torch.full((len(error),), DETAIL_BLUR))
    divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
    return error.square().mean() + DETAIL_WEIGHT * details.square().mean() + KL_WEIGHT * divergence


def _normalise_latents(vae: AutoencoderKL, generator: torch.Generator) -> AutoencoderKL:
    images, _ = draw(SEEN, 500, generator)
    latents = in_chunks(lambda chunk: vae.encode(chunk * 2 - 1).latent_dist.mean, images)
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images in [0, 1] -> normalised latents (batch, 8, 8, 8); the posterior's mean."""
    latents = in_chunks(lambda chunk: vae.encode(chunk * 2 - 1).latent_dist.mean, images)
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Normalised latents -> images clamped to [0, 1]."""
    raw = latents / vae.config.scaling_factor + vae.config.shift_factor
    return (in_chunks(lambda chunk: vae.decode(chunk).sample, raw) / 2 + 0.5).clamp(0, 1)


def psnr(vae: AutoencoderKL, contents: tuple[Content, ...], count: int = 500) -> float:
    """Peak signal-to-noise ratio in dB of encoded and decoded pictures, over the mean squared error of all pixels."""
    images, _ = draw(contents, count, torch.Generator().manual_seed(99))
    return float(-10 * (decode(vae, encode(vae, images)) - images).square().mean().log10())


def vae_figures(vae: AutoencoderKL) -> dict[str, float]:
    """PSNR on both kinds of contents."""
    return {"psnr_seen": psnr(vae, SEEN), "psnr_held_out": psnr(vae, HELD_OUT)}
