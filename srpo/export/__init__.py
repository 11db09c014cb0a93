"""A model for other programs: its transformer alone in bf16 or fp8, or a whole diffusers folder, with its model card.

Beside the weights: `README.md` (the card), pictures of both models, for ComfyUI's two forms `workflow.json` and `.png`.
"""

import gc
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from srpo.errors import ConfigError
from srpo.export.card import Licence, render_card
from srpo.export.comfy import as_workflow, text_to_image
from srpo.export.target import open_target, require_space
from srpo.export.weights import CONFIG, WEIGHTS, Fp8Error, write_adapter, write_bf16, write_fp8
from srpo.files import link_or_copy, write_atomic
from srpo.generate import ModelFiles
from srpo.hub import local_files, snapshot
from srpo.hub.listing import CARD
from srpo.models import check_model, load_model
from srpo.models.layout import folder_shapes, read_json
from srpo.models.weights import ADAPTER, adapter_file
from srpo.pictures import facts_of, save_png, write_pictures
from srpo.report.schema import Report

Form = Literal["transformer", "lora", "fp8", "folder"]
PICTURES = "pictures"
BYTES_PER_VALUE: dict[Form, int] = {"transformer": 2, "fp8": 1, "folder": 0, "lora": 0}
"""Of the transformer, that are written anew; the others are linked."""


def export(
    files: ModelFiles,
    to: str,
    form: Form | None,
    licences: Sequence[Licence],
    report: Report | None = None,
    prompts: Sequence[str] = (),
) -> None:
    """Write the model to a folder, `s3://bucket/prefix` or `hf://owner/name`; it appears there whole, or its card last.

    `form`: None for `transformer` of FLUX, for `folder` of any other family, whose transformer only diffusers reads.
    `report`: the evaluation of the run, for the card. `prompts`: what base and model draw for it; they are loaded only
    if there are any, and left out with a warning if that fails. ConfigError, before any work, if the model is not whole
    or the target cannot take it.
    """
    check_model(files.model, files.base)
    form = form or ("transformer" if files.model.family == "flux" else "folder")
    adapter = adapter_file(files.transformer)
    if form == "lora" and adapter is None:
        raise ConfigError(f"{files.reference} is no adapter; export it as transformer, fp8 or folder")
    if form in ("transformer", "fp8") and files.model.family != "flux":
        raise ConfigError(
            f"--format {form} is made for FLUX and ComfyUI; export {files.model.family} as folder or lora"
        )
    merge = adapter is not None and form != "lora"
    with open_target(to) as folder:
        require_space(folder, _space(files, form, merge, folder))
        with _merged(files, merge, folder.parent) as whole:
            _fill(whole, form, folder, licences, report, prompts)


def _fill(
    files: ModelFiles,
    form: Form,
    folder: Path,
    licences: Sequence[Licence],
    report: Report | None,
    prompts: Sequence[str],
) -> None:
    """Weights, pictures and card."""
    error = _write_weights(files, form, folder)
    name = WEIGHTS if form != "fp8" else f"{name_of(files)}-fp8.safetensors"
    drawn = _draw(files, prompts, folder / PICTURES)
    if form in ("transformer", "fp8"):
        _write_workflow(files, drawn, name, folder)
    card = render_card(files, form, licences, report, drawn, error)
    write_atomic(folder / CARD, card)


def name_of(files: ModelFiles) -> str:
    """`models:/shapes/3` -> shapes-3; the last part of a path."""
    registered = files.reference.removeprefix("models:/")
    return registered.replace("/", "-") if registered != files.reference else Path(files.reference.split(":")[-1]).stem


def _space(files: ModelFiles, form: Form, merge: bool, target: Path) -> int:
    """Bytes that an export writes at most, texts and pictures aside; what is linked takes none."""
    values = sum(prod(shape) for shape in folder_shapes(files.base / "transformer").values())
    merged = values * torch.float32.itemsize if merge else 0
    linked = files.base.stat().st_dev == target.stat().st_dev
    parts = (
        0 if linked or form != "folder" else sum((files.base / name).stat().st_size for name in local_files(files.base))
    )
    return merged + parts + values * BYTES_PER_VALUE[form]


@contextmanager
def _merged(files: ModelFiles, merge: bool, scratch: Path) -> Iterator[ModelFiles]:
    """The model with its adapter added to the base's weights in float32, which lies in `scratch` meanwhile."""
    if not merge:
        yield files
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        _merge(files, Path(folder))
        gc.collect()  # a model's parts know each other, and what comes next needs its memory
        yield files.model_copy(update={"transformer": Path(folder)})


def _merge(files: ModelFiles, folder: Path) -> None:
    exact = files.model.model_copy(update={"weights": "fp32"})
    transformer = load_model(exact, files.base, files.transformer).transformer
    transformer.fuse_lora()
    transformer.unload_lora()
    transformer.save_pretrained(folder)


def _write_weights(files: ModelFiles, form: Form, folder: Path) -> Fp8Error | None:
    base = files.base / "transformer"
    transformer = files.transformer or base
    if form == "lora":
        adapter = adapter_file(transformer)
        assert adapter, "looked for before"
        write_adapter(adapter, folder / ADAPTER)
        return None
    if form == "fp8":
        return write_fp8(transformer, folder / f"{name_of(files)}-fp8.safetensors")
    if form == "transformer":
        write_bf16(transformer, (base if transformer.is_file() else transformer) / CONFIG, folder)
        return None
    for part in ("model_index.json", *read_json(files.base / "model_index.json")):
        if part != "transformer":
            _link(files.base / part, folder / part)
    _link(transformer, folder / "transformer" / WEIGHTS if transformer.is_file() else folder / "transformer")
    if transformer.is_file():
        _link(base / CONFIG, folder / "transformer" / CONFIG)
    return None


def _link(source: Path, target: Path) -> None:
    """A file, or all files of a folder, if it is there."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_weights)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_weights(source, target)


def _link_weights(source: str | Path, target: str | Path) -> None:
    """Weights are shared; a text that its owner may edit in place is copied, so that the model's own stays."""
    (link_or_copy if str(source).endswith(".safetensors") else shutil.copyfile)(source, target)


def _draw(files: ModelFiles, prompts: Sequence[str], pictures: Path) -> Sequence[str]:
    """Before and after; the prompts, or none of them where that fails: the weights are there, and are worth more."""
    if not prompts:
        return prompts
    try:
        base = snapshot(files.base / "transformer", str(files.base))
        before = files.model_copy(
            update={"transformer": None, "reference": str(files.base), "transformer_sha256": base.sha256}
        )
        list(write_pictures(before, prompts, pictures / "before"))
        list(write_pictures(files, prompts, pictures / "after"))
    except Exception as error:
        shutil.rmtree(pictures, ignore_errors=True)
        warnings.warn(f"the weights are exported without pictures, whose drawing failed: {error}", stacklevel=2)
        return ()
    return prompts


def _write_workflow(files: ModelFiles, prompts: Sequence[str], weights_name: str, folder: Path) -> None:
    """The graph that draws the first picture in ComfyUI from the weights of that name, and in that picture's file."""
    seed = files.sampling.seed
    graph = text_to_image(files, prompts[0] if prompts else "a photograph", seed, weights_name)
    workflow = json.dumps(as_workflow(graph))
    write_atomic(folder / "workflow.json", workflow)
    if prompts:
        with Image.open(folder / PICTURES / "after" / "0000.png") as picture:
            facts = facts_of(files, prompts[0], seed) | {"prompt": json.dumps(graph), "workflow": workflow}
            save_png(picture, facts, folder / "workflow.png")
