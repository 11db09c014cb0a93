"""Encoding what a store does not hold yet: a process per GPU, or several on the CPU, each with its own shards."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, multiprocessing

from srpo.config import ModelConfig
from srpo.devices import check_device, count_processes, device_of
from srpo.errors import memory_needed
from srpo.shards import write_shard

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
        check_device()
        with memory_needed("set model.weights to bf16, or take a GPU with more"):
            self._run()

    def _run(self) -> None:
        world = min(count_processes(self.num_processes), len(self.shards))
        if world == 1 and not torch.cuda.is_available():
            self.share(0, 1)
        elif world:  # on a GPU also one: what an encoder leaves reserved there would be lacking in training
            threads = max(1, torch.get_num_threads() // world)
            # they end with this one, however that ends
            multiprocessing.spawn(_process, (self, world, threads), world, daemon=True)

    def share(self, rank: int, world: int) -> None:
        """Encode one process's shards, one after the other; no more than one is in memory."""
        encode = self.encoder(device_of(rank))
        for items in self.shards[rank::world]:
            write_shard(self.store, [self.key(item) for item in items], encode(items))


def _process(rank: int, encoding: Encoding[Any], world: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    encoding.share(rank, world)
