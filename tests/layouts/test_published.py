"""Files of the published names, shapes and types, at the published size, pass our checks; damaged ones are named."""

import json
import shutil
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, FluxTransformer2DModel, QwenImageTransformer2DModel
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5EncoderModel,
)

from srpo.config import ModelConfig, RewardConfig
from srpo.errors import ConfigError
from srpo.models import check_model, model_skeleton
from srpo.models.layout import Shapes, check_component, check_tokenizer, compare_shapes, folder_shapes
from srpo.rewards import aesthetic, check_reward, image_reward, reward_skeleton
from tests.layouts.published import (
    Part,
    Tensors,
    expand,
    names,
    num_bytes,
    raw,
    read,
    write_checkpoint,
    write_component,
    write_safetensors,
)

SIZES = {"flux_dev": 720, "qwen_image": 1328}
FAMILIES = {"flux_dev": "flux", "qwen_image": "qwen_image"}
FOLDERS = [(layout, part) for layout in FAMILIES for part in read(layout)]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        *(AutoencoderKL, AutoencoderKLQwenImage, FluxTransformer2DModel, QwenImageTransformer2DModel),
        *(CLIPTextModel, T5EncoderModel, Qwen2_5_VLForConditionalGeneration),
    )
}


def test_patterns_stand_for_every_number() -> None:
    assert list(expand("a.{0..1}.{2,4}")) == ["a.0.2", "a.0.4", "a.1.2", "a.1.4"]
    assert list(expand("b.weight")) == ["b.weight"]


@pytest.mark.parametrize("layout", names())
def test_totals_are_those_that_are_public(layout: str) -> None:
    for part in read(layout).values():
        ours = {
            "tensors": len(part.tensors),
            "values": sum(map(prod, part.shapes.values())),
            "bytes": num_bytes(part.tensors),
        }
        assert part.total == {kind: count if part.total[kind] else None for kind, count in ours.items()}
        assert part.confirmed


