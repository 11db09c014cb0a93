"""A learned head on CLIP's features, as ImageReward (arXiv:2304.05977) or an aesthetic predictor: an MLP, not a cosine.

A transformers CLIPModel folder with `head.safetensors` beside the model: linear layers `0.weight` (out, in), `0.bias`,
`1.weight`, ..., the last with one output, and the metadata `activation`: what stands between them (`none`, `relu` or
`gelu`). The first layer's width says what the head reads, where d is the width of the unit features:

    3d: image, text, image * text        d: the image alone (such a head agrees equally with every text)
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, relu
from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

from srpo.errors import ConfigError
from srpo.models.layout import Shapes, compare_shapes, file_shapes
from srpo.rewards import clip
from srpo.rewards.dual_encoder import DualEncoderReward

HEAD = "head.safetensors"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": relu, "gelu": gelu}


class Head(nn.Module):
    """Linear layers with an activation between them: (batch, in) -> (batch,)."""

    def __init__(self, widths: Sequence[int], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise((*widths, 1)))
        self.activation = ACTIVATIONS[activation]

    def forward(self, features: Tensor) -> Tensor:
        """One score for each row."""
        *hidden, last = self.layers
        for layer in hidden:
            features = self.activation(layer(features))
        scores: Tensor = last(features)
        return scores.squeeze(-1)


class HeadReward(DualEncoderReward):
    """An MLP of the image's features, and of the text's if it reads text; the image tower runs once for all texts."""

    head: Head
    reads_text: bool

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """What the head makes of unit image features (batch, d) and a text for each."""
        if not self.reads_text:
            return self.head(features)
        text = self.text_features(texts)
        return self.head(torch.cat([features, text, features * text], dim=-1))


def load(path: Path, architecture: str) -> HeadReward:
    """The reward in a folder; its own files give the architecture."""
    model = CLIPModel.from_pretrained(path, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    reward = _build(path, model)
    tensors = load_file(path / HEAD)
    reward.head.load_state_dict({f"layers.{name}": tensor.float() for name, tensor in tensors.items()})
    return reward


def skeleton(path: Path, architecture: str) -> HeadReward:
    """The reward on the meta device, from the folder's config, tokenizer and the head's header."""
    with torch.device("meta"):
        return _build(path, CLIPModel(CLIPConfig.from_pretrained(path, local_files_only=True)))


def check(path: Path, architecture: str) -> None:
    """The folder is whole, the head's layers follow on one another, and the first fits the features."""
    clip.check(path, architecture)
    if not (path / HEAD).is_file():
        raise ConfigError(f"{path} has no {HEAD}; for a CLIPModel without a head set reward.family to 'clip'")
    shapes, width = file_shapes(path / HEAD), _feature_width(path)
    widths, activation = _widths(shapes), _activation(path)
    compare_shapes(str(path / HEAD), {f"{i}.{kind}": s for i, kind, s in _expected(widths)}, shapes)
    if widths[0] not in (width, 3 * width):
        raise ConfigError(
            f"{path / HEAD} reads {widths[0]} values, but the features have {width}; "
            f"expected {3 * width} (image, text, product) or {width} (image alone)"
        )
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"{path / HEAD}: its metadata say activation {activation!r}; choose from {sorted(ACTIVATIONS)}"
        )


def reads_text(path: Path) -> bool:
    """Whether the head in a folder reads the text's features too."""
    return _widths(file_shapes(path / HEAD))[0] != _feature_width(path)


def _build(path: Path, model: CLIPModel) -> HeadReward:
    reward = clip.build(model, CLIPTokenizerFast.from_pretrained(path, local_files_only=True), 1.0, HeadReward)
    reward.head = Head(_widths(file_shapes(path / HEAD)), _activation(path)).requires_grad_(False).eval()
    reward.reads_text = reads_text(path)
    return reward


def _widths(shapes: Shapes) -> list[int]:
    """Input widths of the layers, as far as their numbers go up from 0."""
    names = [f"{index}.weight" for index in range(len(shapes))]
    found = [shapes[name] for name in names if name in shapes]
    return [shape[-1] for shape in found] or [0]


def _expected(widths: Sequence[int]) -> list[tuple[int, str, tuple[int, ...]]]:
    """(layer, kind, shape) of every tensor of a head with these input widths and one output."""
    pairs = list(enumerate(pairwise((*widths, 1))))
    weights = [(index, "weight", (after, before)) for index, (before, after) in pairs]
    return [*weights, *((index, "bias", (after,)) for index, (_, after) in pairs)]


def _feature_width(path: Path) -> int:
    return int(CLIPConfig.from_pretrained(path, local_files_only=True).projection_dim)


def _activation(path: Path) -> str:
    with safe_open(path / HEAD, framework="pt") as file:
        return (file.metadata() or {}).get("activation", "")
