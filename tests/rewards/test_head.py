"""A head on CLIP's features: its scores by transformers' own features and the formula, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, normalize
from transformers import CLIPModel, CLIPTokenizer

from srpo.config import RewardConfig, parse_config
from srpo.criteria import load_criteria
from srpo.errors import ConfigError
from srpo.hub import fetch
from srpo.rewards import check_reward, check_text_is_read, load_reward, reward_skeleton
from srpo.rewards.head import HEAD
from srpo.weights import fetch_weights

HEAD_REWARD = RewardConfig(family="head")
TEXTS = ["a red circle on a blue background", "Bright. two cats"]
WIDTH = 16  # of clip_folder's features


def make(folder: Path, clip_folder: Path, widths: tuple[int, ...], activation: str = "gelu") -> Path:
    """A folder as users have it, with a random head."""
    shutil.copytree(clip_folder, folder)
    generator = torch.Generator().manual_seed(len(widths))
    tensors = {}
    for index, (before, after) in enumerate(zip(widths, (*widths[1:], 1), strict=True)):
        tensors[f"{index}.weight"] = torch.randn(after, before, generator=generator)
        tensors[f"{index}.bias"] = torch.randn(after, generator=generator)
    save_file(tensors, folder / HEAD, {"activation": activation})
    return folder


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_scores_are_the_mlp_of_image_text_and_product(
    tmp_path: Path, clip_folder: Path, images: Tensor, activation: str
) -> None:
    folder = make(tmp_path / "head", clip_folder, (3 * WIDTH, 10, 7), activation)
    check_reward(HEAD_REWARD, folder)
    reward = load_reward(HEAD_REWARD, folder)
    clip, tensors = CLIPModel.from_pretrained(clip_folder), load_file(folder / HEAD)
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        image = normalize(clip.get_image_features(pixel_values=reward.preprocess(images)).pooler_output, dim=-1)
        text = normalize(clip.get_text_features(input_ids=tokens.input_ids).pooler_output, dim=-1)
    x = torch.cat([image, text, image * text], dim=-1)
    between = {"none": torch.nn.Identity(), "relu": torch.nn.ReLU(), "gelu": torch.nn.GELU()}[activation]
    for index in range(3):
        x = linear(x, tensors[f"{index}.weight"], tensors[f"{index}.bias"])
        x = between(x) if index < 2 else x
    torch.testing.assert_close(reward(images, TEXTS)[0], x[:, 0], rtol=1e-4, atol=1e-4)


def test_one_look_at_the_images_serves_all_texts_and_only_they_get_a_gradient(
    tmp_path: Path, clip_folder: Path, images: Tensor
) -> None:
    reward = load_reward(HEAD_REWARD, make(tmp_path / "head", clip_folder, (3 * WIDTH, 8)))
    looks: list[int] = []
    encode = reward.encode_images
    reward.encode_images = lambda pixels: (looks.append(len(pixels)), encode(pixels))[1]
    images.requires_grad_()
    first, second = reward(images, TEXTS, TEXTS[::-1])
    assert looks == [2]
    assert (first - second).abs().min() > 1e-4
    first.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in reward.parameters())


def test_a_head_of_the_image_alone_ignores_texts_and_is_refused_where_words_are_compared(
    tmp_path: Path, clip_folder: Path, flux_folder: Path, images: Tensor
) -> None:
    folder = make(tmp_path / "aesthetic", clip_folder, (WIDTH, 8))
    check_reward(HEAD_REWARD, folder)
    first, second = load_reward(HEAD_REWARD, folder)(images, TEXTS, TEXTS[::-1])
    assert torch.equal(first, second) and first[0] != first[1]
    with pytest.raises(ConfigError, match="does not read the text: nothing can be done"):
        check_text_is_read(HEAD_REWARD, folder, "nothing can be done")
    check_text_is_read(HEAD_REWARD, make(tmp_path / "text", clip_folder, (3 * WIDTH,)), "")
    settings = {"model": {"source": str(flux_folder)}, "reward": {"source": str(folder), "family": "head"}}
    srpo, plain = (parse_config(settings | {"method": name}, "test") for name in ("srpo", "direct_align"))
    weights = fetch_weights(srpo.model.model_copy(update={"height": 32, "width": 32}), srpo.reward, {}, {})
    with pytest.raises(ConfigError, match=r"control words cancel out .* set method to 'direct_align'"):
        load_criteria(srpo, weights, torch.device("cpu"))
    worded = {"method": {"name": "direct_align", "word": "Bright"}, "preference": {"positive": ["Bright"]}}
    with pytest.raises(ConfigError, match=r"does not read the text: method\.word says nothing to it; leave"):
        load_criteria(parse_config(settings | worded, "test"), weights, torch.device("cpu"))
    (criterion,) = load_criteria(plain, weights, torch.device("cpu"))
    assert torch.equal(criterion.reward(images, TEXTS)[0], first)


def test_the_skeleton_has_the_rewards_shapes(tmp_path: Path, clip_folder: Path) -> None:
    folder = make(tmp_path / "head", clip_folder, (3 * WIDTH, 10))
    real, bare = load_reward(HEAD_REWARD, folder), reward_skeleton(HEAD_REWARD, folder)
    assert {name: value.shape for name, value in bare.named_parameters()} == {
        name: value.shape for name, value in real.named_parameters()
    }
    assert all(value.is_meta for value in bare.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("1.bias"), "missing 1.bias"),
        (lambda tensors: tensors.update({"1.weight": torch.ones(1, 9)}), r"another shape in 0.bias .*, 0.weight"),
        (lambda tensors: tensors.update({"2.weight": torch.ones(1, 1)}), "missing 2.bias"),
        (lambda tensors: tensors.update({"0.weight": torch.ones(8, 5)}), "reads 5 values, but the features have 16"),
        (lambda tensors: tensors.update({"scale": torch.ones(1)}), "unexpected scale"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, clip_folder: Path, change: object, message: str
) -> None:
    folder = make(tmp_path / "head", clip_folder, (3 * WIDTH, 8))
    tensors = load_file(folder / HEAD)
    change(tensors)
    save_file(tensors, folder / HEAD, {"activation": "relu"})
    with pytest.raises(ConfigError, match=message):
        check_reward(HEAD_REWARD, folder)


def test_what_is_no_folder_with_a_head_is_refused(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"has no {HEAD}; .*reward\.family to 'clip'"):
        check_reward(HEAD_REWARD, clip_folder)
    folder = make(tmp_path / "head", clip_folder, (3 * WIDTH,), "tanh")
    with pytest.raises(ConfigError, match=r"activation 'tanh'; choose from \['gelu', 'none', 'relu'\]"):
        check_reward(HEAD_REWARD, folder)
    assert fetch(str(folder), "reward").size > fetch(str(clip_folder), "reward").size, "the head is hashed too"
