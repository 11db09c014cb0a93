"""The random, frozen text encoders as a table: every caption of a training is encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from srpo.shapes import TEXT_TOKENS
from srpo.shapes.models import CLIP_TOKENS, clip_text_model, clip_tokenizer, t5_encoder, t5_tokenizer
from srpo.shapes.render import STYLES, Content, styled


@dataclass(frozen=True)
class TextEncoders:
    """Both tokenizers and both encoders of a FLUX pipeline."""

    clip_tokenizer: CLIPTokenizer
    clip: CLIPTextModel
    t5_tokenizer: T5Tokenizer
    t5: T5EncoderModel

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(captions, tokens, width) from T5 and (captions, width) from CLIP, as FluxPipeline computes them."""
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        words = self.t5_tokenizer(list(captions), max_length=TEXT_TOKENS, **options).input_ids
        pieces = self.clip_tokenizer(list(captions), max_length=CLIP_TOKENS, **options).input_ids
        return self.t5(words).last_hidden_state.float(), self.clip(pieces).pooler_output.float()


def random_text_encoders(seed: int) -> TextEncoders:
    """New encoders in the precision in which they are saved, so that training sees what sampling will see."""
    torch.manual_seed(seed)
    words, pieces = t5_tokenizer(), clip_tokenizer()
    clip, t5 = clip_text_model(pieces), t5_encoder(words)
    for module in (clip, t5):
        module.to(torch.bfloat16).float()
    return TextEncoders(pieces, clip, words, t5)


class CaptionTable:
    """Encoded captions by row; row 0 is the empty caption, which stands for no condition."""

    def __init__(self, encoders: TextEncoders, contents: Sequence[Content]) -> None:
        captions = [styled(word, content.caption) for content, word in product(contents, (None, *STYLES))]
        self.rows = {caption: row for row, caption in enumerate(["", *captions])}
        self.tokens, self.pooled = encoders.encode(list(self.rows))

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.tokens[rows], self.pooled[rows]
