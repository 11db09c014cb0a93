"""Encoding what the store does not hold yet: a process per GPU, or several on the CPU, each with its own shards."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import multiprocessing

from srpo.config import ModelConfig, PromptsConfig
from srpo.models import Embeddings, TextEncoder, load_text_encoder
from srpo.models.weights import load_dtype
from srpo.prompts.store import encoded_rows, key_of, write_shard

CPU = torch.device("cpu")
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
class Work:
    """What is to be encoded, with what, by how many."""

    model: ModelConfig
    model_folder: Path
    store: Path
    dtype: torch.dtype
    shards: list[list[str]]
    num_processes: int
    num_threads: int
    """Of each process."""

    def share(self, rank: int) -> None:
        """Encode this process's shards, one after the other; no more than one is in memory."""
        device = torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else CPU
        encoder = load_text_encoder(self.model, self.model_folder).to(device)
        for texts in self.shards[rank :: self.num_processes]:
            write_shard(self.store, texts, self._encode(encoder, texts))

    def _encode(self, encoder: TextEncoder, texts: list[str]) -> Embeddings:
        """Embeddings on the CPU, as they are stored."""
        batches = []
        size = batch_size(self.model)
        for start in range(0, len(texts), size):
            encoded = encoder.encode_prompts(texts[start : start + size], self.model.max_sequence_length)
            batches.append({name: self._stored(tensor) for name, tensor in encoded.items()})
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def _stored(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.to(self.dtype) if tensor.is_floating_point() else tensor).cpu()


def encode_missing(
    model: ModelConfig, prompts: PromptsConfig, model_folder: Path, store: Path, sets: list[list[str]]
) -> None:
    """Encode what the store does not hold of some sets of texts; without such, no encoder is loaded."""
    known = encoded_rows(store).keys()
    missing = [[text for text in texts if key_of(text) not in known] for texts in sets]
    shards = [texts[start : start + SHARD] for texts in missing for start in range(0, len(texts), SHARD)]
    wanted = prompts.num_processes or max(1, torch.cuda.device_count())
    num_processes = min(wanted, len(shards))
    num_threads = max(1, torch.get_num_threads() // max(1, num_processes))
    work = Work(model, model_folder, store, DTYPES[prompts.dtype], shards, num_processes, num_threads)
    if num_processes == 1 and not torch.cuda.is_available():
        work.share(0)
    elif num_processes:  # on a GPU also one: what an encoder leaves reserved there would be lacking in training
        multiprocessing.spawn(_process, (work,), num_processes)  # its processes end with this one, however that ends


def _process(rank: int, work: Work) -> None:
    torch.set_num_threads(work.num_threads)
    work.share(rank)
