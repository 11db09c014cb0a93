"""Step 1: the model, the rewards and the held-out scores as local files whose content is known."""

from typing import Annotated

from zenml import step

from srpo.artifacts import Weights
from srpo.config import AddedReward, ModelConfig, RewardConfig, ScoreConfig
from srpo.weights import fetch_weights
from steps.own_call import own_call


@step
def download(
    model: ModelConfig,
    reward: RewardConfig,
    rewards: dict[str, AddedReward],
    scores: dict[str, ScoreConfig],
    fingerprint: str,
) -> Annotated[Weights, "weights"]:
    """Cached by the settings and by `fingerprint`, the state of the files and of the code that reads them.

    What is remote is looked up each time, because only the store knows what it still has; it fetches nothing twice.
    """
    with own_call("download"):
        return fetch_weights(model, reward, scores, rewards)
