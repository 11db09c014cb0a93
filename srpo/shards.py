"""Embeddings of prompts and latents of images on disk: shards of safetensors, whole or not there, read row by row.

A folder holds what one encoder (`srpo.prompts.encoder_hash`, `srpo.images.vae_hash`) has made. A shard is a file named
after what is in it; its metadata holds the keys of its rows, in their order, so that the folder itself says what is
encoded: a run that was killed, or one with a few prompts more, encodes only what is missing.

Every tensor of a shard is (rows, ...). Of a tensor (prompts, tokens, dim) the trailing tokens that are equal for all
prompts of the shard, bit for bit, are stored once, as `<name>.tail` (tokens, dim). That helps encoders whose padding is
blanked. It does not help T5 as FLUX uses it: without an attention mask each padding token attends to the whole text, so
that even the last ones differ from prompt to prompt (and from each other), and all of them are stored.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo.artifacts import Snapshot
from srpo.files import atomic_file, write_atomic
from srpo.hub import snapshot

Row = tuple[str, int]
"""Name of a shard, row in it."""
Places = Sequence[int] | Mapping[int, int]
"""By the index that `StoredRows.select` is asked for."""
TAIL = ".tail"
SUFFIX = ".safetensors"


def key_of(text: str) -> str:
    """What a text is known by, or anything else that a text identifies."""
    return hashlib.sha256(text.encode()).hexdigest()


def encoded_rows(folder: Path) -> dict[str, Row]:
    """Key of everything that is encoded -> where; reads the shards' headers only."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with safe_open(path, framework="pt") as file:
            keys = json.loads(file.metadata()["keys"])
        rows |= {key: (path.name, row) for row, key in enumerate(keys)}
    return rows


def write_shard(folder: Path, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Tensors (len(keys), ...) as one file, which is there once all of it is on disk."""
    listed = json.dumps(list(keys))
    path = folder / f"{key_of(listed)[:16]}{SUFFIX}"
    with atomic_file(path) as staging:
        save_file(_fold(tensors), staging, metadata={"keys": listed})


def _fold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with common trailing tokens taken out."""
    folded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tail = _common_tail(tensor) if tensor.ndim == 3 else 0
        if tail:
            kept = tensor.shape[1] - tail
            folded[name + TAIL] = tensor[0, kept:].contiguous()
            tensor = tensor[:, :kept]
        folded[name] = tensor.contiguous()
    return folded


def _common_tail(tensor: Tensor) -> int:
    """How many trailing tokens have the same bits for all prompts."""
    num_tokens = tensor.shape[1]
    for count in range(num_tokens):
        bits = tensor[:, num_tokens - 1 - count].contiguous().view(torch.uint8)
        if not torch.equal(bits, bits[:1].expand_as(bits)):
            return count
    return num_tokens


def write_set(store: Path, facts: Mapping[str, Any], rows: Sequence[Row], source: str) -> tuple[str, Snapshot]:
    """List a set's facts, and the places of its rows, in a file that is named after them.

    Its name, and a snapshot of that file and the shards.
    """
    shards = sorted({shard for shard, _ in rows})
    number = {shard: index for index, shard in enumerate(shards)}
    where = {"shards": shards, "shard_of": [number[shard] for shard, _ in rows], "row_of": [row for _, row in rows]}
    text = json.dumps({**facts, **where}, ensure_ascii=False)
    index = f"set-{key_of(text)[:16]}.json"
    write_atomic(store / index, text)
    files = tuple(snapshot(store / name, source).files[0] for name in (index, *shards))
    return index, Snapshot(source=source, uri=str(store), files=files)


def read_set(store: Path, index: str) -> tuple[dict[str, Any], "StoredRows"]:
    """What `write_set` has listed under this name, and the rows."""
    content = json.loads((store / index).read_text(encoding="utf-8"))
    return content, StoredRows(store, content["shards"], content["shard_of"], content["row_of"])


class StoredRows:
    """The tensors of some prompts or images, left on disk: what is read is what `select` asks for."""

    def __init__(self, folder: Path, shards: list[str], shard_of: Places, row_of: Places) -> None:
        self.folder = folder
        self.shards = shards
        self.shard_of = shard_of
        self.row_of = row_of

    def select(self, indices: Sequence[int], device: torch.device | None = None) -> dict[str, Tensor]:
        """The tensors of some of them, as one batch on `device` (the CPU if None), floating-point ones in float32.

        Shards are mapped into memory for the time of this call only, so that nothing of them stays.
        """
        with ExitStack() as stack:
            files = {
                shard: stack.enter_context(safe_open(self.folder / self.shards[shard], framework="pt"))
                for shard in {self.shard_of[index] for index in indices}
            }
            rows = [_read_row(files[self.shard_of[index]], self.row_of[index]) for index in indices]
            return {name: torch.cat([row[name] for row in rows]).to(device) for name in rows[0]}


def _read_row(file: safe_open, row: int) -> dict[str, Tensor]:
    """The tensors of one row (1, ...), its trailing tokens put back."""
    tensors: dict[str, Tensor] = {}
    names = set(file.keys())
    for name in sorted(name for name in names if not name.endswith(TAIL)):
        tensor = file.get_slice(name)[row : row + 1]
        if name + TAIL in names:
            tensor = torch.cat([tensor, file.get_tensor(name + TAIL)[None]], dim=1)
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """One run at a time writes into a store, others wait; what a killed one left half-written is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.partial"):
            leftover.unlink()
        yield
