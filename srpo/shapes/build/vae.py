"""Trains the AutoencoderKL: squared error and a light KL term, in bf16 autocast, on seen contents only."""

import math
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from srpo.models.flux import FluxVae
from srpo.shapes.build.data import draw, scaled
from srpo.shapes.build.descent import optimise
from srpo.shapes.models import LATENT_CHANNELS, autoencoder
from srpo.shapes.render import HELD_OUT, SEEN, Content

NUM_STEPS = 1500
BATCH = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 2e-5
INITIAL_LOG_VARIANCE = -6.0
EMA_DECAY = 0.995
CHUNK = 250


def train_vae(seed: int, scale: float) -> AutoencoderKL:
    """A trained autoencoder whose `scaling_factor` and `shift_factor` give latents of mean 0 and deviation 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = new_autoencoder().train()
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=1e-4)

    def loss() -> Tensor:
        return vae_loss(vae, draw(SEEN, BATCH, generator)[0])

    optimise("vae", vae, loss, scaled(NUM_STEPS, scale), optimizer, EMA_DECAY)
    return _normalise_latents(vae.eval().requires_grad_(False), generator)


@torch.no_grad()
def new_autoencoder() -> AutoencoderKL:
    """Starts as a local linear map that keeps the signal's variance, with little noise in its latents.

    With PyTorch's own initial weights it learns an image of a few colours and drops details such as texture.
    """
    vae = autoencoder()
    for name, module in vae.named_modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        elif isinstance(module, nn.Conv2d) and not name.endswith(("conv1", "conv2")):
            module.weight *= math.sqrt(3)  # PyTorch's initial weights keep a third of the variance
    output = vae.encoder.conv_out
    output.weight[LATENT_CHANNELS:] *= 0.1
    output.bias[LATENT_CHANNELS:] = INITIAL_LOG_VARIANCE
    return vae


def vae_loss(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Squared error of the pixels in [-1, 1] plus the KL divergence per latent value."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(images * 2 - 1).latent_dist
        decoded = vae.decode(posterior.sample()).sample
    error = (decoded.float() - (images * 2 - 1)).square().mean()
    return error + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()


def _normalise_latents(vae: AutoencoderKL, generator: torch.Generator) -> AutoencoderKL:
    images, _ = draw(SEEN, 500, generator)
    latents = _in_chunks(lambda chunk: vae.encode(chunk * 2 - 1).latent_dist.mean, images)
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images in [0, 1] -> normalised latents (batch, 8, 8, 8); the posterior's mean."""
    return _in_chunks(FluxVae(vae).encode, images)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Normalised latents -> images clamped to [0, 1]."""
    return _in_chunks(FluxVae(vae).decode, latents)


def _in_chunks(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    return torch.cat([function(chunk) for chunk in tensor.split(CHUNK)])


def psnr(vae: AutoencoderKL, contents: tuple[Content, ...], count: int = 500) -> float:
    """Peak signal-to-noise ratio in dB of encoded and decoded pictures, over the mean squared error of all pixels."""
    images, _ = draw(contents, count, torch.Generator().manual_seed(99))
    return float(-10 * (decode(vae, encode(vae, images)) - images).square().mean().log10())


def vae_figures(vae: AutoencoderKL) -> dict[str, float]:
    """PSNR on both kinds of contents."""
    return {"psnr_seen": psnr(vae, SEEN), "psnr_held_out": psnr(vae, HELD_OUT)}
