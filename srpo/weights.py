"""Model, rewards and scores: fetched, known by content, and of the layout that will be loaded."""

from collections.abc import Mapping
from types import MappingProxyType

from srpo.artifacts import ScoreWeights, Snapshot, Weights
from srpo.config import AddedReward, ModelConfig, RewardConfig, ScoreConfig
from srpo.hub import fetch
from srpo.models import check_model
from srpo.rewards import check_reward
from srpo.rewards.measured import check_score


def fetch_weights(
    model: ModelConfig,
    reward: RewardConfig,
    scores: Mapping[str, ScoreConfig],
    rewards: Mapping[str, AddedReward] = MappingProxyType({}),
) -> Weights:
    """All on this machine. What is remote could not be looked into before, so it is checked as soon as it is here."""
    files = fetch(model.source, "model")
    check_model(model, files.path)
    return fetch_judges(files, reward, scores, rewards)


def fetch_judges(
    model: Snapshot, reward: RewardConfig, scores: Mapping[str, ScoreConfig], rewards: Mapping[str, AddedReward]
) -> Weights:
    """Rewards and scores on this machine, checked, beside a model that is here."""
    weights = Weights(
        model=model,
        reward=fetch(reward.source, "reward"),
        rewards={name: fetch(added.source, "reward") for name, added in rewards.items()},
        scores={name: fetch_score(name, score) for name, score in scores.items()},
    )
    check_reward(reward, weights.reward.path)
    for name, added in rewards.items():
        check_reward(added, weights.rewards[name].path)
    return weights


def fetch_score(name: str, config: ScoreConfig) -> ScoreWeights:
    """A held-out score on this machine, checked."""
    companion = fetch(config.companion, "score") if config.companion else None
    weights = ScoreWeights(checkpoint=fetch(config.source, "score"), companion=companion)
    check_score(name, config, weights.checkpoint.path, companion.path if companion else None)
    return weights
