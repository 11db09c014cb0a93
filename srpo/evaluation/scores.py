"""The metrics of an image: the reward, the relative preference, the meters, and on an embedded world the truth.

    reward   = r(image, prompt)
    relative = mean over positive words of r(image, "w. prompt") - mean over negative words of r(image, "w. prompt")

`reward/<name>` and `relative/<name>` are those of a run's added rewards. Held-out scores (`evaluation.scores`) give the
same two under `<name>` and `relative/<name>`, with words of their own. Training raises the rewards, not them.

`spread` belongs to a set of images: the standard deviation of their luminance. A model that collapses loses it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from srpo.artifacts import Weights
from srpo.config import EvaluationConfig, ScoreConfig
from srpo.criteria import Criterion
from srpo.errors import ConfigError
from srpo.evaluation.pairs import DIVERSITY, DRIFT
from srpo.meters import meters
from srpo.monitor import NO_METRICS
from srpo.preference import with_word
from srpo.rewards import Reward
from srpo.rewards.measured import find_score, load_score
from srpo.shapes.measure import content_correct, texture
from srpo.shapes.render import parse_caption

Scores = dict[str, Tensor]
"""Metric -> one value per image, (batch,)."""
WorldMeter = Callable[[Tensor, Sequence[str]], Tensor]
"""(images, prompts) -> (batch,)."""

SHAPES: dict[str, WorldMeter] = {"content": content_correct, "texture": lambda images, _: texture(images)}
"""What captions of the Shapes world, the one that is embedded, let us measure exactly."""


def check_captions(prompts: Sequence[str]) -> None:
    """Refuse prompts whose truth the Shapes world cannot tell."""
    for prompt in prompts:
        try:
            parse_caption(prompt)
        except ValueError as error:
            raise ConfigError(f"prompts.held_out: {error}; or set evaluation.world to null") from None


@dataclass(frozen=True)
class HeldOutScore:
    """A published score that is only measured, and the words of its relative preference."""

    reward: Reward
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    """Both empty for a score that does not read the prompt."""


def metric_names(settings: EvaluationConfig, added: Iterable[str] = ()) -> list[str]:
    """Every metric that an evaluation with these added rewards produces; ConfigError for a name that is taken."""
    world = SHAPES if settings.world else ()
    own = [f"{kind}/{name}" for name in added for kind in ("reward", "relative")]
    names = ["reward", "relative", *own, *meters(settings.grid_periods), *world, "spread"]
    for name, score in settings.scores.items():
        if name in (*names, DRIFT, DIVERSITY, *NO_METRICS) or f"relative/{name}" in names:
            raise ConfigError(f"evaluation.scores.{name}: that name is taken; choose one of your own")
        names += [name, *([f"relative/{name}"] if find_score(name, score).reads_text else [])]
    return names


def load_scores(scores: Mapping[str, ScoreConfig], weights: Weights, device: torch.device) -> dict[str, HeldOutScore]:
    """The held-out scores, frozen; ConfigError for one that was not fetched."""
    loaded = {}
    for name, score in scores.items():
        if name not in weights.scores:
            raise ConfigError(f"evaluation.scores.{name} was not fetched when this run began; start a new run")
        files = weights.scores[name]
        reward = load_score(name, score, files.checkpoint.path, files.companion.path if files.companion else None)
        reads_text = find_score(name, score).reads_text
        words = (score.positive, score.negative) if reads_text else ((), ())
        loaded[name] = HeldOutScore(reward.to(device), *words)
    return loaded


class Scorer:
    """Scores images against their prompts."""

    def __init__(
        self,
        criteria: Sequence[Criterion],
        world: str | None = None,
        scores: Mapping[str, HeldOutScore] = MappingProxyType({}),
        grid_periods: Sequence[int] = (),
    ) -> None:
        self.criteria = criteria
        self.world_meters = SHAPES if world else {}
        self.scores = scores
        self.meters = meters(grid_periods)

    @contextmanager
    def scores_at(self, device: torch.device) -> Iterator[None]:
        """The held-out scores on a device, which training has to itself again afterwards."""
        try:
            for score in self.scores.values():
                score.reward.to(device)
            yield
        finally:
            for score in self.scores.values():
                score.reward.to(torch.device("cpu"))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Every per-image metric of images (batch, 3, height, width) in [0, 1]."""
        scores: Scores = {}
        for criterion in self.criteria:
            words = criterion.preference.positive, criterion.preference.negative
            plain, relative = plain_and_relative(criterion.reward, *words, images, list(prompts))
            scores |= {criterion.metric("reward"): plain, criterion.metric("relative"): relative}
        scores |= {name: meter(images) for name, meter in self.meters.items()}
        scores |= {name: meter(images, prompts) for name, meter in self.world_meters.items()}
        for name, score in self.scores.items():
            plain, relative = plain_and_relative(score.reward, score.positive, score.negative, images, list(prompts))
            scores |= {name: plain, f"relative/{name}": relative} if score.positive else {name: plain}
        return scores


def plain_and_relative(
    reward: Reward, positive: Sequence[str], negative: Sequence[str], images: Tensor, prompts: list[str]
) -> tuple[Tensor, Tensor]:
    """Plain and relative reward, each (batch,); the images are looked at once. Without words the relative one is 0."""
    words = (*positive, *negative)
    plain, *worded = reward(images, prompts, *(with_word(word, prompts) for word in words))
    if not worded:
        return plain, torch.zeros_like(plain)
    return plain, torch.stack(worded[: len(positive)]).mean(0) - torch.stack(worded[len(positive) :]).mean(0)


def summarise(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of every metric over the images, and their `spread`."""
    means = {name: float(values.double().mean()) for name, values in scores.items()}
    return means | {"spread": float(scores["luminance"].double().std(correction=0))}
