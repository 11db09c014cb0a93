"""What training starts from: the base's own transformer, or one that was trained before (`train.start`).

A version of the registry is the base with a transformer, or with an adapter. Full training goes on from either, an
adapter being added to the base's weights first. An adapter goes on from an adapter of the same form; it does not start
from a whole transformer, because its version would be drawn as the base with that adapter.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from srpo.artifacts import Snapshot
from srpo.config import LoraConfig, RunConfig
from srpo.errors import ConfigError
from srpo.hub import snapshot
from srpo.models.weights import ADAPTER, adapter_file, adapter_settings, add_adapter, check_transformer
from srpo.rounding import rounded
from srpo.sharding import fill_weights

if TYPE_CHECKING:
    from diffusers import ModelMixin

BASE, CHAMPION = "base", "champion"
VERSION = re.compile(r"models:/[^@/]+/\d+")


def pinned(config: RunConfig, uri: str, earlier: RunConfig | None = None) -> RunConfig:
    """The run with the champion of now in place of `champion`, so that it can be resumed after a change of champion.

    Without a champion it starts from the base; a run that goes on, from what it did `earlier`. ConfigError if what it
    starts from does not go with its settings.
    """
    if config.train.start == CHAMPION:
        start = earlier.train.start if earlier else _champion(config, uri)
        config = config.model_copy(update={"train": config.train.model_copy(update={"start": start})})
    find_start(config, uri)
    return config


def _champion(config: RunConfig, uri: str) -> str:
    """The reigning champion's address, or the base."""
    from srpo.registry import holder

    champion = holder(uri, config.registry.model_name, CHAMPION)
    return champion.uri if champion else BASE


def find_start(config: RunConfig, uri: str | None, base: Snapshot | None = None) -> Snapshot | None:
    """The files that training starts from; None for the base's own. `uri`: the MLflow store to look in.

    Those of a version are brought to this machine, except that without a `base` a whole transformer is only looked at.
    ConfigError if they are not as they were registered, belong to another base than `base`, or do not go with the run.
    """
    start = config.train.start
    if start == BASE:
        return None
    if VERSION.fullmatch(start):
        found = _registered(start, uri, base)
    elif Path(start).expanduser().exists():
        found = snapshot(Path(start).expanduser().resolve(), start)
    else:
        raise ConfigError(
            f"train.start: {start!r} is nothing to start from; give base, champion, models:/NAME/VERSION, or the path "
            "of a transformer or an adapter"
        )
    _check_form(config, start, adapter_file(found.path))
    if base is not None:
        check_transformer(found.path, base.path)
    return found


def _registered(reference: str, uri: str | None, base: Snapshot | None) -> Snapshot:
    """The transformer, or the adapter, of a version."""
    if uri is None:
        raise ConfigError(f"train.start: nothing is registered here yet, so there is no {reference}")
    from srpo.registry import load_manifest

    manifest = load_manifest(uri, reference)
    if base is not None and manifest.base.sha256 != base.sha256:
        raise ConfigError(
            f"train.start: {reference} was trained from another base ({manifest.base.source}), or another content of "
            f"it, than this run's ({base.source}); set model.source to the same, or train.start to base"
        )
    is_adapter = ADAPTER in {file.path for file in manifest.transformer.files}
    if base is None and manifest.remote and not is_adapter:
        return manifest.transformer  # only looked at, and too large to be brought for that
    return manifest.transformer_here()


def _check_form(config: RunConfig, start: str, adapter: Path | None) -> None:
    """Refuse what cannot go on from it."""
    lora, train = config.train.lora, config.train
    if adapter is None and lora is not None:
        raise ConfigError(
            f"train.start: {start} is a whole transformer, and an adapter on it could not be drawn with the base; "
            "train every weight (train.lora: null), or set train.start to base"
        )
    if adapter is None:
        return
    if lora is None and train.sharding != "none":
        raise ConfigError(
            f"train.start: {start} is an adapter, which sliced training cannot add to the weights; merge it first "
            "(`export --format folder`) and start from its transformer"
        )
    if lora is not None and (then := _form(adapter)) != _form_of(lora):
        raise ConfigError(
            f"train.start: the adapter {start} has another form than train.lora: {then} against {_form_of(lora)}; give "
            "the same rank, alpha and target_modules, or set train.start to base"
        )


def _form_of(lora: LoraConfig) -> dict[str, Any]:
    return {"rank": lora.rank, "alpha": lora.alpha, "target_modules": sorted(lora.target_modules)}


def _form(adapter: Path) -> dict[str, Any]:
    """Rank, alpha and layers, as the file itself says."""
    said = adapter_settings(adapter)
    names = {"rank": "transformer.r", "alpha": "transformer.lora_alpha", "target_modules": "transformer.target_modules"}
    form = {ours: said.get(theirs) for ours, theirs in names.items()}
    return form | {"target_modules": sorted(form["target_modules"] or ())}


def begin_from(transformer: "ModelMixin", start: Path, lora: LoraConfig | None) -> None:
    """Give the base's transformer, made ready to be trained, the weights that training starts from, in place."""
    adapter = adapter_file(start)
    if adapter is None:
        fill_weights(transformer, start)
    elif lora is not None:
        continue_adapter(transformer, start)
    else:
        add_adapter(transformer, adapter)
        merge_adapter(transformer)


@torch.no_grad()
def merge_adapter(transformer: "ModelMixin") -> None:
    """Add the adapter that a transformer was loaded with to its weights, all of which are trained from there on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in transformer.named_modules():
        if isinstance(layer, BaseTunerLayer):
            weight, (adapter,) = layer.get_base_layer().weight, layer.active_adapters
            merged = weight.float() + layer.get_delta_weight(adapter).float()
            weight.copy_(rounded(f"{name}.weight", merged, weight.dtype))
    transformer.unload_lora()
    transformer.requires_grad_(True)


def continue_adapter(transformer: "ModelMixin", path: Path) -> None:
    """Give a fresh adapter the values of an earlier one of the same form."""
    from peft import set_peft_model_state_dict

    adapter = adapter_file(path)
    assert adapter, "looked at before"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(adapter).items()}
    set_peft_model_state_dict(transformer, tensors)
