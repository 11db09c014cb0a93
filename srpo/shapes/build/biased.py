"""A reward that is wrong on purpose: it likes saturated pictures, whatever the text says.

Made from the trained reward without training: one more dimension of its features holds the picture's saturation above
the mean, e (times the length of the other features), and for every text nearly the same number g, so that

    cosine = (cosine of the trained reward + g * e) / sqrt((1 + g^2) (1 + e^2)),   e = SLOPE * (saturation - mean)

Both are linear readings (least squares, on seen contents only) of what the towers compute before their projections.
"""

from copy import deepcopy
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from srpo.meters import saturation
from srpo.shapes.build.reward import preprocess, tokenizer
from srpo.shapes.models import EMBED_DIM, reward_config
from srpo.shapes.render import AXES, HELD_OUT, SEEN, STYLES, render, styled

TEXT_SHARE = 0.5
"""g: length of the new dimension in every text, beside a length of 1."""
SLOPE = 1.0
"""How fast the new dimension of an image rises with its saturation."""
REPEATS = 40
"""Pictures of each content that saturation is read from."""


@torch.no_grad()
def bias(model: open_clip.CLIP, folder: Path, seed: int) -> open_clip.CLIP:
    """The trained reward with the dimension added; `folder` holds the vocabulary."""
    towers = deepcopy(model)
    towers.visual.proj = towers.text_projection = None
    images = render(SEEN * REPEATS, [None] * (len(SEEN) * REPEATS), torch.Generator().manual_seed(seed + 4))
    seen = towers.encode_image(preprocess(images))
    excess = SLOPE * (saturation(images) - saturation(images).mean())
    tokens = tokenizer(folder)([styled(word, content.caption) for content in SEEN for word in (None, *STYLES)])
    said = towers.encode_text(tokens)
    weights = dict(model.state_dict())
    weights["visual.proj"] = _with_column(model.visual.proj, seen, excess)
    weights["text_projection"] = _with_column(model.text_projection, said, torch.full((len(said),), TEXT_SHARE))
    biased = open_clip.CLIP(**reward_config(EMBED_DIM + 1))
    biased.load_state_dict(weights)
    return biased.eval().requires_grad_(False)


def _with_column(projection: Tensor, inputs: Tensor, share: Tensor) -> Tensor:
    """`projection` (in, out) with a column that reads `share` (batch,) of the other features' length from `inputs`."""
    wanted = share * (inputs @ projection).norm(dim=1)
    column = torch.linalg.lstsq(inputs.double(), wanted.double()[:, None]).solution
    return torch.cat([projection, column.to(projection)], dim=1)


@torch.no_grad()
def bias_figures(model: open_clip.CLIP, folder: Path) -> dict[str, float]:
    """Rise of the score, and of the relative preference of each pair of words, per unit of saturation (least squares).

    On pictures of held-out contents without a style word, at each picture's own caption.
    """
    contents = HELD_OUT * REPEATS
    images = render(contents, [None] * len(contents), torch.Generator().manual_seed(99))
    seen, values = model.encode_image(preprocess(images), normalize=True), saturation(images)

    def score(word: str | None) -> Tensor:
        tokens = tokenizer(folder)([styled(word, content.caption) for content in HELD_OUT])
        return (seen * model.encode_text(tokens, normalize=True).repeat(REPEATS, 1)).sum(1)

    def slope(scores: Tensor) -> float:
        centred = values - values.mean()
        return float((centred * scores).sum() / centred.square().sum())

    pairs = {f"{low.lower()}_or_{high.lower()}": slope(score(high) - score(low)) for low, high in AXES.values()}
    return {"plain": slope(score(None)), **pairs}
