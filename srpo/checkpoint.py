"""Checkpoints: written whole or not at all, and holding everything that an uninterrupted run would still have.

A checkpoint is a folder `update-000010` with `transformer.safetensors` (fp32 master weights), `optimizer.safetensors`,
`rng-0000.safetensors` (one per process) and `state.json`. It is written under another name, flushed to disk (fsync) and
then renamed, so that a kill at any moment leaves either the old state or the new one.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from srpo.errors import ConfigError
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
        return sorted(int(folder.name.removeprefix("update-")) for folder in self.directory.glob("update-*"))

    @contextmanager
    def writing(self, update: int, accelerator: Accelerator) -> Iterator[Path]:
        """A folder for all processes to write into, which becomes the update's checkpoint when all have."""
        target = self.path(update)
        staging = staging_of(target)
        if accelerator.is_main_process:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        accelerator.wait_for_everyone()
        yield staging
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            publish(staging, target)
        accelerator.wait_for_everyone()

    def prune(self, best: int | None, spared: int | None = None) -> None:
        """Keep the last few and the best, and one that is `spared` for now."""
        for update in self.surplus(self.updates(), best):
            if update != spared:
                shutil.rmtree(self.path(update))

    def surplus(self, updates: list[int], best: int | None) -> list[int]:
        """Those of some updates, ascending, that are neither the best nor among the last few."""
        return [update for update in updates[: -self.keep_last] if update != best]


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` at once when all is on disk."""
    staging = staging_of(target)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    publish(staging, target)


def staging_of(target: Path) -> Path:
    """Where something is written before it is whole."""
    return target.with_name(f".{target.name}.partial")


def publish(staging: Path, target: Path) -> None:
    """Flush everything in `staging` to disk, then rename it to `target`, replacing what was there."""
    for file in staging.rglob("*"):
        _fsync(file)
    _fsync(staging)
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    staging.rename(target)
    _fsync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, never sees half of it."""
    staging = staging_of(path)
    staging.write_text(text, encoding="utf-8")
    _fsync(staging)
    staging.rename(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_weights(folder: Path, transformer: nn.Module, optimizer: Optimizer, writes: bool = True) -> None:
    """Trained weights and optimizer state, whole; where they are sharded every process must call, one `writes`."""
    for name, tensors in (
        (WEIGHTS, trained_parameters(transformer)),
        (OPTIMIZER, _optimizer_tensors(transformer, optimizer)),
    ):
        gathered = {key: _on_cpu(tensor, writes) for key, tensor in tensors.items()}
        if writes:
            save_file({key: tensor for key, tensor in gathered.items() if tensor is not None}, folder / name)


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


def save_rng(folder: Path, rank: int, generator: Generator) -> None:
    """The state of every random number generator of this process."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    tensors = {
        "draws": generator.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": torch.tensor(internal, dtype=torch.int64),
    }
    tensors |= (
        {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
        if torch.cuda.is_available()
        else {}
    )
    scalars = {"numpy": [int(position), int(has_gauss), float(cached)], "python": [version, gauss]}
    save_file(tensors, _rng_path(folder, rank), metadata={"scalars": json.dumps(scalars)})


def load_rng(folder: Path, rank: int, generator: Generator) -> None:
    """Put back what `save_rng` wrote."""
    path = _rng_path(folder, rank)
    with safe_open(path, framework="pt") as file:
        scalars = json.loads(file.metadata()["scalars"])
    tensors = load_file(path)
    generator.set_state(tensors["draws"])
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, cached = scalars["numpy"]
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    version, gauss = scalars["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    for index in range(torch.cuda.device_count()):
        if f"cuda{index}" in tensors:  # the machine that wrote it may have had fewer
            torch.cuda.set_rng_state(tensors[f"cuda{index}"], index)


def _rng_path(folder: Path, rank: int) -> Path:
    return folder / f"rng-{rank:04d}.safetensors"


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
