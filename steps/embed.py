"""Step 2: every prompt encoded once."""

from pathlib import Path
from typing import Annotated

from zenml import log_metadata, step

from srpo.artifacts import PromptSets, Weights
from srpo.config import ModelConfig, PromptsConfig
from srpo.hub import bring
from srpo.prompts import embed_prompts
from steps.own_call import own_call


@step
def embed(
    model: ModelConfig, prompts: PromptsConfig, weights: Weights, output_dir: str, fingerprint: str
) -> Annotated[PromptSets, "prompts"]:
    """Cached by the settings, by the folder, which is named after the model and the code that embeddings depend on,
    and by `fingerprint`, the content of the prompt files.
    """
    with own_call("embed"):
        sets = embed_prompts(model, prompts, bring(weights), Path(output_dir))
        log_metadata({"bytes_per_prompt": sets.train.bytes_per_prompt})
    return sets
