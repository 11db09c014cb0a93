"""Model and rewards: fetched, known by content, and of the layout that will be loaded."""

from collections.abc import Mapping

from srpo.artifacts import Weights
from srpo.config import AddedReward, ModelConfig, RewardConfig
from srpo.hub import fetch
from srpo.models import check_model
from srpo.rewards import check_reward


def fetch_weights(
    model: ModelConfig, reward: RewardConfig, rewards: Mapping[str, AddedReward] | None = None
) -> Weights:
    """All on this machine. What is remote could not be looked into before, so it is checked as soon as it is here."""
    added = dict(rewards or {})
    weights = Weights(
        model=fetch(model.source, "model"),
        reward=fetch(reward.source, "reward"),
        rewards={name: fetch(own.source, "reward") for name, own in added.items()},
    )
    check_model(model, weights.model.path)
    for config, snapshot in zip((reward, *added.values()), weights.all_rewards.values(), strict=True):
        check_reward(config, snapshot.path)
    return weights
