"""Prompt files in, embeddings out: encoded once, before training, so that the encoders need no memory there.

A prompt set is a list of texts, with their categories and the places of their embeddings, in the store of the encoder
that made them. Texts are in memory where a set is used; embeddings stay on disk, however many there are.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srpo.artifacts import PromptSet, PromptSets, Snapshot, Weights
from srpo.config import ModelConfig, PromptsConfig
from srpo.models.weights import load_dtype
from srpo.prompts.encode import encode_missing
from srpo.prompts.files import Prompt, read_both, read_held_out, read_prompts
from srpo.shards import Row, StoredRows, encoded_rows, key_of, read_set, sole_writer, write_set

__all__ = [
    "Prompt",
    "embed_prompts",
    "embed_texts",
    "encoder_hash",
    "load_categories",
    "load_prompt_set",
    "read_both",
    "read_held_out",
    "read_prompts",
    "texts_hash",
]

TEXT_PARTS = ("text_encoder", "tokenizer")
"""How the names of a diffusers folder's parts begin that embeddings depend on."""


def embed_prompts(model: ModelConfig, prompts: PromptsConfig, weights: Weights, output_dir: Path) -> PromptSets:
    """Encode training and held-out prompts; see `embed_texts`."""
    train, held_out = read_both(prompts)
    sets = [(prompts.train, train), (prompts.held_out, held_out)]
    of_train, of_held_out = embed_texts(model, prompts, weights.model, output_dir, sets)
    return PromptSets(train=of_train, held_out=of_held_out)


def embed_texts(
    model: ModelConfig,
    prompts: PromptsConfig,
    base: Snapshot,
    output_dir: Path,
    sets: Sequence[tuple[str, list[Prompt]]],
) -> list[PromptSet]:
    """Encode some sets, each with its source, into the encoder's store under `output_dir`; `base`: the model's folder.

    A text that is there is not encoded again, whatever set or run it came with. In a batch with other texts its
    embedding may differ in the last bits, as any matrix product may; the same two prompt files in an empty folder
    always form the same batches, interrupted or not.
    """
    store = output_dir / encoder_hash(model, prompts, base)
    with sole_writer(store):
        texts = [[prompt.text for prompt in part] for _, part in sets]
        encode_missing(model, prompts, base.path, store, texts)
        rows = encoded_rows(store)
        return [_save(store, part, rows, source) for source, part in sets]


def encoder_hash(model: ModelConfig, prompts: PromptsConfig, weights: Snapshot) -> str:
    """What embeddings depend on besides the text: the encoders by content and type, the length, the stored type."""
    files = [[file.path, file.sha256] for file in weights.files if file.path.startswith(TEXT_PARTS)]
    facts = [model.family, model.max_sequence_length, str(load_dtype(model.weights)), prompts.dtype, files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _save(store: Path, prompts: list[Prompt], rows: dict[str, Row], source: str) -> PromptSet:
    facts = {"texts": [prompt.text for prompt in prompts], "categories": [prompt.category for prompt in prompts]}
    index, files = write_set(store, facts, [rows[key_of(prompt.text)] for prompt in prompts], source)
    shards = files.files[1:]
    in_shard = Counter(shard for shard, _ in rows.values())
    stored = sum(file.size for file in shards) / sum(in_shard[file.path] for file in shards)
    return PromptSet(
        snapshot=files,
        index=index,
        num_prompts=len(prompts),
        bytes_per_prompt=round(stored),
    )


def load_prompt_set(prompt_set: PromptSet) -> tuple[list[str], StoredRows]:
    """Prompts, and their embeddings in the same order, which stay on disk."""
    content, rows = _read(prompt_set)
    return content["texts"], rows


def load_categories(prompt_set: PromptSet) -> list[str]:
    """What each prompt is about, in the order of the prompts; empty where the file did not say."""
    return _read(prompt_set)[0]["categories"]


def texts_hash(prompt_set: PromptSet) -> str:
    """Of the texts and their categories, wherever their embeddings lie."""
    content, _ = _read(prompt_set)
    return hashlib.sha256(json.dumps([content["texts"], content["categories"]]).encode()).hexdigest()


def _read(prompt_set: PromptSet) -> tuple[dict[str, Any], StoredRows]:
    return read_set(prompt_set.snapshot.path, prompt_set.index)
