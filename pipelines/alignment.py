"""The pipeline: download -> embed -> train -> evaluate -> register."""

from pathlib import Path
from typing import Any

from pydantic import Field
from zenml import pipeline
from zenml.client import Client
from zenml.enums import ExecutionMode
from zenml.steps import BaseStep

from pipelines.cluster.resources import nodes_options, over_nodes, step_options
from srpo.artifacts import PromptSets, Trained, Weights
from srpo.config import RunConfig
from srpo.hub import is_remote
from srpo.strict import Strict
from srpo.tracking import TrackedRun
from steps.download import download
from steps.embed import embed
from steps.evaluate import evaluate
from steps.register import register
from steps.train import train
from steps.train_nodes import collect, hand_over, train_on_nodes


class Request(Strict):
    """Where a run writes, what its cached steps depend on, and which part of it is wanted."""

    run_dir: str
    embeddings_dir: str
    """Named after everything the embeddings depend on, besides the prompts."""
    scores_dir: str
    """Scores and thumbnails of all evaluations."""
    prompts: str
    """Content of the prompt files, state of the images."""
    fingerprint: str
    """State of the weights' files and of the code that reads them."""
    tracked: TrackedRun
    until: str
    """Last step wanted."""
    continues: str | None = None
    """Folder of a training that this one goes on from."""
    words: str | None = None
    """Hash of the content of `preference.words_file`, if there is one."""
    given: dict[str, str] = Field(default_factory=dict)
    """Outputs that exist already, for steps that need not run: name -> id of the ZenML artifact version."""


@pipeline(name="srpo", execution_mode=ExecutionMode.FAIL_FAST)
def alignment(config: RunConfig, request: Request) -> None:
    """Each output feeds the next; `given` outputs take the place of their steps."""
    tracked, run_dir = request.tracked, request.run_dir
    fetch_once = _sized(download, config).with_options(enable_cache=not any(map(is_remote, config.sources)))
    weights = _given(request, "weights") or fetch_once(
        config.model, config.reward, config.rewards, config.evaluation.scores, request.fingerprint
    )
    if request.until == "download":
        return
    embed_once = _sized(embed, config).with_options(enable_cache=Path(request.embeddings_dir).exists())
    prompts = _given(request, "prompts") or embed_once(
        config.model, config.prompts, config.images, weights, request.embeddings_dir, request.prompts, config.storage
    )
    if request.until == "embed":
        return
    trained = _given(request, "trained") or _train(config, weights, prompts, request)
    if request.until == "train":
        return
    evaluated = _given(request, "evaluated")
    if evaluated is None:
        measure = _sized(evaluate, config)
        evaluated, _ = measure(config, weights, prompts, trained, f"{run_dir}/evaluation", request.scores_dir, tracked)
    if request.until == "evaluate":
        return
    _sized(register, config)(config, weights, prompts, trained, evaluated, tracked)


def _train(config: RunConfig, weights: Weights, prompts: PromptSets, request: Request) -> Trained:
    """In one pod, or in one for each node between two that need no GPU."""
    folder = f"{request.run_dir}/train"
    if not over_nodes(config):
        return _sized(train, config)(config, weights, prompts, folder, request.tracked, request.continues)
    before, after = (_sized(step, config, like="download") for step in (hand_over, collect))
    before(config, weights, prompts, folder, request.tracked, request.continues)
    train_on_nodes(config, folder).with_options(**nodes_options(config))(after=before.name)
    return after(config, folder, after="train_nodes")


def _sized(step: BaseStep, config: RunConfig, like: str | None = None) -> BaseStep:
    """The step with the pod that the run's resources give it, or one that is `like` it, on a remote stack."""
    return step.with_options(**step_options(config, like or step.name))


def _given(request: Request, output: str) -> Any:
    """An output of an earlier run as ZenML's artifact, which keeps the lineage; None if its step has to run."""
    return Client().get_artifact_version(request.given[output]) if output in request.given else None
