"""Trains the reward: an open_clip model that matches pictures with captions, by contrast on seen contents only."""

from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor
from torch.nn.functional import log_softmax
from torchvision.transforms.v2.functional import normalize

from srpo.shapes.build.data import draw, draw_contrasts, scaled
from srpo.shapes.build.descent import optimise
from srpo.shapes.models import BPE_NAME, CLIP_TOKENS, reward_config
from srpo.shapes.render import AXES, CONTENTS, HELD_OUT, SEEN, Content, render, styled

NUM_STEPS = 1400
BATCH = 160
LEARNING_RATE = 1e-3
EMA_DECAY = 0.99

Tokenize = Callable[[Sequence[str]], Tensor]


def tokenizer(folder: Path) -> Tokenize:
    """open_clip's own tokenizer on the world's vocabulary file in `folder`."""
    return open_clip.SimpleTokenizer(bpe_path=str(folder / BPE_NAME), context_length=CLIP_TOKENS)


def train_reward(seed: int, folder: Path, scale: float) -> open_clip.CLIP:
    """A trained open_clip model; `folder` holds the vocabulary."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    model = open_clip.CLIP(**reward_config())
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    tokenize = tokenizer(folder)

    def loss() -> Tensor:
        halves = (draw(SEEN, BATCH // 2, generator), draw_contrasts(SEEN, BATCH // 2, generator))
        images, captions = torch.cat([half[0] for half in halves]), halves[0][1] + halves[1][1]
        return contrast(model, preprocess(images), tokenize(captions), captions)

    optimise("reward", model, loss, scaled(NUM_STEPS, scale), optimizer, EMA_DECAY)
    return model.eval().requires_grad_(False)


def preprocess(images: Tensor) -> Tensor:
    """CLIP's mean and deviation; the pictures already have the model's size."""
    return normalize(images, list(OPENAI_DATASET_MEAN), list(OPENAI_DATASET_STD))


def contrast(model: open_clip.CLIP, pixels: Tensor, tokens: Tensor, captions: Sequence[str]) -> Tensor:
    """Cross entropy both ways, in which every picture of the same caption counts as a match."""
    image_features = model.encode_image(pixels, normalize=True)
    text_features = model.encode_text(tokens, normalize=True)
    logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
    same = torch.tensor([[a == b for b in captions] for a in captions]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return -((target * log_softmax(logits, 1)).sum(1) + (target * log_softmax(logits.T, 1)).sum(1)).mean() / 2


@torch.no_grad()
def reward_figures(model: open_clip.CLIP, folder: Path) -> dict[str, float]:
    """Retrieval of a picture's caption among all contents, and discrimination of each pair of style words."""
    tokenize, generator = tokenizer(folder), torch.Generator().manual_seed(98)

    def features(captions: Sequence[str]) -> Tensor:
        return model.encode_text(tokenize(captions), normalize=True)

    def retrieval(contents: Sequence[Content], repeats: int = 5) -> float:
        chosen = list(contents) * repeats
        images = render(chosen, [None] * len(chosen), generator)
        scores = model.encode_image(preprocess(images), normalize=True) @ features([c.caption for c in CONTENTS]).T
        right = [CONTENTS[best] == content for best, content in zip(scores.argmax(1).tolist(), chosen, strict=True)]
        return sum(right) / len(right)

    def discrimination(pair: tuple[str, str]) -> float:
        right = []
        for word in pair:
            images = model.encode_image(preprocess(render(HELD_OUT, [word] * len(HELD_OUT), generator)), normalize=True)
            own, other = (features([styled(w, c.caption) for c in HELD_OUT]) for w in (word, *set(pair) - {word}))
            right.append(((images * own).sum(1) > (images * other).sum(1)).float().mean())
        return float(torch.stack(right).mean())

    pairs = {f"{low.lower()}_or_{high.lower()}": discrimination((low, high)) for low, high in AXES.values()}
    return {"retrieval_seen": retrieval(SEEN), "retrieval_held_out": retrieval(HELD_OUT, repeats=20), **pairs}
