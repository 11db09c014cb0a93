"""Step 3: SRPO."""

from pathlib import Path
from typing import Annotated

from zenml import step

from srpo.alone import refuse_busy
from srpo.artifacts import PromptSets, Trained, TrainJob, Weights
from srpo.config import RunConfig
from srpo.durable import OWN_COPIES, Mirror, mirror_of
from srpo.durable.succession import goes_on, has_taken_over, log_again, take_checkpoints, take_journals
from srpo.launch import launch_training
from srpo.provenance import data_version
from srpo.start import find_start
from srpo.tracking import TrackedRun, Tracker
from srpo.weights import bring
from steps.own_call import own_call


@step(enable_cache=False)
def train(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    output_dir: str,
    tracked: TrackedRun,
    continues: str | None = None,
) -> Annotated[Trained, "trained"]:
    """Goes on from the last checkpoint in `output_dir`, if there is one, else from that of the training `continues`."""
    mirror = mirror_of(config.storage)
    folder = mirror.local(output_dir)
    with own_call("train"), tracked.in_environment():
        begin(folder, mirror, weights, prompts, tracked, continues)
        weights = bring(mirror.here(weights))
        start = None if goes_on(folder, mirror) else find_start(config, tracked.uri, weights.model)
        job = TrainJob(
            config=config, weights=weights, prompts=mirror.here(prompts), start=start, output_dir=str(folder)
        )
        trained = launch_training(job)
        mirror.push(folder, OWN_COPIES)
    return trained


def begin(
    folder: Path, mirror: Mirror, weights: Weights, prompts: PromptSets, tracked: TrackedRun, continues: str | None
) -> None:
    """Make a training's folder ready, with what `continues` has left for it, and say in MLflow what it works on."""
    if not folder.exists():  # first: what MLflow has not taken yet would otherwise give way to what begins here
        mirror.fetch(folder)
    refuse_busy(folder)
    earlier = None if continues is None else mirror.local(continues)
    if earlier and has_taken_over(earlier, folder, mirror):
        earlier = None
    if earlier:
        take_journals(earlier, folder, mirror)
    tracker = Tracker(tracked, folder)
    if earlier:
        log_again(folder, tracker)
    tracker.set_tags(data_version(weights, prompts))
    tracker.close(0)  # the training sends what MLflow has not taken yet
    if earlier:
        take_checkpoints(earlier, folder, mirror)
