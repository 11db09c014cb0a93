"""Small models of the real classes, rewritten as the published files are, load to the same numbers."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

from srpo.config import ModelConfig, RewardConfig
from srpo.models import check_model, load_text_encoder
from srpo.models.layout import check_component, read_json
from srpo.rewards import check_reward, load_reward
from srpo.shapes import TEXT_TOKENS

TEXTS = ["a red circle on a blue background", "two cats"]


def test_qwens_text_encoder_under_its_published_names(qwen_folder: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "qwen", ModelConfig(family="qwen_image", height=32, width=32, max_sequence_length=12)
    shutil.copytree(qwen_folder, folder)
    path = folder / "text_encoder" / "model.safetensors"
    published = {
        name.removeprefix("model.") if ".visual." in name else name.replace("model.language_model.", "model."): tensor
        for name, tensor in load_file(path).items()
    }
    assert any(name.startswith("visual.blocks.0.") for name in published)
    assert any(name.startswith("model.layers.0.") for name in published)
    save_file(published, path, metadata={"format": "pt"})
    check_model(config, folder)
    expected, got = (load_text_encoder(config, place).encode_prompts(TEXTS, 12) for place in (qwen_folder, folder))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_flux_encoders_in_shards_with_an_index(flux_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    part = folder / "text_encoder_2"
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    weight_map = {}
    for shard, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        file = f"model-0000{shard}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, part / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    check_component(part, T5EncoderModel)
    config = ModelConfig(max_sequence_length=TEXT_TOKENS)
    expected, got = (load_text_encoder(config, x).encode_prompts(TEXTS, TEXT_TOKENS) for x in (flux_folder, folder))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_pickscore_as_transformers_saved_it_in_2023(clip_folder: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "clip", RewardConfig(family="clip")
    shutil.copytree(clip_folder, folder)
    settings = read_json(folder / "config.json")
    tensors = load_file(folder / "model.safetensors")
    length = settings["text_config"]["max_position_embeddings"]
    tensors["text_model.embeddings.position_ids"] = torch.arange(length)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_reward(config, folder)
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(3))
    expected, got = (load_reward(config, place)(images, TEXTS)[0] for place in (clip_folder, folder))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)  # other offsets in the file, other last bits
