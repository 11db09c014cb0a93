"""HPSv2 and HPSv2.1 (arXiv:2306.09341): an open_clip state dict, scored by the cosine.

`HPS_v2.1_compressed.pt` holds the state dict of open_clip's ViT-H-14 under `state_dict`. Other open_clip architectures
work too: by name, or by the path of an open_clip model JSON.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import open_clip
import torch
from accelerate import init_empty_weights

from srpo.errors import ConfigError
from srpo.models.layout import compare_shapes
from srpo.rewards.dual_encoder import DualEncoderReward
from srpo.rewards.state_dict import read_state_dict, state_dict_shapes

NO_FILE = "architecture: no file {file} in {places}; give an open_clip model name, or the path of its JSON"


def load(path: Path, architecture: str) -> DualEncoderReward:
    """The reward whose checkpoint is the file `path` (or the only .pt or .safetensors file of a folder)."""
    path = _checkpoint(path)
    settings = _settings(path, architecture)
    with init_empty_weights(include_buffers=False):  # open_clip would fill them with random numbers
        model = open_clip.CLIP(**settings)
    model.load_state_dict({name: tensor.float() for name, tensor in read_state_dict(path).items()}, assign=True)
    return build(model, settings)


def skeleton(path: Path, architecture: str, device: torch.device | str = "meta") -> DualEncoderReward:
    """The reward without trained weights; the checkpoint need not be there."""
    settings = _settings(path / "checkpoint" if path.is_dir() else path, architecture)
    with torch.device(device):
        model = open_clip.CLIP(**settings)
    return build(model, settings)


def build(model: open_clip.CLIP, settings: dict[str, Any]) -> DualEncoderReward:
    """A reward around an open_clip model made from `settings` (the content of an open_clip model JSON)."""
    text = settings["text_cfg"]
    tokenizer = open_clip.SimpleTokenizer(
        context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
    )
    image_size = settings["vision_cfg"]["image_size"]
    return DualEncoderReward(model, model.encode_image, model.encode_text, tokenizer, image_size)


def check(path: Path, architecture: str) -> None:
    """The checkpoint is readable and its tensors are those of the architecture."""
    path = _checkpoint(path)
    with torch.device("meta"):
        model = open_clip.CLIP(**_settings(path, architecture))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    compare_shapes(str(path), expected, state_dict_shapes(path))


def architecture_files(path: Path, architecture: str) -> list[Path]:
    """What decides the scores besides the checkpoint: the architecture's JSON, if it has one, and its vocabulary."""
    if not architecture.endswith(".json"):
        return []
    checkpoint = _checkpoint(path)
    vocabulary = _settings(checkpoint, architecture)["text_cfg"].get("tokenizer_kwargs", {}).get("bpe_path")
    return [_architecture_file(checkpoint, architecture), *([Path(vocabulary)] if vocabulary else [])]


def _checkpoint(path: Path) -> Path:
    """The file to load."""
    if not path.exists():
        raise ConfigError(f"no reward checkpoint at {path}; give the path of the file (HPS_v2.1_compressed.pt)")
    if path.is_file():
        return path
    found = sorted([*path.glob("*.pt"), *path.glob("*.safetensors")])
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ConfigError(f"{path} must hold one .pt or .safetensors file, got {names}; give the path of the file")
    return found[0]


def check_architecture(architecture: str, beside: Collection[str]) -> None:
    """What can be said of it while the checkpoint is elsewhere; `beside`: names of what will lie in its folder."""
    if not architecture.endswith(".json"):
        _named(architecture)
    elif architecture not in beside and not Path(architecture).is_file():
        raise ConfigError(NO_FILE.format(file=architecture, places=f"{Path.cwd()}, nor beside the checkpoint"))


def _named(architecture: str) -> dict[str, Any]:
    """The settings of one of open_clip's own models."""
    settings: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if settings is None:
        raise ConfigError(f"architecture: open_clip has no model named {architecture!r}; see its list_models()")
    return settings


def _architecture_file(checkpoint: Path, architecture: str) -> Path:
    """An architecture's JSON: beside the checkpoint, or from here."""
    places = checkpoint.parent / architecture, Path(architecture)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(NO_FILE.format(file=architecture, places=f"{checkpoint.parent}, nor in {Path.cwd()}"))
    return path


def _settings(checkpoint: Path, architecture: str) -> dict[str, Any]:
    """The open_clip model settings by name, or by a JSON file."""
    if not architecture.endswith(".json"):
        settings = _named(architecture)
    else:
        path = _architecture_file(checkpoint, architecture)
        settings = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = settings["text_cfg"].get("tokenizer_kwargs", {})
        if "bpe_path" in tokenizer:
            tokenizer["bpe_path"] = str(path.parent / tokenizer["bpe_path"])
    if unsupported := sorted({"hf_model_name", "hf_tokenizer_name"} & set(settings["text_cfg"])):
        raise ConfigError(
            f"architecture: {architecture!r} needs a Hugging Face text tower ({unsupported[0]}); not an HPS"
        )
    settings.pop("custom_text", None)
    return settings
