"""Prompt files in, embeddings out: encoded once, before training, so that the encoders need no memory there."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from srpo.artifacts import PromptSet, PromptSets, Weights
from srpo.config import ModelConfig, PromptsConfig
from srpo.errors import ConfigError
from srpo.hub import snapshot
from srpo.models import Embeddings, TextEncoder, load_text_encoder
from srpo.shapes import heldout_captions, seen_captions

Split = Literal["train", "held_out"]
BUILTIN = {"builtin:shapes": {"train": seen_captions, "held_out": heldout_captions}}
ENCODE_BATCH = 32


def read_prompts(source: str, split: Split, max_characters: int) -> list[str]:
    """The prompts of a text file, one per line, or of an embedded world; ConfigError names the bad line."""
    if source in BUILTIN:
        return list(BUILTIN[source][split]())
    path = Path(source).expanduser()
    return _check_lines(path, _read_text(path, split), max_characters)


def read_both(config: PromptsConfig) -> tuple[list[str], list[str]]:
    """Training and held-out prompts; held-out ones may not be trained on."""
    train = read_prompts(config.train, "train", config.max_characters)
    held_out = read_prompts(config.held_out, "held_out", config.max_characters)
    if len(held_out) < 2:
        raise ConfigError(f"prompts.held_out: {config.held_out} holds one prompt; intervals need at least two")
    if shared := sorted(set(train) & set(held_out)):
        raise ConfigError(
            f"{len(shared)} held-out prompts are also trained on, for instance {shared[0]!r}; remove them from one file"
        )
    return train, held_out


def _read_text(path: Path, split: Split) -> str:
    if not path.is_file():
        raise ConfigError(f"prompts.{split}: no prompt file at {path}; give a text file with one prompt per line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(
            f"prompts.{split}: {path} is binary, not UTF-8 text; give a text file with one prompt per line"
        )
    return text


def _check_lines(path: Path, text: str, max_characters: int) -> list[str]:
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    if not lines:
        raise ConfigError(f"{path} holds no prompt; write one per line")
    for number, line in lines.items():
        if len(line) > max_characters:
            raise ConfigError(
                f"{path}, line {number}: {len(line)} characters, more than prompts.max_characters ({max_characters})"
            )
    repeated = {line for line, count in Counter(lines.values()).items() if count > 1}
    if repeated:
        numbers = [number for number, line in lines.items() if line in repeated]
        raise ConfigError(f"{path}: the same prompt on lines {', '.join(map(str, numbers[:6]))}; keep one of each")
    return list(lines.values())


def embed_prompts(model: ModelConfig, prompts: PromptsConfig, weights: Weights, output_dir: Path) -> PromptSets:
    """Encode training and held-out prompts into folders under `output_dir`."""
    train, held_out = read_both(prompts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_text_encoder(model, weights.model.path).to(device)
    return PromptSets(
        train=_save(encoder, train, model.max_sequence_length, output_dir / "train", prompts.train),
        held_out=_save(encoder, held_out, model.max_sequence_length, output_dir / "held_out", prompts.held_out),
    )


def _save(encoder: TextEncoder, prompts: list[str], length: int, folder: Path, source: str) -> PromptSet:
    folder.mkdir(parents=True, exist_ok=True)
    batches = []
    for start in range(0, len(prompts), ENCODE_BATCH):
        encoded = encoder.encode_prompts(prompts[start : start + ENCODE_BATCH], length)
        batches.append({name: tensor.cpu() for name, tensor in encoded.items()})
    tensors = {name: torch.cat([batch[name] for batch in batches]).contiguous() for name in batches[0]}
    save_file(tensors, folder / "embeddings.safetensors")
    (folder / "prompts.json").write_text(json.dumps(prompts, ensure_ascii=False, indent=1), encoding="utf-8")
    return PromptSet(snapshot=snapshot(folder, source), num_prompts=len(prompts))


def load_prompt_set(prompt_set: PromptSet) -> tuple[list[str], Embeddings]:
    """Prompts and their embeddings, in the same order."""
    folder = prompt_set.snapshot.path
    return json.loads((folder / "prompts.json").read_text(encoding="utf-8")), load_file(
        folder / "embeddings.safetensors"
    )


def select(embeddings: Embeddings, indices: Sequence[int]) -> Embeddings:
    """The embeddings of some prompts, as one batch."""
    return {name: tensor[list(indices)] for name, tensor in embeddings.items()}
