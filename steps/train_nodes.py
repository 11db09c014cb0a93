"""Step 3 over several nodes: one step hands the job over, a command trains in a pod per node, a step takes the result.

Only commands run in several pods at once in ZenML, and those have no inputs or outputs; so what they work with lies in
the run's folder in S3 (`storage.remote`), and what they made too. Each pod runs `python -m steps.train_nodes`.

ZenML starts all pods again, whatever the exit code of one says. So where that cannot help, they leave the cause in S3
and end well, and the step that takes the result ends with it, as other steps do.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from zenml import step
from zenml.client import Client
from zenml.steps import CommandStep
from zenml.utils.pipeline_docker_image_builder import DOCKER_IMAGE_WORKDIR

from srpo.artifacts import PromptSets, Trained, TrainJob, Weights
from srpo.config import RunConfig, StorageConfig
from srpo.durable import OWN_COPIES, Mirror, mirror_of
from srpo.durable.succession import CHECKPOINTS, goes_on
from srpo.errors import EXIT_PERMANENT, ConfigError, KnownError, TrainingStoppedError
from srpo.files import write_atomic
from srpo.launch import Nodes, launch_node
from srpo.start import find_start
from srpo.strict import Strict
from srpo.tracking import TrackedRun
from srpo.trainer import RESULT
from srpo.weights import bring
from steps.own_call import own_call, say
from steps.train import begin

HANDED_OVER = "handed-over.json"
GIVEN_UP, CAUSE = "given-up", "error.txt"
"""The folder beside the training's that says why trying again would not help, and the file in it."""
SECONDS_TO_SAY = 20.0
"""How long a node that failed waits for another to say that it has given up."""


class HandedOver(Strict):
    """What the pods of the nodes need to know."""

    job: TrainJob
    tracked: TrackedRun
    stack: str
    """ZenML's id of the stack, whose MLflow the training logs to."""


@step(enable_cache=False)
def hand_over(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    output_dir: str,
    tracked: TrackedRun,
    continues: str | None = None,
) -> None:
    """Put the job where the nodes find it, beside what an earlier attempt has left there."""
    mirror = mirror_of(config.storage)
    folder = mirror.local(output_dir)
    with own_call("train"), tracked.in_environment():
        mirror.remove(folder.with_name(GIVEN_UP))
        begin(folder, mirror, weights, prompts, tracked, continues)
        job = TrainJob(config=config, weights=weights, prompts=prompts, output_dir=str(folder))
        handed = HandedOver(job=job, tracked=tracked, stack=str(Client().active_stack_model.id))
        write_atomic(folder / HANDED_OVER, handed.model_dump_json())
        there = mirror.folders(folder / CHECKPOINTS)
        for checkpoint in (folder / CHECKPOINTS).glob("update-*"):  # of a training that this one continues
            if checkpoint.name not in there:
                mirror.push(checkpoint)
        mirror.push(folder, OWN_COPIES)


def train_on_nodes(config: RunConfig, output_dir: str) -> CommandStep:
    """The command of every node's pod."""
    storage = config.storage.model_dump_json()
    return CommandStep(command=["python", "-m", "steps.train_nodes", storage, output_dir], name="train_nodes")


@step(name="train", enable_cache=False)
def collect(config: RunConfig, output_dir: str) -> Annotated[Trained, "trained"]:
    """What the nodes have made, or the error for which they have given up."""
    mirror = mirror_of(config.storage)
    folder = mirror.local(output_dir)
    with own_call("train"):
        if cause := given_up(mirror, folder):
            raise TrainingStoppedError(cause)
        mirror.fetch(folder, names=RESULT.__eq__)
        return Trained.model_validate_json((folder / RESULT).read_text(encoding="utf-8"))


def main(storage: StorageConfig, output_dir: str) -> None:
    """One node's part, in the place that ZenML's operator has given it; from the last whole checkpoint in S3.

    Nothing at all where the nodes have given up in an earlier try.
    """
    mirror, nodes = mirror_of(storage), nodes_here()
    folder = mirror.local(output_dir)
    if given_up(mirror, folder):
        return
    with giving_up(mirror, folder):
        if not mirror.fetch(folder):
            raise ConfigError(f"nothing has been handed over in {storage.remote} for {output_dir}")
        handed = HandedOver.model_validate_json((folder / HANDED_OVER).read_text(encoding="utf-8"))
        _log_in(handed.stack)
        with handed.tracked.in_environment():
            weights = bring(mirror.here(handed.job.weights))
            config, uri = handed.job.config, handed.tracked.uri
            start = None if goes_on(folder, mirror) else find_start(config, uri, weights.model)
            update = {"weights": weights, "prompts": mirror.here(handed.job.prompts), "start": start}
            launch_node(handed.job.model_copy(update={**update, "output_dir": str(folder)}), nodes)
        if nodes.rank == 0:
            mirror.push(folder, OWN_COPIES)


@contextmanager
def giving_up(mirror: Mirror, folder: Path) -> Iterator[None]:
    """Leave what trying again cannot mend for the step `train`; a node that this took down ends well too."""
    try:
        yield
    except KnownError as error:
        if error.exit_code != EXIT_PERMANENT:
            raise
        say(error)
        said = folder.with_name(GIVEN_UP)
        write_atomic(said / CAUSE, str(error))
        mirror.push(said)
    except RuntimeError:
        if not given_up(mirror, folder, SECONDS_TO_SAY):
            raise


def given_up(mirror: Mirror, folder: Path, patience: float = 0.0) -> str | None:
    """Why the nodes have given up; None if none has said so, nor does in so many seconds."""
    said, until = folder.with_name(GIVEN_UP), time.monotonic() + patience
    while not mirror.fetch(said):
        if time.monotonic() >= until:
            return None
        time.sleep(1.0)
    return (said / CAUSE).read_text(encoding="utf-8")


def nodes_here() -> Nodes:
    """This pod's place among its Job's, as ZenML's step operator and Kubernetes say it."""
    said = os.environ
    return Nodes(
        count=int(said["ZENML_KUBERNETES_POD_COUNT"]),
        rank=int(said["JOB_COMPLETION_INDEX"]),
        main_address=said["ZENML_KUBERNETES_MAIN_ADDRESS"],
        main_port=int(said["ZENML_KUBERNETES_MAIN_PORT"]),
    )


def _log_in(stack: str) -> None:
    """Take the credentials of the stack's MLflow."""
    client = Client()
    client.activate_stack(stack)
    if tracker := client.active_stack.experiment_tracker:
        tracker.configure_mlflow()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Errors that are known as one line, and the exit code that says whether trying again may help."""
    try:
        yield
    except KnownError as error:
        say(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    os.chdir(DOCKER_IMAGE_WORKDIR)  # as in the pods of all other steps: a disk of its own
    with exit_codes():
        main(StorageConfig.model_validate_json(sys.argv[1]), sys.argv[2])
