"""Checkpoints: written whole or not at all, and holding everything that an uninterrupted run would still have.

A checkpoint is a folder `update-000010` with `transformer.safetensors` (what is trained, as training keeps it: master
weights in fp32, weights in bf16, or an adapter), `optimizer.safetensors`, `rng-0000.safetensors` (one per process) and
`state.json`. The main process writes it all, because processes on other nodes may not see its disk: under another name,
flushed to disk (fsync) and then renamed, so that a kill at any moment leaves either the old state or the new one.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from srpo.config import RunConfig
from srpo.errors import ConfigError, first_problem
from srpo.sharding import put, whole
from srpo.tuning import set_learning_rate, stepping

SCHEMA_VERSION = 1
WEIGHTS, OPTIMIZER = "transformer.safetensors", "optimizer.safetensors"


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last

    def path(self, update: int) -> Path:
        """Where the checkpoint of an update lies."""
        return self.directory / f"update-{update:06d}"

    def updates(self) -> list[int]:
        """Updates that have a checkpoint, ascending; half-written ones do not count."""
        return updates_among(folder.name for folder in self.directory.glob("update-*"))

    def prune(self, best: int | None, spared: int | None = None) -> None:
        """Keep the last few and the best, and one that is `spared` for now."""
        for update in self.surplus(self.updates(), best):
            if update != spared:
                shutil.rmtree(self.path(update))

    def remove_partial(self) -> None:
        """Remove what a kill has left of a checkpoint that was being written."""
        for folder in self.directory.glob(".update-*.partial"):
            shutil.rmtree(folder)

    def surplus(self, updates: list[int], best: int | None) -> list[int]:
        """Those of some updates, ascending, that are neither the best nor among the last few."""
        return [update for update in updates[: -self.keep_last] if update != best]


def updates_among(names: Iterable[str]) -> list[int]:
    """Updates whose checkpoints are folders of such names, ascending; other names do not count."""
    found = (re.fullmatch(r"update-(\d{6,})", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def save_weights(folder: Path | None, transformer: nn.Module, optimizer: Optimizer) -> None:
    """Trained weights and optimizer state, whole; one of the two at a time lies on the CPU.

    Where they are sharded every process must call; one without a folder only helps to gather.
    """
    _save(folder and folder / WEIGHTS, trained_parameters(transformer))
    _save(folder and folder / OPTIMIZER, _optimizer_tensors(transformer, optimizer))


def _save(path: Path | None, tensors: Mapping[str, Tensor]) -> None:
    """Gather tensors and write them; what was gathered is gone when this returns."""
    gathered = {key: _on_cpu(tensor, path is not None) for key, tensor in tensors.items()}
    if path:
        save_file({key: tensor for key, tensor in gathered.items() if tensor is not None}, path)


def save_own(folder: Path | None, accelerator: Accelerator, own: Mapping[str, bytes]) -> None:
    """What each process has of its own: name -> content of a safetensors file.

    All must call; only the main process, which writes, gives a folder.
    """
    everyone: list[Any] = [own] * accelerator.num_processes
    if accelerator.num_processes > 1:
        torch.distributed.gather_object(own, everyone if folder else None)
    for rank, contents in enumerate(everyone if folder else ()):
        for name, content in contents.items():
            own_file(folder, name, rank).write_bytes(content)  # type: ignore[arg-type]


def own_file(folder: Path, name: str, rank: int) -> Path:
    """Where something that is a process's own lies in a checkpoint."""
    return folder / f"{name}-{rank:04d}.safetensors"


def load_weights(folder: Path, transformer: nn.Module, optimizer: Optimizer) -> None:
    """Put back what `save_weights` wrote."""
    files = {name: load_file(folder / name) for name in (WEIGHTS, OPTIMIZER)}
    _make_state(transformer, optimizer, {key.partition(":")[0] for key in files[OPTIMIZER]})
    for name, tensors in (
        (WEIGHTS, trained_parameters(transformer)),
        (OPTIMIZER, _optimizer_tensors(transformer, optimizer)),
    ):
        saved = files[name]
        if saved.keys() != tensors.keys():
            raise ConfigError(f"{folder / name} does not hold what is trained here; start a new run")
        with torch.no_grad():
            for key, tensor in tensors.items():
                put(tensor, saved[key])


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The trained weights of a checkpoint: parameter -> whole tensor on the CPU."""
    return load_file(folder / WEIGHTS)


def trained_parameters(transformer: nn.Module) -> dict[str, Tensor]:
    """What is trained, by name."""
    return {name: value.detach() for name, value in transformer.named_parameters() if value.requires_grad}


def _make_state(transformer: nn.Module, optimizer: Optimizer, names: set[str]) -> None:
    """Let the optimizer make its tensors, which it does in its first step: one without a gradient or a rate.

    `names`: the parameters that have any; one that no loss has ever reached has none.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        set_learning_rate(group, 0.0)
    for name, parameter in transformer.named_parameters():
        if name in names:
            parameter.grad = torch.zeros_like(parameter)
    with stepping([parameter for group in optimizer.param_groups for parameter in group["params"]]):
        optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        set_learning_rate(group, rate)
    optimizer.zero_grad(set_to_none=True)


def _optimizer_tensors(transformer: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `<parameter>:<entry>`; 8-bit moments are made of several, `<entry>.<part>`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in transformer.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if hasattr(value, "__tensor_flatten__") and not isinstance(value, DTensor):
                parts, _ = value.__tensor_flatten__()
                tensors |= {f"{name}:{entry}.{part}": getattr(value, part) for part in parts}
            else:
                tensors[f"{name}:{entry}"] = value
    return tensors


def _on_cpu(tensor: Tensor, keep: bool) -> Tensor | None:
    """The whole tensor on the CPU; None where it only helped to gather it."""
    gathered = whole(tensor)
    return gathered.cpu().contiguous() if keep else None


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Everything that is not a tensor, with the schema version."""
    content = {"schema_version": SCHEMA_VERSION, **state}
    # torchao keeps its learning rates in tensors, and so does their schedule
    (folder / "state.json").write_text(json.dumps(content, indent=1, default=float), encoding="utf-8")


def load_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote; ConfigError for a checkpoint of another schema version."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is not a checkpoint ({error}); remove it or start a new run") from None
    if state.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{folder} has schema_version {state.get('schema_version')!r}, this srpo reads {SCHEMA_VERSION}; "
            "resume with the srpo that wrote it, or start a new run"
        )
    return state


def config_of(folder: Path, state: Mapping[str, Any]) -> RunConfig:
    """The settings that a checkpoint was made with; ConfigError where another srpo wrote them."""
    try:
        return RunConfig.model_validate(state["config"])
    except ValidationError as error:
        raise ConfigError(
            f"{folder} was not written by this version of srpo ({first_problem(error)}); resume with the srpo that "
            "wrote it, or start a new run"
        ) from None
