"""Step 2: every prompt, and every real image, encoded once."""

from functools import partial
from typing import Annotated

from zenml import log_metadata, step

from srpo.artifacts import PromptSets, Weights
from srpo.config import ImagesConfig, ModelConfig, PromptsConfig, StorageConfig
from srpo.durable import mirror_of
from srpo.embedding import embed as embed_data
from srpo.weights import bring
from steps.own_call import own_call


@step
def embed(
    model: ModelConfig,
    prompts: PromptsConfig,
    images: ImagesConfig | None,
    weights: Weights,
    output_dir: str,
    fingerprint: str,
    storage: StorageConfig,
) -> Annotated[PromptSets, "prompts"]:
    """Cached by the settings, by the folder, which is named after the model and the code that embeddings depend on,
    and by `fingerprint`, the content of the prompt files and the state of the images.
    """
    with own_call("embed"):
        mirror = mirror_of(storage)
        folder = mirror.local(output_dir)
        encoded = partial(mirror.fetch, folder, None)  # by whatever node
        sets = embed_data(model, prompts, images, bring(weights), folder, encoded)
        mirror.push(folder, shared=True)
        log_metadata({"bytes_per_prompt": sets.train.bytes_per_prompt})
    return sets.model_copy(update={"data_hash": fingerprint})
