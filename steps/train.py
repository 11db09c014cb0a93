"""Step 3: SRPO."""

from typing import Annotated

from zenml import step

from srpo.alone import refuse_busy
from srpo.artifacts import PromptSets, Trained, TrainJob, Weights
from srpo.config import RunConfig
from srpo.durable import OWN_COPIES, mirror_of
from srpo.hub import bring
from srpo.launch import launch_training
from srpo.start import find_start
from srpo.tracking import TrackedRun, Tracker, data_version
from steps.own_call import own_call


@step(enable_cache=False)
def train(
    config: RunConfig, weights: Weights, prompts: PromptSets, output_dir: str, tracked: TrackedRun
) -> Annotated[Trained, "trained"]:
    """Goes on from the last checkpoint in `output_dir`, if there is one."""
    mirror = mirror_of(config.storage)
    folder = mirror.local(output_dir)
    with own_call("train"), tracked.in_environment():
        refuse_busy(folder)
        tracker = Tracker(tracked, folder)
        tracker.set_tags(data_version(weights, prompts))
        tracker.close(0)  # the training sends what MLflow has not taken yet
        weights = bring(mirror.here(weights))
        start = find_start(config, tracked.uri, weights.model)
        job = TrainJob(
            config=config, weights=weights, prompts=mirror.here(prompts), start=start, output_dir=str(folder)
        )
        trained = launch_training(job)
        mirror.push(folder, OWN_COPIES)
    return trained
