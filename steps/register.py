"""Step 5: a version in the model registry."""

from pathlib import Path
from typing import Annotated

from zenml import step

from srpo.artifacts import Evaluated, PromptSets, Registered, Trained, Weights
from srpo.config import RunConfig
from srpo.durable import mirror_of
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
        mirror = mirror_of(config.storage)
        evaluated = mirror.here(evaluated)
        mirror.fetch(Path(evaluated.report_json).parent)
        return register_version(config, weights, prompts, trained, evaluated, tracked)
