"""Step 3: SRPO."""

from typing import Annotated

from zenml import step

from srpo.artifacts import PromptSets, Trained, TrainJob, Weights
from srpo.config import RunConfig
from srpo.durable import OWN_COPIES, mirror_of
from srpo.hub import bring
from srpo.launch import launch_training
from srpo.tracking import TrackedRun, Tracker, data_version
from steps.own_call import own_call


@step(enable_cache=False)
def train(
    config: RunConfig, weights: Weights, prompts: PromptSets, output_dir: str, tracked: TrackedRun
) -> Annotated[Trained, "trained"]:
    """Goes on from the last checkpoint in `output_dir`, if there is one."""
    with own_call("train"), tracked.in_environment():
        Tracker(tracked).set_tags(data_version(weights, prompts))
        mirror = mirror_of(config.storage)
        folder = mirror.local(output_dir)
        job = TrainJob(
            config=config, weights=bring(mirror.here(weights)), prompts=mirror.here(prompts), output_dir=str(folder)
        )
        trained = launch_training(job)
        mirror.push(folder, OWN_COPIES)
    return trained
