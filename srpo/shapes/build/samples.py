"""How well the saved pipeline draws what it is asked for: FluxPipeline at the demo's guidance, one pass a step."""

from collections.abc import Sequence
from itertools import cycle, islice

import torch
from diffusers import FluxPipeline
from torch import Tensor

from srpo.meters import luminance
from srpo.shapes import TEXT_TOKENS
from srpo.shapes.measure import Oracle, content_correct
from srpo.shapes.render import HELD_OUT, SEEN, SIZE, Content

GUIDANCE = 3.5
NUM_SAMPLES = 600
BATCH = 60


def generate(pipeline: FluxPipeline, captions: Sequence[str], seed: int, num_steps: int, guidance: float) -> Tensor:
    """Images (captions, 3, SIZE, SIZE) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    pieces = [
        pipeline(
            list(captions[start : start + BATCH]),
            height=SIZE,
            width=SIZE,
            num_inference_steps=num_steps,
            guidance_scale=guidance,
            max_sequence_length=TEXT_TOKENS,
            generator=generator,
            output_type="pt",
        ).images
        for start in range(0, len(captions), BATCH)
    ]
    return torch.cat(pieces)


def content_figures(
    pipeline: FluxPipeline, oracle: Oracle, contents: Sequence[Content], num_steps: int
) -> dict[str, float]:
    """Share of samples with the right content, and the distribution of their luminance."""
    captions = list(islice(cycle(content.caption for content in contents), NUM_SAMPLES))
    images = generate(pipeline, captions, 97, num_steps, GUIDANCE)
    bright = luminance(images)
    return {
        "content": float(content_correct(images, captions, oracle).mean()),
        "luminance": float(bright.mean()),
        "spread": float(bright.std()),
    }


def sample_figures(pipeline: FluxPipeline, oracle: Oracle) -> dict[str, dict[str, float]]:
    """600 samples of seen and 600 of held-out contents, each with 10 and with 20 steps."""
    return {
        f"{name}_{num_steps}_steps": content_figures(pipeline, oracle, contents, num_steps)
        for name, contents in (("seen", SEEN), ("held_out", HELD_OUT))
        for num_steps in (10, 20)
    }
