"""Model, rewards and scores: fetched, known by content, and of the layout that will be loaded."""

from collections.abc import Mapping

from srpo.artifacts import ScoreWeights, Snapshot, Weights
from srpo.config import AddedReward, ModelConfig, RewardConfig, ScoreConfig
from srpo.hub import at_hand, fetch, is_remote, verify
from srpo.models import check_model
from srpo.rewards import check_reward
from srpo.rewards.measured import check_score


def fetch_weights(
    model: ModelConfig,
    reward: RewardConfig,
    scores: Mapping[str, ScoreConfig],
    rewards: Mapping[str, AddedReward],
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


def bring(weights: Weights) -> Weights:
    """All weights on this machine. ConfigError if those used in place are not as they were recorded."""
    rewards = {name: at_hand(added) for name, added in weights.rewards.items()}
    scores = {
        name: ScoreWeights(checkpoint=at_hand(score.checkpoint), companion=score.companion and at_hand(score.companion))
        for name, score in weights.scores.items()
    }
    brought = Weights(model=at_hand(weights.model), reward=at_hand(weights.reward), rewards=rewards, scores=scores)
    for files in brought.snapshots.values():
        if not is_remote(files.source) and files.path.exists():
            verify(files)
    return brought
