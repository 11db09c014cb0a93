"""Encoding in several processes: each makes its device ready, and what one refuses is refused as it said it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from srpo.config import ModelConfig
from srpo.encoding import Encoding
from srpo.errors import ConfigError
from srpo.shards import encoded_rows


class Precision(Encoding[str]):
    """Whether convolutions may run in TF32, for each item."""

    def key(self, item: str) -> str:
        return item

    def encoder(self, device: torch.device) -> Callable[[list[str]], dict[str, Tensor]]:
        if "refused" in self.shards[0]:
            raise ConfigError(f"no encoder for {device}")
        return lambda items: {"tf32": torch.full((len(items),), torch.backends.cudnn.allow_tf32)}


def encoding(store: Path, *items: str, num_processes: int = 2) -> Precision:
    return Precision(ModelConfig(), store, store, [[item] for item in items], num_processes)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_each_process_keeps_convolutions_in_float32(tmp_path: Path, num_processes: int) -> None:
    encoding(tmp_path, "a", "b", "c", num_processes=num_processes).run()
    rows = encoded_rows(tmp_path)
    assert sorted(rows) == ["a", "b", "c"]
    assert not any(load_file(tmp_path / shard)["tf32"].any() for shard, _ in rows.values())


def test_what_one_refuses_comes_as_it_was_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^no encoder for cpu"):
        encoding(tmp_path, "refused", "b").run()
