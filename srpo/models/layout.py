"""Is a model folder whole? Names and shapes of tensors against the class's own, from file headers alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from srpo.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]
WEIGHT_NAMES = ("diffusion_pytorch_model", "model")  # of diffusers and of transformers
MOST_NAMES = 5  # of tensors or files in one sentence


def require_folder(folder: Path, parts: Sequence[str]) -> None:
    """The folder exists and has every part."""
    if folder.is_file():
        raise ConfigError(
            f"{folder} is a file; give a folder in diffusers layout: a model's whole repository, not a single file"
        )
    if not folder.is_dir():
        raise ConfigError(f"no model folder at {folder}; give the path of a folder in diffusers layout")
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ConfigError(
            f"{folder} is no whole diffusers model: it has no {', '.join(missing)}; expected {', '.join(parts)}"
        )


def check_component(folder: Path, cls: Any) -> None:
    """The tensors in `folder` are those of `cls` (of diffusers or transformers) built from the folder's config.json."""
    settings = read_json(folder / "config.json")
    with torch.device("meta"):
        model = cls.from_config(settings) if hasattr(cls, "load_config") else cls(cls.config_class(**settings))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found = _current_names(folder_shapes(folder), model)
    found |= {alias: found[name] for alias, name in tied.items() if name in found}
    found |= {name: found[alias] for alias, name in tied.items() if alias in found}
    compare_shapes(str(folder), expected, found, set(tied) | _buffers(model))


def _current_names(found: Shapes, model: torch.nn.Module) -> Shapes:
    """Published files have the names of older transformers; the rules by which it loads them give today's."""
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    if not isinstance(model, PreTrainedModel):
        return found
    rules = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    tensors = model.state_dict()
    return {rename_source_key(name, rules, [], model.base_model_prefix, tensors)[0]: found[name] for name in found}


def _buffers(model: torch.nn.Module) -> set[str]:
    """Buffers (position ids and the like) are rebuilt by the class; files may have them or not."""
    return {name for name, _ in model.named_buffers()}


def folder_shapes(folder: Path) -> Shapes:
    """Names and shapes of all tensors in a folder's safetensors files (several, if it is sharded), or in one file."""
    shapes: Shapes = {}
    for path in weight_files(folder):
        shapes |= file_shapes(path)
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The files that diffusers or transformers would load: those of the index, or the one of the standard name.

    A file stands for itself.
    """
    if folder.is_file():
        return [folder]
    for stem in WEIGHT_NAMES:
        index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
        if index.is_file():
            names = sorted(set(read_json(index)["weight_map"].values()))
            if absent := [name for name in names if not (folder / name).is_file()]:
                raise ConfigError(f"{index} names files that are missing: {_some(absent)}; fetch them again")
            return [folder / name for name in names]
        if single.is_file():
            return [single]
    expected = " or ".join(f"{stem}.safetensors" for stem in WEIGHT_NAMES)
    raise ConfigError(f"{folder} holds no {expected} (nor an index of one); convert the weights to safetensors")


def check_tokenizer(folder: Path, cls: Any) -> None:
    """The vocabulary is there and loads; transformers makes an empty tokenizer of a folder without one, silently."""
    whole, *parts = sorted(cls.vocab_files_names.values(), key=lambda name: name != "tokenizer.json")
    if not (folder / whole).is_file() and not all((folder / part).is_file() for part in parts):
        raise ConfigError(f"{folder} holds no tokenizer: it has neither {whole} nor {' and '.join(parts)}")
    check_loads(folder, cls)


def check_loads(folder: Path, cls: Any) -> None:
    """A part without tensors (a tokenizer, a scheduler) is checked by loading it."""
    try:
        cls.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # files that are missing or broken fail in many ways, each with a type of its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{folder} cannot be loaded ({reason}); fetch the folder again") from None


def read_json(path: Path) -> Any:
    """A JSON file of a model folder."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path.parent} has no {path.name}; the folder is not in diffusers layout") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None


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


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
