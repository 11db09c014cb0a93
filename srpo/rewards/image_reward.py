"""ImageReward (arXiv:2304.05977): BLIP reads image and prompt together, five linear layers score what it read.

`ImageReward.pt` is a state dict with BLIP's own names; transformers' BLIP classes compute the same under others. Its
sizes are read off its tensors. What else the file holds (projections, position ids) is ignored, as the published loader
does. The tokenizer is BERT's, by its vocab.txt (google-bert/bert-base-uncased). Score 0 is an average image.
"""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from srpo.errors import ConfigError
from srpo.models.layout import Shapes, compare_shapes
from srpo.rewards.linear_head import linear_head
from srpo.rewards.preprocessing import clip_preprocessing
from srpo.rewards.state_dict import read_state_dict, state_dict_shapes

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw score over the authors' validation set (their `ImageReward.py`)."""
NUM_TOKENS = 35
HEAD_WIDTH = 64  # of every attention head, in BLIP's vision transformer and in BERT
WIDTHS, DROPOUTS = (1024, 128, 64, 16, 1), (0.2, 0.2, 0.1)

VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."
RENAMINGS = (
    (rf"^{re.escape(VISION)}cls_token", "vision.embeddings.class_embedding"),
    (rf"^{re.escape(VISION)}pos_embed", "vision.embeddings.position_embedding"),
    (rf"^{re.escape(VISION)}patch_embed\.proj", "vision.embeddings.patch_embedding"),
    (rf"^{re.escape(VISION)}norm\.", "vision.post_layernorm."),
    (rf"^{re.escape(VISION)}blocks\.", "vision.encoder.layers."),
    (r"^(vision\.encoder\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(vision\.encoder\.layers\.\d+)\.attn\.qkv\.", r"\1.self_attn.qkv."),
    (r"^(vision\.encoder\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.projection."),
    (rf"^{re.escape(TEXT)}", "text."),
    (r"^mlp\.layers\.", "mlp."),
)
"""Patterns that turn a published name into the name here, applied one after the other."""


class ImageReward(nn.Module):
    """BLIP's text encoder looking at an image, and the head that scores its first token."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, tokenizer: BertTokenizer) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = linear_head((text.hidden_size, *WIDTHS), DROPOUTS)
        self.tokenizer = tokenizer
        self.preprocess = clip_preprocessing(vision.image_size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Scores (batch,) for each list of texts; images (batch, 3, h, w) in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            seen = self._see(images)
            return tuple(self._score(seen, list(group)) for group in texts)

    def features(self, images: Tensor) -> Tensor:
        """BLIP's class token, of unit length (batch, width)."""
        with torch.autocast(images.device.type, enabled=False):
            return normalize(self._see(images)[:, 0], dim=-1)

    def _see(self, images: Tensor) -> Tensor:
        """Images as BLIP sees them (batch, patches + 1, width)."""
        return self.vision(pixel_values=self.preprocess(images.float())).last_hidden_state

    def _score(self, seen: Tensor, texts: list[str]) -> Tensor:
        """Scores (batch,) of images as BLIP sees them, (batch, patches + 1, width)."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
        ).to(seen.device)
        read = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        return (self.mlp(read[:, 0])[:, 0] - MEAN) / STD


def load(checkpoint: Path, vocabulary: Path) -> ImageReward:
    """The score in `ImageReward.pt`, with BERT's vocab.txt (or a folder that holds it)."""
    tensors = {renamed(name): tensor.float() for name, tensor in read_state_dict(checkpoint).items()}
    with init_empty_weights(include_buffers=False):
        model = ImageReward(*configs(checkpoint, state_dict_shapes(checkpoint)), _tokenizer(vocabulary))
    model.load_state_dict({name: tensors[name] for name in model.state_dict()}, assign=True)
    return model


def check(checkpoint: Path, vocabulary: Path) -> None:
    """The file holds every tensor of an ImageReward of its size, and the vocabulary has as many words as it needs."""
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint} is no file; give the path of ImageReward.pt")
    shapes = state_dict_shapes(checkpoint)
    vision, text = configs(checkpoint, shapes)
    tokenizer = _tokenizer(vocabulary)
    if len(tokenizer) > text.vocab_size:
        raise ConfigError(f"{vocabulary} holds {len(tokenizer)} words, {checkpoint} knows {text.vocab_size} of them")
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in ImageReward(vision, text, tokenizer).state_dict().items()}
    found = {renamed(name): shape for name, shape in shapes.items()}
    compare_shapes(str(checkpoint), expected, found, optional=found.keys() - expected.keys())


def renamed(name: str) -> str:
    """What a published tensor is called here."""
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    return name


def configs(checkpoint: Path, shapes: Shapes) -> tuple[BlipVisionConfig, BlipTextConfig]:
    """The sizes of the two towers, read off the tensors."""

    def size(name: str, axis: int) -> int:
        if name not in shapes:
            raise ConfigError(f"{checkpoint} is no ImageReward: it has no tensor {name}")
        return shapes[name][axis]

    patch, width = size(f"{VISION}patch_embed.proj.weight", -1), size(f"{VISION}cls_token", -1)
    hidden = size(f"{TEXT}embeddings.word_embeddings.weight", 1)
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=size(f"{VISION}blocks.0.mlp.fc1.weight", 0),
        num_hidden_layers=_count(shapes, f"{VISION}blocks."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=patch * isqrt(size(f"{VISION}pos_embed", 1) - 1),
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=size(f"{TEXT}embeddings.word_embeddings.weight", 0),
        hidden_size=hidden,
        encoder_hidden_size=width,
        intermediate_size=size(f"{TEXT}encoder.layer.0.intermediate.dense.weight", 0),
        num_hidden_layers=_count(shapes, f"{TEXT}encoder.layer."),
        num_attention_heads=hidden // HEAD_WIDTH,
        max_position_embeddings=size(f"{TEXT}embeddings.position_embeddings.weight", 0),
        layer_norm_eps=1e-12,
        is_decoder=True,  # only then the layers look at the image; `forward` still reads in both directions
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )
    return vision, text


def _count(names: Mapping[str, Any], prefix: str) -> int:
    """How many layers there are, by the numbers after a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def _tokenizer(path: Path) -> BertTokenizer:
    """BERT's, lower case; its two words more in BLIP ([DEC], [ENC]) stand in no prompt."""
    file = path / "vocab.txt" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"no vocabulary at {file}; give the path of BERT's vocab.txt (google-bert/bert-base-uncased)")
    words = file.read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})
