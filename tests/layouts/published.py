"""The published checkpoints as data (`*.json` beside this): names, shapes and types of their tensors, and who says so.

A part lists its tensors by patterns, `{0..18}` standing for every number of the range: `name: "type shape"`. `total`
holds counts that a public source gives, where one does. `confirmed` says what each public source confirms
(repository@commit:path), `unverified` what none does.

Files of the published size are written sparse: their headers are real, their values take no space on the disk.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

HERE = Path(__file__).parent
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SAFETENSORS_NAMES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> (type, shape)."""


@dataclass(frozen=True)
class Part:
    """One set of tensors of a published checkpoint."""

    name: str
    class_name: str
    file: str
    sharded: bool
    config: dict[str, Any]
    total: dict[str, int | None]
    confirmed: dict[str, str]
    unverified: str
    tensors: Tensors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: shape for name, (_, shape) in self.tensors.items()}


def names() -> list[str]:
    """Every layout that is written down here."""
    return sorted(path.stem for path in HERE.glob("*.json"))


def read(layout: str) -> dict[str, Part]:
    """The parts of a layout by their name."""
    return {
        name: Part(
            name=name,
            class_name=data["class"],
            file=data["file"],
            sharded=data["sharded"],
            config=data["config"],
            total=data["total"],
            confirmed=data["confirmed"],
            unverified=data["unverified"],
            tensors=_tensors(data["tensors"]),
        )
        for name, data in raw(layout)["parts"].items()
    }


def raw(layout: str) -> Any:
    """The file as it is."""
    return json.loads((HERE / f"{layout}.json").read_text(encoding="utf-8"))


def _tensors(patterns: Mapping[str, str]) -> Tensors:
    """`like` names a part of another layout, whose names and shapes these are, in another `type`."""
    if "like" in patterns:
        layout, _, part = patterns["like"].partition("/")
        return {name: (patterns["type"], shape) for name, (_, shape) in read(layout)[part].tensors.items()}
    found: Tensors = {}
    for pattern, facts in patterns.items():
        dtype, *shape = facts.split()
        found |= {name: (dtype, tuple(map(int, shape))) for name in expand(pattern)}
    return found


def expand(pattern: str) -> Iterator[str]:
    """`a.{0..1}.{2,4}` -> a.0.2, a.0.4, a.1.2, a.1.4."""
    braces = re.search(r"\{([^}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    first, dots, last = braces[1].partition("..")
    numbers = range(int(first), int(last) + 1) if dots else braces[1].split(",")
    for number in numbers:
        yield from expand(f"{pattern[: braces.start()]}{number}{pattern[braces.end() :]}")


def num_bytes(tensors: Tensors) -> int:
    """Bytes of all values."""
    return sum(prod(shape) * DTYPES[dtype].itemsize for dtype, shape in tensors.values())


def write_component(folder: Path, part: Part, tensors: Tensors | None = None) -> None:
    """config.json and safetensors as diffusers and transformers publish them, in two shards where there is an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(part.config))
    tensors = part.tensors if tensors is None else tensors
    if not part.sharded:
        write_safetensors(folder / f"{part.file}.safetensors", tensors)
        return
    ordered = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in (1, 2):
        file = f"{part.file}-0000{shard}-of-00002.safetensors"
        mine = ordered[: len(ordered) // 2] if shard == 1 else ordered[len(ordered) // 2 :]
        write_safetensors(folder / file, {name: tensors[name] for name in mine})
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {"total_size": num_bytes(tensors)}, "weight_map": weight_map}
    (folder / f"{part.file}.safetensors.index.json").write_text(json.dumps(index))


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """A sparse safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_checkpoint(path: Path, tensors: Tensors, key: str | None = None) -> None:
    """A sparse file of `torch.save`: the state dict, under a key if one is given."""
    with FakeTensorMode():
        state = {name: torch.empty(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in tensors.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({key: state} if key else state, path)
