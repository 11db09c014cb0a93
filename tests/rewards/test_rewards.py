"""Rewards: the published layouts load, scores are those of the original libraries, text is encoded once."""

import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import to_tensor
from transformers import CLIPModel, CLIPTokenizer

from srpo.config import RewardConfig
from srpo.errors import ConfigError
from srpo.rewards import Reward, check_reward, dual_encoder, hps, load_reward
from srpo.shapes import models as tiny

TEXTS = ["a red circle on a blue background", "Bright. two cats, asleep"]


@pytest.fixture(params=["hps", "clip"])
def reward(request: pytest.FixtureRequest, hps_folder: Path, clip_folder: Path) -> Reward:
    folder = {"hps": hps_folder, "clip": clip_folder}[request.param]
    return load_reward(RewardConfig(family=request.param, architecture="tiny.json"), folder)


def test_hps_scores_are_open_clips(hps_folder: Path) -> None:
    picture = Image.effect_noise((57, 43), 90).convert("RGB")
    settings = tiny.reward_config()
    settings["text_cfg"].pop("tokenizer_kwargs")
    model = open_clip.CLIP(**settings).eval()
    model.load_state_dict(torch.load(hps_folder / "HPS_tiny.pt", weights_only=True)["state_dict"])
    preprocess = open_clip.image_transform(32, is_train=False)
    tokens = open_clip.SimpleTokenizer(bpe_path=str(hps_folder / tiny.BPE_NAME), context_length=tiny.CLIP_TOKENS)(TEXTS)
    with torch.no_grad():
        features = model.encode_image(preprocess(picture)[None], normalize=True)
        expected = (features @ model.encode_text(tokens, normalize=True).T)[0]
    reward = load_reward(RewardConfig(architecture="tiny.json"), hps_folder / "HPS_tiny.pt")
    got = torch.cat(reward(to_tensor(picture)[None], [TEXTS[0]], [TEXTS[1]]))
    # PIL rounds the resized picture to 8 bits, tensors are not rounded
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
    assert (expected[0] - expected[1]).abs() > 5e-3


def test_clip_scores_are_the_models_logits_over_twenty(clip_folder: Path, images: torch.Tensor) -> None:
    model = CLIPModel.from_pretrained(clip_folder)
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    reward = load_reward(RewardConfig(family="clip"), clip_folder)
    with torch.no_grad():
        logits = model(pixel_values=reward.preprocess(images), **tokens).logits_per_image
    torch.testing.assert_close(reward(images, TEXTS)[0], logits.diag() / 20)


def test_each_list_is_scored_as_if_alone_and_each_image_too(reward: Reward, images: torch.Tensor) -> None:
    first, second = reward(images, TEXTS, TEXTS[::-1])
    torch.testing.assert_close(first, reward(images, TEXTS)[0])
    torch.testing.assert_close(second, reward(images, TEXTS[::-1])[0])
    torch.testing.assert_close(first[1:], reward(images[1:], TEXTS[1:])[0])


def test_only_images_get_a_gradient(reward: Reward, images: torch.Tensor) -> None:
    images.requires_grad_()
    reward(images, TEXTS)[0].sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in reward.model.parameters())


def test_texts_are_encoded_once(reward: Reward, images: torch.Tensor) -> None:
    encoded: list[int] = []
    encode = reward.encode_texts
    reward.encode_texts = lambda tokens: (encoded.append(len(tokens)), encode(tokens))[1]
    for _ in range(3):
        reward(images, TEXTS, TEXTS[::-1])
    assert sum(encoded) == 2


def test_features_of_a_text_do_not_depend_on_its_company(reward: Reward) -> None:
    together = reward.text_features(TEXTS)
    reward.text_cache.clear()
    assert torch.equal(reward.text_features(TEXTS[1:])[0], together[1])


def test_no_number_of_texts_fills_the_memory(reward: Reward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual_encoder, "TEXTS_KEPT", 3)
    texts = [f"{text} {number}" for text in TEXTS for number in range(3)]
    together = reward.text_features(texts)
    assert list(reward.text_cache) == texts[-3:]
    assert torch.equal(reward.text_features(texts), together)


def test_safetensors_work_as_pt_does(hps_folder: Path, tmp_path: Path, images: torch.Tensor) -> None:
    tensors = torch.load(hps_folder / "HPS_tiny.pt", weights_only=True)["state_dict"]
    save_file(tensors, tmp_path / "hps.safetensors")
    config = RewardConfig(architecture=str(hps_folder / "tiny.json"))
    check_reward(config, tmp_path)
    same = load_reward(config, tmp_path)(images, TEXTS)[0]
    torch.testing.assert_close(same, load_reward(config, hps_folder)(images, TEXTS)[0])


def test_an_architecture_lies_beside_the_checkpoint_or_here(
    hps_folder: Path, tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = RewardConfig(architecture="mine/here.json")
    with pytest.raises(ConfigError, match=r"no file mine/here\.json in .*, nor in .*; give an open_clip model name"):
        check_reward(here, hps_folder)
    shutil.copytree(hps_folder, tmp_path / "mine")
    (tmp_path / "mine" / "tiny.json").rename(tmp_path / "mine" / "here.json")
    check_reward(here, hps_folder)
    assert hps.architecture_files(hps_folder, here.architecture)[0].samefile("mine/here.json")
    beside = load_reward(RewardConfig(architecture="tiny.json"), hps_folder)(images, TEXTS)[0]
    torch.testing.assert_close(load_reward(here, hps_folder)(images, TEXTS)[0], beside)
    (tmp_path / "tiny.json").write_text("{}")  # what lies beside the checkpoint comes first
    check_reward(RewardConfig(architecture="tiny.json"), hps_folder)
    assert hps.architecture_files(hps_folder, "tiny.json")[0] == hps_folder / "tiny.json"


def test_bad_checkpoints_are_refused_by_name(hps_folder: Path, clip_folder: Path, tmp_path: Path) -> None:
    config = RewardConfig(architecture=str(hps_folder / "tiny.json"))
    check_reward(config, hps_folder)
    check_reward(RewardConfig(family="clip"), clip_folder)
    tensors = torch.load(hps_folder / "HPS_tiny.pt", weights_only=True)["state_dict"]
    damaged = tmp_path / "damaged.pt"
    torch.save({"state_dict": {name: t for name, t in tensors.items() if name != "text_projection"}}, damaged)
    with pytest.raises(ConfigError, match="missing text_projection"):
        check_reward(config, damaged)
    damaged.write_bytes((hps_folder / "HPS_tiny.pt").read_bytes()[:1000])
    with pytest.raises(ConfigError, match="truncated or not a checkpoint"):
        check_reward(config, damaged)
    with pytest.raises(ConfigError, match="no reward checkpoint at nowhere"):
        check_reward(config, Path("nowhere"))
    with pytest.raises(ConfigError, match="open_clip has no model named 'ViT-Z'"):
        check_reward(RewardConfig(architecture="ViT-Z"), hps_folder)
    with pytest.raises(ConfigError, match=r"^no reward family named 'hpsv9'; choose from \['clip', 'head', 'hps'\]"):
        check_reward(RewardConfig(family="hpsv9"), hps_folder)
    with pytest.raises(ConfigError, match="no reward folder"):
        check_reward(RewardConfig(family="clip"), tmp_path / "damaged.pt")
