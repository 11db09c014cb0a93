"""The metrics of an image: the reward, the relative preference, the meters, and on an embedded world the truth.

    reward   = r(image, prompt)
    relative = mean over positive words of r(image, "w. prompt") - mean over negative words of r(image, "w. prompt")

`reward/<name>` and `relative/<name>` are those of a run's added rewards, each by its own words. `spread` belongs to a
set of images: the standard deviation of their luminance. A model that collapses loses it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from srpo.config import PreferenceConfig
from srpo.criteria import Criterion
from srpo.errors import ConfigError
from srpo.meters import METERS
from srpo.preference import with_word
from srpo.rewards import Reward
from srpo.shapes.measure import content_correct, texture
from srpo.shapes.render import parse_caption

Scores = dict[str, Tensor]
"""Metric -> one value per image, (batch,)."""
WorldMeter = Callable[[Tensor, Sequence[str]], Tensor]
"""(images, prompts) -> (batch,)."""

WORLDS: dict[str, dict[str, WorldMeter]] = {
    "shapes": {"content": content_correct, "texture": lambda images, _: texture(images)},
}
"""Embedded world -> what its captions let us measure exactly."""


CAPTIONS: dict[str, Callable[[str], object]] = {"shapes": parse_caption}
"""Embedded world -> what reads its captions; ValueError for anything else."""


def check_captions(world: str, prompts: Sequence[str]) -> None:
    """Refuse prompts whose truth this world cannot tell."""
    for prompt in prompts:
        try:
            CAPTIONS[world](prompt)
        except ValueError as error:
            raise ConfigError(f"prompts.held_out: {error}; or set evaluation.world to null") from None


def metric_names(world: str | None, added: Iterable[str] = ()) -> list[str]:
    """Every metric that an evaluation in this world (None: no embedded one) with these added rewards produces."""
    own = [f"{kind}/{name}" for name in added for kind in ("reward", "relative")]
    return ["reward", "relative", *own, *METERS, *(WORLDS[world] if world else ()), "spread"]


class Scorer:
    """Scores images against their prompts."""

    def __init__(
        self,
        reward: Reward,
        preference: PreferenceConfig,
        world: str | None = None,
        added: Sequence[Criterion] = (),
    ) -> None:
        self.criteria = [Criterion("", reward, preference), *added]
        self.world_meters = WORLDS[world] if world else {}

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Every per-image metric of images (batch, 3, height, width) in [0, 1]."""
        scores: Scores = {}
        for criterion in self.criteria:
            plain, relative = _rewards(criterion, images, list(prompts))
            scores |= {criterion.metric("reward"): plain, criterion.metric("relative"): relative}
        scores |= {name: meter(images) for name, meter in METERS.items()}
        return scores | {name: meter(images, prompts) for name, meter in self.world_meters.items()}


def _rewards(criterion: Criterion, images: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Plain and relative reward; the images are looked at once."""
    positive, negative = criterion.preference.positive, criterion.preference.negative
    plain, *worded = criterion.reward(images, prompts, *(with_word(word, prompts) for word in (*positive, *negative)))
    wanted, unwanted = worded[: len(positive)], worded[len(positive) :]
    return plain, torch.stack(wanted).mean(0) - torch.stack(unwanted).mean(0)


def summarise(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of every metric over the images, and their `spread`."""
    means = {name: float(values.double().mean()) for name, values in scores.items()}
    return means | {"spread": float(scores["luminance"].double().std(correction=0))}
