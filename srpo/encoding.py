"""Encoding what a store does not hold yet: a process per GPU, or several on the CPU, each with its own shards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from srpo.config import ModelConfig
from srpo.devices import check_device, count_processes
from srpo.errors import memory_needed
from srpo.shards import write_shard
from srpo.workers import share_out

Item = TypeVar("Item")


@dataclass(frozen=True)
class Encoding(ABC, Generic[Item]):
    """What is to be encoded, with what, by how many."""

    model: ModelConfig
    model_folder: Path
    store: Path
    shards: list[list[Item]]
    num_processes: int | None
    """null: one per GPU, or one on the CPU."""

    @abstractmethod
    def encoder(self, device: torch.device) -> Callable[[list[Item]], dict[str, Tensor]]:
        """Loads the encoder; what it returns makes tensors (items, ...) on the CPU, as they are stored."""

    @abstractmethod
    def key(self, item: Item) -> str:
        """What an item is known by in the store."""

    def run(self) -> None:
        """Encode it all; without anything to encode, no encoder is loaded."""
        world = min(count_processes(self.num_processes), len(self.shards))
        ranks, threads = range(world), max(1, torch.get_num_threads() // max(1, world))
        apart = torch.cuda.is_available()  # also one: what an encoder leaves reserved would be lacking in training
        with memory_needed("set model.weights to bf16, or take a GPU with more"):
            for _ in share_out(self.share, [range(rank, len(self.shards), world) for rank in ranks], threads, apart):
                pass

    def share(self, places: Sequence[int], device: torch.device) -> Iterator[int]:
        """Encode the shards in these places one after the other, each place once that is done: one is in memory."""
        check_device()  # each process has its own torch
        encode = self.encoder(device)
        for place in places:
            items = self.shards[place]
            write_shard(self.store, [self.key(item) for item in items], encode(items))
            yield place
