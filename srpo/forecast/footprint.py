"""What a run takes, in bytes, before it starts: on disk, of the host's memory, over the network."""

from collections.abc import Collection
from math import prod

from srpo.config import LoraConfig, RunConfig
from srpo.embedding import texts_at_hand
from srpo.forecast.cost import moment_bytes, weight_bytes
from srpo.hub import Part, fetched, is_remote, missing, resolve, survey
from srpo.images.survey import latent_bytes
from srpo.models.layout import Shapes, folder_shapes, read_json
from srpo.models.weights import load_dtype
from srpo.prompts import Prompt
from srpo.prompts.encode import DTYPES

WRITING = ("embed", "train")
"""Steps that write much."""
BYTES_PER_ENTRY = 200  # a hash in a shard's header, the numbers of shard and row, quotes, a share of names
BYTES_STORED = 2  # published transformers are bf16 or wider
MEMORY_MARGIN = 1.25  # over a file of a checkpoint: what else the processes hold meanwhile
ADAPTER_SHARE = 20  # an adapter is less than this part of the transformer
T5_WIDTH = 4096  # of T5-XXL, FLUX's long text encoder


def disk_needed(config: RunConfig, steps: Collection[str] = WRITING) -> int:
    """Bytes these steps write at most: embeddings, latents, checkpoints (the last K, the best, one more), an export."""
    size = 0
    if "embed" in steps:
        each = embedding_bytes(config)
        size = sum(each + _listed(prompt) for part in texts_at_hand(config) for prompt in part) + latent_bytes(config)
    if "train" in steps:
        weights, moments = _checkpoint(config)
        size += (weights + moments) * (config.train.keep_last + 2) + weights
    return size


def disk_to_evaluate(config: RunConfig) -> int:
    """Bytes that an evaluation brings to an empty disk: held-out embeddings, the candidate, as large a champion."""
    weights, _ = _checkpoint(config)
    each, held_out = embedding_bytes(config), texts_at_hand(config).held_out
    return sum(each + _listed(prompt) for prompt in held_out) + 2 * weights


def embedding_bytes(config: RunConfig) -> int:
    """Bytes of one prompt's embeddings as they are stored."""
    _, width = _sizes(config)
    dtypes = DTYPES[config.prompts.dtype], load_dtype(config.model.weights)
    return width * min(dtype.itemsize for dtype in dtypes)


def memory_to_save(config: RunConfig) -> int:
    """Bytes of the host's memory that saving takes at most: the larger file of a checkpoint, whole, and a margin."""
    return round(max(_checkpoint(config)) * MEMORY_MARGIN)


def _checkpoint(config: RunConfig) -> tuple[int, int]:
    """Bytes of the weights and of the moments that a checkpoint holds."""
    trained, _ = _sizes(config)
    return trained * weight_bytes(config.train), moment_bytes(trained, config.train)


def _listed(prompt: Prompt) -> int:
    """Bytes that the list of a prompt set and the header of a shard spend on a prompt."""
    return len(prompt.text.encode()) + len(prompt.category.encode()) + BYTES_PER_ENTRY


def _num_trained(shapes: Shapes, lora: LoraConfig | None) -> int:
    """Values that training changes, of a transformer with tensors of these shapes."""
    if lora is None:
        return sum(prod(shape) for shape in shapes.values())
    targets = tuple(f".{name}.weight" for name in lora.target_modules)
    return sum(lora.rank * sum(shape) for name, shape in shapes.items() if f".{name}".endswith(targets))


def gibibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**30:.2f} GiB"


def _sizes(config: RunConfig) -> tuple[int, int]:
    """Values that are trained, and numbers in a prompt's embeddings; bounds for what is not here yet."""
    source, tokens = config.model.source, config.model.max_sequence_length
    if is_remote(source) and fetched(source) is None:
        files = survey(source, "model").files
        weights = sum(file.size for file in files if file.path.startswith("transformer/")) // BYTES_STORED
        return weights // (ADAPTER_SHARE if config.train.lora else 1), (tokens + 1) * T5_WIDTH
    folder = resolve(source, "model") / "transformer"
    shape = read_json(folder / "config.json")
    width = tokens * shape.get("joint_attention_dim", 0) + shape.get("pooled_projection_dim", 0)
    return _num_trained(folder_shapes(folder), config.train.lora), width


def to_fetch(config: RunConfig) -> int:
    """Bytes that will be downloaded."""
    sources = {reward.source for reward in config.all_rewards.values()}
    trained_on = _left(config.model.source, "model") + sum(_left(source, "reward") for source in sources)
    scores = sum(_left(source, "score") for source in config.evaluation.score_sources)
    images = _left(config.images.source, "images") if config.images else 0
    return trained_on + scores + images


def _left(source: str, part: Part) -> int:
    return missing(survey(source, part)) if is_remote(source) else 0
