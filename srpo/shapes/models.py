"""The Shapes world's own models: real classes of diffusers, transformers and open_clip at a very small size, untrained.

Tokenizers know the world's words, each as one token, and fall back to characters for any other text.
"""

import gzip
import string
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from srpo.shapes import TEXT_TOKENS
from srpo.shapes.render import COLOURS, SHAPES, SIZE, STYLES

WORDS = tuple(word.lower() for word in (*SHAPES, *COLOURS, *STYLES, "a", "on", "background"))
CLIP_TOKENS = 16
TEXT_WIDTH = 64
LATENT_CHANNELS = 8
EMBED_DIM = 64
"""Width of the reward's features."""
REWARD_NAME = "shapes-vit"
BPE_NAME = "bpe.txt.gz"

Merges = list[tuple[str, str]]


def byte_symbols() -> list[str]:
    """CLIP's 256 byte symbols: printable bytes as they are, the others moved behind Latin-1."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def learn_merges(words: Sequence[str]) -> Merges:
    """Byte pair encoding of the words: the most frequent pair is merged until every word is one token."""
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: Merges = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        pieces = [_merge(word, merges[-1]) for word in pieces]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte pair encoding with the world's words as whole tokens."""
    symbols = byte_symbols()
    merges = learn_merges(WORDS)
    pieces = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    vocab = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram model: the world's words, then single characters (whole words are far likelier)."""
    spellings = sorted({spelling for word in WORDS for spelling in (word, word.capitalize())})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), ("▁", -5.0)]
    pieces += [(f"▁{spelling}", -1.0) for spelling in spellings]
    pieces += [(character, -10.0) for character in string.ascii_letters + string.digits + string.punctuation]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def clip_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A random CLIP text encoder; its pooled output already tells captions apart."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A random T5 encoder."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=32,
        d_ff=2 * TEXT_WIDTH,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def autoencoder() -> AutoencoderKL:
    """Pictures 3x32x32 <-> latents 8x8x8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def transformer() -> FluxTransformer2DModel:
    """FLUX with distilled guidance: 16 image tokens (2x2 patches of 8 channels), 12 text tokens."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler steps on FLUX's schedule with a fixed shift of 3."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False)


def write_bpe(path: Path) -> None:
    """open_clip's vocabulary file: a header line, then one merge per line; no line end after the last one."""
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learn_merges(WORDS))]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def reward_config(embed_dim: int = EMBED_DIM) -> dict[str, Any]:
    """open_clip's model configuration of the reward; `bpe_path` names a file beside the configuration."""
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": SIZE, "layers": 4, "width": 96, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": CLIP_TOKENS,
            "vocab_size": 2 * 256 + len(learn_merges(WORDS)) + 2,
            "tokenizer_kwargs": {"bpe_path": BPE_NAME},
            "width": TEXT_WIDTH,
            "heads": 2,
            "layers": 3,
        },
    }
