"""A very small untrained Qwen-Image of the real classes; each word of the prompt template is a token, as published."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from srpo.shapes.models import byte_symbols

WIDTH = 32
LATENT_CHANNELS = 4
SPACE = "Ġ"  # how byte-level tokenizers write the space before a word
STARTS = ("system", "Describe", "user", "assistant")
WORDS = (
    *("the", "image", "by", "detailing", "color", "shape", "size", "texture", "quantity", "text", "spatial"),
    *("relationships", "of", "objects", "and", "background", "a", "on", "red", "blue", "circle"),
)


def tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE: each word grows letter by letter, all other text stays bytes."""
    pieces = [*STARTS, *(SPACE + word for word in WORDS)]
    merges = list(dict.fromkeys((piece[:end], piece[end]) for piece in pieces for end in range(1, len(piece))))
    symbols = [*byte_symbols(), *dict.fromkeys("".join(pair) for pair in merges)]
    vocab = {piece: index for index, piece in enumerate(symbols)}
    return Qwen2Tokenizer(vocab=vocab, merges=merges, additional_special_tokens=["<|im_start|>", "<|im_end|>"])


def text_encoder(vocab_size: int) -> Qwen2_5_VLForConditionalGeneration:
    """The language model that reads prompts; its eyes are there, and never used."""
    text = {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def save(folder: Path, scheduler: FlowMatchEulerDiscreteScheduler | None = None) -> Path:
    """The whole model in diffusers' layout; the published schedule unless another is given."""
    torch.manual_seed(0)
    words = tokenizer()
    published = {
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    }
    QwenImagePipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(**published),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=LATENT_CHANNELS,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 2.0, 2.5, 1.2],
        ),
        text_encoder=text_encoder(len(words)),
        tokenizer=words,
        transformer=QwenImageTransformer2DModel(
            in_channels=4 * LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
    ).save_pretrained(folder)
    return folder
