"""Aesthetic Predictor V2.5 (github.com/discus0434/aesthetic-predictor-v2-5): a head on SigLIP's image features.

Scores run from 1 to 10; its author calls 5.5 and more great. The prompt is not read. Published are the head,
`aesthetic_predictor_v2_5.pth` (bf16, a state dict of five linear layers), and the encoder that it was trained on,
google/siglip-so400m-patch14-384. Here both compute in float32.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import SiglipModel, SiglipVisionConfig, SiglipVisionModel

from srpo.errors import ConfigError
from srpo.models.layout import check_component, compare_shapes, read_json
from srpo.rewards.linear_head import linear_head
from srpo.rewards.preprocessing import siglip_preprocessing
from srpo.rewards.state_dict import read_state_dict, state_dict_shapes

WIDTHS = (1024, 128, 64, 16, 1)
DROPOUTS = (0.5, 0.5, 0.5, 0.2)


class AestheticHead(nn.Module):
    """Unit features (batch, width) -> scores (batch, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scoring_head = linear_head((width, *WIDTHS), DROPOUTS)

    def forward(self, features: Tensor) -> Tensor:
        """Scores of unit features."""
        return self.scoring_head(features)


class AestheticScore(nn.Module):
    """How beautiful images are; texts are taken and not read."""

    def __init__(self, encoder: SiglipVisionModel, head: AestheticHead) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.head = head.requires_grad_(False).eval()
        self.preprocess = siglip_preprocessing(encoder.config.image_size)

    def forward(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        """The same scores (batch,) for each list of texts; images (batch, 3, h, w) in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            scores = self.head(self.features(images))[:, 0]
        return tuple(scores for _ in texts)

    def features(self, images: Tensor) -> Tensor:
        """SigLIP's unit features (batch, width)."""
        with torch.autocast(images.device.type, enabled=False):
            return normalize(self.encoder(pixel_values=self.preprocess(images.float())).pooler_output, dim=-1)


def load(head: Path, encoder: Path) -> AestheticScore:
    """The head in a file, and the SigLIP in a transformers folder (whole, or its vision part alone)."""
    options = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    model = SiglipVisionModel.from_pretrained(encoder, **options)
    layers = AestheticHead(model.config.hidden_size)
    layers.load_state_dict({name: tensor.float() for name, tensor in read_state_dict(head).items()})
    return AestheticScore(model, layers)


def skeleton(encoder: Path) -> AestheticScore:
    """The score on the meta device, from the SigLIP folder's config."""
    config = SiglipVisionConfig.from_pretrained(encoder, local_files_only=True)
    with torch.device("meta"):
        return AestheticScore(SiglipVisionModel(config), AestheticHead(config.hidden_size))


def check(head: Path, encoder: Path) -> None:
    """The folder is a whole SigLIP, and the head fits it."""
    if not encoder.is_dir():
        raise ConfigError(f"no SigLIP folder at {encoder}; give the path of google/siglip-so400m-patch14-384")
    if not head.is_file():
        raise ConfigError(f"{head} is no file; give the path of aesthetic_predictor_v2_5.pth")
    whole = read_json(encoder / "config.json").get("model_type") == "siglip"
    check_component(encoder, SiglipModel if whole else SiglipVisionModel)
    width = SiglipVisionConfig.from_pretrained(encoder, local_files_only=True).hidden_size
    with torch.device("meta"):
        expected = AestheticHead(width).state_dict()
    compare_shapes(str(head), {name: tuple(t.shape) for name, t in expected.items()}, state_dict_shapes(head))
