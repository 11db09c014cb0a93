"""Step 5: a version in the model registry."""

from typing import Annotated

from zenml import step

from srpo.artifacts import Evaluated, PromptSets, Registered, Trained, Weights
from srpo.config import RunConfig
from srpo.registry import register as register_version
from srpo.tracking import TrackedRun
from steps.own_call import own_call


@step(enable_cache=False)
def register(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    trained: Trained,
    evaluated: Evaluated,
    tracked: TrackedRun,
) -> Annotated[Registered, "registered"]:
    """Challenger, and champion if it passed."""
    with own_call("register"):
        return register_version(config, weights, prompts, trained, evaluated, tracked)