@pytest.fixture(scope="module")
def folders(flux_folder: Path, qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sparse FLUX.1-dev and Qwen-Image folders: published config files and tensors, small tokenizers."""
    root = tmp_path_factory.mktemp("published")
    small = {"flux_dev": flux_folder, "qwen_image": qwen_folder}
    for layout, source in small.items():
        for name, part in read(layout).items():
            write_component(root / layout / name, part)
        for tokenizer in source.glob("tokenizer*"):
            shutil.copytree(tokenizer, root / layout / tokenizer.name)
        scheduler = root / layout / "scheduler"
        scheduler.mkdir()
        (scheduler / "scheduler_config.json").write_text(json.dumps(raw(layout)["scheduler"]))
        shutil.copy(source / "model_index.json", root / layout)
    return {layout: root / layout for layout in small}


def model_config(layout: str) -> ModelConfig:
    return ModelConfig(family=FAMILIES[layout], height=SIZES[layout], width=SIZES[layout])


@pytest.mark.parametrize("layout", FAMILIES)
def test_a_published_folder_passes_and_its_skeleton_has_its_tensors(folders: dict[str, Path], layout: str) -> None:
    check_model(model_config(layout), folders[layout])
    model, parts = model_skeleton(model_config(layout), folders[layout]), read(layout)
    for name in ("transformer", "vae"):
        assert shapes_of(getattr(model, name)) == parts[name].shapes


def shapes_of(module: object) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}  # type: ignore[attr-defined]


def damaged(part: Part) -> tuple[Tensors, list[str]]:
    """The part without one matrix, with another renamed and a third of another shape; and what has to be said of it."""
    matrices = sorted(name for name, shape in part.shapes.items() if len(shape) > 1)
    missing, renamed, reshaped = (matrices[len(matrices) * quarter // 4] for quarter in (1, 2, 3))
    tensors = dict(part.tensors)
    del tensors[missing]
    tensors[renamed + "_"] = tensors.pop(renamed)
    dtype, shape = tensors[reshaped]
    tensors[reshaped] = (dtype, (7, *shape[1:]))
    today = [todays_name(part, name) for name in (missing, renamed, reshaped)]
    expected = [
        f"missing {', '.join(sorted(today[:2]))}",
        f"unexpected {today[1]}_",
        f"another shape in {today[2]} (got [7",
    ]
    return tensors, expected


def todays_name(part: Part, name: str) -> str:
    """What today's transformers calls a tensor that was published under an older name."""
    if part.class_name == "CLIPTextModel":
        return name.removeprefix("text_model.")
    if part.class_name == "Qwen2_5_VLForConditionalGeneration":
        return "model." + (name if name.startswith("visual.") else name.replace("model.", "language_model.", 1))
    return name


def assert_refused(check: Callable[[], None], expected: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        check()
    assert [sentence for sentence in expected if sentence not in str(refused.value)] == []


@pytest.mark.parametrize(("layout", "name"), FOLDERS)
def test_a_damaged_published_part_is_refused_by_name(tmp_path: Path, layout: str, name: str) -> None:
    part = read(layout)[name]
    tensors, expected = damaged(part)
    write_component(tmp_path, part, tensors)
    assert_refused(lambda: check_component(tmp_path, CLASSES[part.class_name]), expected)


def test_a_published_clip_folder_passes_and_a_damaged_one_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    part, config = read("laion_clip_h")[""], RewardConfig(family="clip")
    assert read("pickscore_v1")[""].shapes == part.shapes
    shutil.copytree(clip_folder, tmp_path, dirs_exist_ok=True)
    write_component(tmp_path, part)
    check_reward(config, tmp_path)
    assert shapes_of(reward_skeleton(config, tmp_path).model) == part.shapes  # type: ignore[attr-defined]
    tensors, expected = damaged(part)
    write_component(tmp_path, part, tensors)
    assert_refused(lambda: check_reward(config, tmp_path), expected)


@pytest.mark.parametrize(("layout", "key"), [("hps_v2_1", "state_dict"), ("laion_clip_h_open_clip", None)])
def test_a_published_open_clip_file_passes_and_a_damaged_one_is_refused(
    tmp_path: Path, layout: str, key: str | None
) -> None:
    (part,) = read(layout).values()
    path, config = tmp_path / part.file, RewardConfig()
    write_checkpoint(path, part.tensors, key)
    check_reward(config, path)
    assert shapes_of(reward_skeleton(config, path).model) == part.shapes  # type: ignore[attr-defined]
    tensors, expected = damaged(part)
    write_checkpoint(path, tensors, key)
    assert_refused(lambda: check_reward(config, path), expected)


def test_a_published_image_reward_passes_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    (part,) = read("image_reward_v1").values()
    path, words = tmp_path / part.file, tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    write_checkpoint(path, part.tensors | {"blip.vision_proj.weight": ("fp32", (256, 1024))})
    image_reward.check(path, words)
    vision, text = image_reward.configs(path, part.shapes)
    assert (vision.image_size, vision.num_hidden_layers, vision.num_attention_heads) == (224, 24, 16)
    assert (text.num_hidden_layers, text.num_attention_heads, text.max_position_embeddings) == (12, 12, 512)
    tensors, _ = damaged(part)
    write_checkpoint(path, tensors)
    gone = sorted(image_reward.renamed(name) for name in part.tensors.keys() - tensors.keys())
    assert_refused(
        lambda: image_reward.check(path, words), [f"missing {', '.join(gone)}", "another shape in", "(got [7"]
    )


def test_a_published_aesthetic_predictor_passes_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    parts, head = read("aesthetic_v2_5"), tmp_path / "aesthetic_predictor_v2_5.pth"
    write_checkpoint(head, parts["head"].tensors)
    write_component(tmp_path / "siglip", parts["siglip"])
    aesthetic.check(head, tmp_path / "siglip")
    tensors, expected = damaged(parts["siglip"])
    write_component(tmp_path / "siglip", parts["siglip"], tensors)
    assert_refused(lambda: aesthetic.check(head, tmp_path / "siglip"), expected)


def test_srpos_released_file_fits_flux_dev(folders: dict[str, Path], tmp_path: Path) -> None:
    (part,) = read("srpo").values()
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    write_safetensors(path, part.tensors)
    compare_shapes("SRPO", folder_shapes(folders["flux_dev"] / "transformer"), part.shapes)


def test_costs_are_counted_with_the_published_configs() -> None:
    for part in ("transformer", "vae"):
        ours = json.loads((BENCHMARKS / "flux_dev" / part / "config.json").read_text())
        assert ours.items() <= read("flux_dev")[part].config.items()
    assert (
        json.loads((BENCHMARKS / "flux_dev/scheduler/scheduler_config.json").read_text())
        == raw("flux_dev")["scheduler"]
    )


@pytest.mark.parametrize(("layout", "cls"), [("flux_dev", CLIPTokenizer), ("qwen_image", Qwen2Tokenizer)])
def test_a_vocabulary_in_the_published_files_gives_the_same_tokens(
    flux_folder: Path, qwen_folder: Path, tmp_path: Path, layout: str, cls: Any
) -> None:
    small = {"flux_dev": flux_folder, "qwen_image": qwen_folder}[layout] / "tokenizer"
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"} <= set(
        raw(layout)["files"]
    )
    model = json.loads((small / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    shutil.copy(small / "tokenizer_config.json", tmp_path)
    check_tokenizer(tmp_path, cls)
    text = "a red circle on a blue background"
    assert cls.from_pretrained(tmp_path)(text).input_ids == cls.from_pretrained(small)(text).input_ids
