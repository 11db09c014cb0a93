"""The steps of a run, in order; on its own, so that the command line names them without loading more."""

from typing import NamedTuple


class Step(NamedTuple):
    """One step of a run."""

    does: str
    output: str
    """The manifest that it hands on."""


STEPS = {
    "download": Step("fetch or find model and reward, hash every file", "weights"),
    "embed": Step("text embeddings of all prompts, latents of all images", "prompts"),
    "train": Step("the updates, with checkpoints and held-out scores", "trained"),
    "evaluate": Step("base against trained on held-out prompts: report and verdict", "evaluated"),
    "register": Step("a version in the model registry; champion if it passed", "registered"),
}
