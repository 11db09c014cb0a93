"""Step 2: every prompt encoded once."""

from pathlib import Path
from typing import Annotated

from zenml import step

from srpo.artifacts import PromptSets, Weights
from srpo.config import ModelConfig, PromptsConfig
from srpo.hub import bring
from srpo.prompts import embed_prompts
from steps.own_call import own_call


@step
def embed(
    model: ModelConfig, prompts: PromptsConfig, weights: Weights, output_dir: str
) -> Annotated[PromptSets, "prompts"]:
    """Cached; the folder is named after the prompts, the model and the code that the embeddings depend on."""
    with own_call("embed"):
        return embed_prompts(model, prompts, bring(weights), Path(output_dir))
