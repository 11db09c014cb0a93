"""Model and reward: fetched, known by content, and of the layout that will be loaded."""

from srpo.artifacts import Weights
from srpo.config import ModelConfig, RewardConfig
from srpo.hub import fetch
from srpo.models import check_model
from srpo.rewards import check_reward


def fetch_weights(model: ModelConfig, reward: RewardConfig) -> Weights:
    """Both on this machine. What is remote could not be looked into before, so it is checked as soon as it is here."""
    weights = Weights(model=fetch(model.source, "model"), reward=fetch(reward.source, "reward"))
    check_model(model, weights.model.path)
    check_reward(reward, weights.reward.path)
    return weights
