"""What HPSv2.1, PickScore and CLIP share: the scaled cosine between an image's and a text's features.

Preprocessing is CLIP's, differentiable, with OpenAI's mean and std. Everything runs in float32 even under autocast,
because the differences a relative preference lives on are smaller than bf16 resolves.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn.functional import normalize

from srpo.rewards.preprocessing import clip_preprocessing

TEXTS_KEPT = 20_000
"""Texts whose features are kept; 80 MB at a width of 1024, however many prompts there are."""


class DualEncoderReward(nn.Module):
    """`scale * cos(image features, text features)`; text features are computed once per text and kept for long."""

    def __init__(
        self,
        model: nn.Module,
        encode_images: Callable[[Tensor], Tensor],
        encode_texts: Callable[[Tensor], Tensor],
        tokenize: Callable[[list[str]], Tensor],
        image_size: int,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.encode_images = encode_images
        self.encode_texts = encode_texts
        self.tokenize = tokenize
        self.scale = scale
        self.text_cache: dict[str, Tensor] = {}
        self.image_size = image_size
        self.preprocess = clip_preprocessing(image_size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)

    def forward(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Scores (batch,) for each list of texts; images (batch, 3, h, w) in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            features = self.features(images)
            return tuple(self.score(features, group) for group in texts)

    def features(self, images: Tensor) -> Tensor:
        """Unit image features (batch, dim)."""
        with torch.autocast(images.device.type, enabled=False):
            return normalize(self.encode_images(self.preprocess(images.float())), dim=-1)

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Agreement (batch,) of unit image features (batch, dim) with a text for each."""
        return self.scale * (features * self.text_features(texts)).sum(dim=-1)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unit features (len(texts), dim); only texts that are not kept are encoded.

        One at a time: in a batch the last bits depend on its size, and a resumed run meets texts in other batches.
        """
        for text in texts:
            if text not in self.text_cache:
                tokens = self.tokenize([text]).to(self._device)
                self.text_cache[text] = normalize(self.encode_texts(tokens), dim=-1)[0]
        found = torch.stack([self.text_cache[text] for text in texts])
        while len(self.text_cache) > TEXTS_KEPT:
            del self.text_cache[next(iter(self.text_cache))]
        return found

    def to(self, device: torch.device) -> Self:  # type: ignore[override]
        """Move weights and kept features."""
        self.text_cache = {text: features.to(device) for text, features in self.text_cache.items()}
        return super().to(device)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
