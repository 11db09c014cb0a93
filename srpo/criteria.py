"""The rewards of a run, each with what it is asked and how much it counts.

    loss = loss of the first reward + sum over the others of weight * loss(scale * scores)

`scale` brings a reward's scores to those of the first one: the ratio of their standard deviations over the base model's
held-out images, of the kind of scores that the method trains on, unless the run file fixes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo.artifacts import Weights
from srpo.config import PreferenceConfig, RunConfig
from srpo.errors import ConfigError
from srpo.rewards import Reward, check_text_is_read, load_reward


@dataclass
class Criterion:
    """One reward of a run."""

    name: str
    """Empty for the first one."""
    reward: Reward
    preference: PreferenceConfig
    weight: float = 1.0
    scale: float | None = 1.0
    """None until it is measured."""

    def metric(self, kind: str) -> str:
        """Name of the metric of a kind (`reward`, `relative`) of this reward."""
        return f"{kind}/{self.name}" if self.name else kind

    def scaled(self, scores: Tensor) -> Tensor:
        """Scores on the first reward's scale."""
        assert self.scale is not None, f"the scale of reward {self.name} is not measured yet"
        return scores * self.scale


def load_criteria(config: RunConfig, weights: Weights, device: torch.device) -> list[Criterion]:
    """All rewards of a run; ConfigError for one that cannot serve its method."""
    paths = [weights.reward.path, *(weights.rewards[name].path for name in config.rewards)]
    found = list(zip(config.all_rewards.values(), paths, strict=True))
    if config.method.trains_on == "relative":
        for reward, path in found:
            check_text_is_read(reward, path, config.method.unless_text_is_read)
    return criteria_of(config, [load_reward(reward, path).to(device) for reward, path in found])


def criteria_of(config: RunConfig, rewards: Sequence[Reward]) -> list[Criterion]:
    """All rewards of a run, the first one first."""
    first, *others = rewards
    added = zip(config.rewards.items(), others, strict=True)
    return [
        Criterion("", first, config.preference),
        *(Criterion(name, reward, own.preference, own.weight, own.scale) for (name, own), reward in added),
    ]


def measure_scales(criteria: Sequence[Criterion], scores: Mapping[str, Tensor], kind: str) -> None:
    """Set every scale that is not fixed, from the scores (images,) of the base model's images by metric."""
    first, *others = criteria
    for criterion in others:
        if criterion.scale is None:
            criterion.scale = _deviation(scores, first.metric(kind)) / _deviation(scores, criterion.metric(kind))


def _deviation(scores: Mapping[str, Tensor], metric: str) -> float:
    """Standard deviation of a metric; ConfigError where there is none."""
    deviation = float(scores[metric].double().std(correction=0))
    if not deviation > 0:
        raise ConfigError(
            f"{metric} is the same for all held-out images of the base model, so that rewards cannot be brought to one "
            "scale by it; set rewards.<name>.scale, or raise monitor.num_images"
        )
    return deviation
