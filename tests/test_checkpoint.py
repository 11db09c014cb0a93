"""Checkpoints: whole or absent, and complete."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from srpo import checkpoint
from srpo.checkpoint import (
    CheckpointStore,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from srpo.errors import ConfigError
from srpo.files import atomic_folder


def trained(seed: int) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        descend(model, optimizer, torch.ones(5, 4))
    return model, optimizer


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    model(batch).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_weights_and_optimizer_continue_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    save_weights(tmp_path, model, optimizer)
    other, other_optimizer = trained(1)
    load_weights(tmp_path, other, other_optimizer)
    for _ in range(2):
        descend(model, optimizer, torch.full((5, 4), 0.3))
        descend(other, other_optimizer, torch.full((5, 4), 0.3))
    for parameter, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    save_weights(tmp_path, model, optimizer)
    deeper = nn.Sequential(*model, nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"transformer\.safetensors does not hold what is trained here"):
        load_weights(tmp_path, deeper, torch.optim.AdamW(deeper.parameters()))


def test_one_file_at_a_time_lies_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that were gathered are gone before the moments, twice their size, are gathered."""
    gathered: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        gathered.append(weakref.ref(copy))
        alive.append(sum(each() is not None for each in gathered))
        return copy

    monkeypatch.setattr(checkpoint, "whole", copied)
    save_weights(tmp_path, *trained(0))
    assert alive == [*range(1, 5), *range(1, 13)], "four weights, then two moments and a counter of each"


def test_half_written_checkpoints_do_not_count_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for update in (1, 2, 3, 10):
        with atomic_folder(store.path(update)) as folder:
            (folder / "x").write_text("x")
    for name in (".update-000011.partial", "update-000010 copy"):
        (tmp_path / name).mkdir()
    assert store.updates() == [1, 2, 3, 10]
    store.prune(best=None, spared=1)
    assert store.updates() == [1, 3, 10]
    store.prune(best=1)
    assert store.updates() == [1, 3, 10]
    store.prune(best=None)
    assert store.updates() == [3, 10]
    store.remove_partial()
    assert not (tmp_path / ".update-000011.partial").exists()


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, {"update": 3})
    assert load_state(tmp_path)["update"] == 3
    (tmp_path / "state.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(ConfigError, match="schema_version 99, this srpo reads 1"):
        load_state(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        load_state(tmp_path)
