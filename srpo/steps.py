"""The steps of a run, in order; on its own, so that the command line names them without loading more."""

from typing import NamedTuple


class PipelineStep(NamedTuple):
    """One step of a run."""

    does: str
    output: str
    """The manifest that it hands on."""


STEPS = {
    "download": PipelineStep("fetch or find model and reward, hash every file", "weights"),
    "embed": PipelineStep("text embeddings of all prompts, latents of all images", "prompts"),
    "train": PipelineStep("the updates, with checkpoints and held-out scores", "trained"),
    "evaluate": PipelineStep("base against trained on held-out prompts: report and verdict", "evaluated"),
    "register": PipelineStep("a version in the model registry; champion if it passed", "registered"),
}
