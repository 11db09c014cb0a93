"""Encoding the prompts that the store does not hold yet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srpo.config import ModelConfig, PromptsConfig
from srpo.encoding import Encoding
from srpo.models import load_text_encoder
from srpo.models.weights import load_dtype
from srpo.shards import encoded_rows, key_of

BATCH = 32
SMALL_BATCH = 8
"""Where the encoder is kept in bf16, because memory is short."""
SHARD = 4 * BATCH
"""Prompts of a shard: 1 GiB for T5-XXL at 512 tokens in float32, which is what a kill can lose."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def batch_size(model: ModelConfig) -> int:
    """Prompts that an encoder is given at once."""
    return BATCH if load_dtype(model.weights) == torch.float32 else SMALL_BATCH


@dataclass(frozen=True)
class TextEncoding(Encoding[str]):
    """Texts by the model's text encoders."""

    dtype: torch.dtype

    def key(self, item: str) -> str:
        """Its hash."""
        return key_of(item)

    def encoder(self, device: torch.device) -> Callable[[list[str]], dict[str, Tensor]]:
        """Embeddings of batches of texts, on the CPU, as they are stored."""
        encoder = load_text_encoder(self.model, self.model_folder).to(device)

        size = batch_size(self.model)

        def encode(texts: list[str]) -> dict[str, Tensor]:
            batches = []
            for start in range(0, len(texts), size):
                encoded = encoder.encode_prompts(texts[start : start + size], self.model.max_sequence_length)
                batches.append({name: self._stored(tensor) for name, tensor in encoded.items()})
            return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

        return encode

    def _stored(self, tensor: Tensor) -> Tensor:
        """In what it has, or in `dtype` where that is narrower."""
        narrower = tensor.is_floating_point() and self.dtype.itemsize < tensor.dtype.itemsize
        return (tensor.to(self.dtype) if narrower else tensor).cpu()


def encode_missing(
    model: ModelConfig, prompts: PromptsConfig, model_folder: Path, store: Path, sets: list[list[str]]
) -> None:
    """Encode what the store does not hold of some sets of texts."""
    known = set(encoded_rows(store))
    shards: list[list[str]] = []
    for texts in sets:
        missing = [text for text in dict.fromkeys(texts) if key_of(text) not in known]
        known |= {key_of(text) for text in missing}
        shards += [missing[start : start + SHARD] for start in range(0, len(missing), SHARD)]
    TextEncoding(model, model_folder, store, shards, prompts.num_processes, DTYPES[prompts.dtype]).run()
