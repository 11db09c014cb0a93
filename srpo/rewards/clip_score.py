"""CLIPScore (arXiv:2104.08718): `2.5 * max(cos, 0)` of an image and "A photo depicts <prompt>", by any CLIPModel.

The published numbers are those of openai/clip-vit-base-patch32. The factor and the words in front of the prompt are the
paper's; other programs write `100 * cos` and leave the words out.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from srpo.rewards.dual_encoder import DualEncoderReward

WEIGHT = 2.5
PREFIX = "A photo depicts "


class ClipScore(nn.Module):
    """CLIPScore around the cosine of a CLIP."""

    def __init__(self, cosine: DualEncoderReward) -> None:
        super().__init__()
        self.cosine = cosine

    def forward(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Scores (batch,) for each list of texts; images (batch, 3, h, w) in [0, 1]."""
        cosines = self.cosine(images, *([PREFIX + text for text in group] for group in texts))
        return tuple(WEIGHT * cosine.clamp(min=0) for cosine in cosines)

    def features(self, images: Tensor) -> Tensor:
        """Unit image features (batch, dim)."""
        return self.cosine.features(images)
