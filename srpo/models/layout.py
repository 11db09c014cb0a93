"""Is a model folder whole? Names and shapes of tensors against the class's own, from file headers alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from srpo.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]


def require_folder(folder: Path, parts: Sequence[str]) -> None:
    """The folder exists and has every part."""
    if not folder.is_dir():
        raise ConfigError(f"no model folder at {folder}; give the path of a folder in diffusers layout")
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ConfigError(
            f"{folder} is no whole diffusers model: it has no {', '.join(missing)}; expected {', '.join(parts)}"
        )


def check_component(folder: Path, cls: Any) -> None:
    """The tensors in `folder` are those of `cls` (of diffusers or transformers) built from the folder's config.json."""
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ConfigError(f"{folder} has no config.json; the folder is not in diffusers layout")
    try:
        settings = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{config_path} is not valid JSON: {error}") from None
    with torch.device("meta"):
        model = cls.from_config(settings) if hasattr(cls, "load_config") else cls(cls.config_class(**settings))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found = _current_names(folder_shapes(folder), expected)
    found |= {alias: found[name] for alias, name in tied.items() if name in found}
    found |= {name: found[alias] for alias, name in tied.items() if alias in found}
    compare_shapes(str(folder), expected, found, set(tied) | _buffers(model))


def _current_names(found: Shapes, expected: Shapes) -> Shapes:
    """Files written by older transformers put `text_model.` before the names of a class that no longer has it."""
    prefix = "text_model."
    if any(name.startswith(prefix) for name in expected):
        return found
    renamed = {name.removeprefix(prefix): shape for name, shape in found.items()}
    return {name: shape for name, shape in renamed.items() if not name.endswith("position_ids")}


def _buffers(model: torch.nn.Module) -> set[str]:
    """Buffers (position ids and the like) are rebuilt by the class; files may have them or not."""
    return {name for name, _ in model.named_buffers()}


def folder_shapes(folder: Path) -> Shapes:
    """Names and shapes of all tensors in a folder's safetensors files (several, if it is sharded)."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ConfigError(f"{folder} holds no .safetensors file; convert the weights to safetensors")
    for index in folder.glob("*.safetensors.index.json"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if absent := sorted(names - {path.name for path in paths}):
            raise ConfigError(f"{index} names files that are missing: {_some(absent)}; fetch them again")
    shapes: Shapes = {}
    for path in paths:
        shapes |= file_shapes(path)
    return shapes


def file_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in one safetensors file; reads its header only."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} is truncated or not a safetensors file ({error}); fetch it again") from None


def compare_shapes(
    where: str,
    expected: Mapping[str, tuple[int, ...]],
    got: Mapping[str, tuple[int, ...]],
    optional: Iterable[str] = (),
) -> None:
    """One ConfigError that names the tensors which are missing, unexpected or of another shape."""
    optional = set(optional)
    problems = []
    if missing := sorted(set(expected) - set(got) - optional):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(set(got) - set(expected) - optional):
        problems.append(f"unexpected {_some(unexpected)}")
    if wrong := sorted(name for name in set(expected) & set(got) if tuple(expected[name]) != tuple(got[name])):
        problems.append(
            "another shape in "
            + _some([f"{name} (got {list(got[name])}, expected {list(expected[name])})" for name in wrong])
        )
    if problems:
        raise ConfigError(f"the tensors in {where} do not fit its architecture: {'; '.join(problems)}")


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
