"""Scores that are only measured: the published files load, and give what their authors' code gives."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from srpo.config import RewardConfig, ScoreConfig
from srpo.errors import ConfigError
from srpo.rewards import Reward, load_reward
from srpo.rewards.aesthetic import AestheticHead, AestheticScore
from srpo.rewards.dual_encoder import DualEncoderReward
from srpo.rewards.measured import SCORES, check_score, find_score, load_score, score_bytes
from tests.layouts.published import read

TEXTS = ["a red circle on a blue background", "two cats"]
WIDTH = 32


def score(family: str, source: Path, companion: Path | None = None, architecture: str = "tiny.json") -> Reward:
    config = ScoreConfig(
        family=family, source=str(source), companion=companion and str(companion), architecture=architecture
    )
    check_score(family, config, source, companion)
    return load_score(family, config, source, companion)


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    width = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=width | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config=width | {"image_size": 28, "patch_size": 14},
    )
    folder = tmp_path_factory.mktemp("siglip")
    SiglipModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def head_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head in the published layout, at a smaller width of the features."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("head") / "aesthetic_predictor_v2_5.pth"
    head = AestheticHead(WIDTH)
    torch.save(head.to(torch.bfloat16).state_dict(), path)
    return path


def test_the_head_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        head = AestheticHead(1152)
    assert {name: tuple(t.shape) for name, t in head.state_dict().items()} == read("aesthetic_v2_5")["head"].shapes


def test_aesthetic_is_the_head_on_siglips_unit_features(siglip_folder: Path, head_file: Path, images: Tensor) -> None:
    got = score("aesthetic", head_file, siglip_folder)(images, TEXTS, TEXTS[::-1])
    squares = torch.nn.functional.interpolate(images, (28, 28), mode="bicubic", antialias=True)
    with torch.no_grad():
        features = SiglipModel.from_pretrained(siglip_folder).get_image_features(squares * 2 - 1).pooler_output
    features = features / features.norm(dim=-1, keepdim=True)
    tensors = torch.load(head_file, weights_only=True)
    for index in (0, 2, 4, 6, 8):
        weight, bias = (tensors[f"scoring_head.{index}.{kind}"].float() for kind in ("weight", "bias"))
        features = features @ weight.T + bias
    torch.testing.assert_close(got[0], features[:, 0], atol=1e-5, rtol=1e-4)
    assert torch.equal(got[0], got[1]), "it reads no prompt"
    assert got[0].std() > 1e-4


def test_a_vision_tower_alone_serves_as_well(
    siglip_folder: Path, head_file: Path, images: Tensor, tmp_path: Path
) -> None:
    SiglipVisionModel.from_pretrained(siglip_folder).save_pretrained(tmp_path)
    assert SiglipVisionConfig.from_pretrained(tmp_path).model_type == "siglip_vision_model"
    alone, whole = (score("aesthetic", head_file, folder)(images, TEXTS)[0] for folder in (tmp_path, siglip_folder))
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)


def test_a_head_in_safetensors_gives_the_same(
    siglip_folder: Path, head_file: Path, images: Tensor, tmp_path: Path
) -> None:
    save_file(torch.load(head_file, weights_only=True), tmp_path / "head.safetensors")
    same, expected = (
        score("aesthetic", file, siglip_folder)(images, TEXTS)[0] for file in (tmp_path / "head.safetensors", head_file)
    )
    assert torch.equal(same, expected)


def test_a_damaged_head_and_encoder_are_named(siglip_folder: Path, head_file: Path, tmp_path: Path) -> None:
    tensors = torch.load(head_file, weights_only=True)
    tensors["scoring_head.7.weight"] = tensors.pop("scoring_head.6.weight")
    tensors["scoring_head.8.bias"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "head.pth")
    with pytest.raises(
        ConfigError, match=r"missing scoring_head\.6\.weight; unexpected scoring_head\.7\.weight; another"
    ):
        score("aesthetic", tmp_path / "head.pth", siglip_folder)
    (tmp_path / "config.json").write_bytes((siglip_folder / "config.json").read_bytes())
    tensors = load_file(siglip_folder / "model.safetensors")
    del tensors["vision_model.head.probe"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"missing vision_model\.head\.probe"):
        score("aesthetic", head_file, tmp_path)
    with pytest.raises(ConfigError, match="no SigLIP folder"):
        score("aesthetic", head_file, tmp_path / "nowhere")


def test_pick_score_is_the_models_logit(clip_folder: Path, images: Tensor) -> None:
    trained = load_reward(RewardConfig(family="clip"), clip_folder)(images, TEXTS)[0]
    torch.testing.assert_close(score("pick_score", clip_folder)(images, TEXTS)[0], 20 * trained)


def test_clip_score_is_the_papers(clip_folder: Path, images: Tensor) -> None:
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    captions = [f"A photo depicts {text}" for text in TEXTS]
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=16, return_tensors="pt")
    reward = score("clip_score", clip_folder)
    with torch.no_grad():
        output = model(pixel_values=load_reward(RewardConfig(family="clip"), clip_folder).preprocess(images), **tokens)
    cosines = (output.image_embeds * output.text_embeds).sum(-1)
    torch.testing.assert_close(reward(images, TEXTS)[0], 2.5 * cosines.clamp(min=0), atol=1e-6, rtol=0)
    upright = reward(torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), TEXTS * 8)[0]
    assert upright.min() >= 0


def test_hps_is_the_rewards_cosine_on_squares_and_sees_the_whole_of_other_pictures(
    hps_folder: Path, images: Tensor
) -> None:
    measured, trained = score("hps", hps_folder), load_reward(RewardConfig(architecture="tiny.json"), hps_folder)
    squares = images[..., :40]
    torch.testing.assert_close(measured(squares, TEXTS)[0], trained(squares, TEXTS)[0])
    changed = images.clone()
    changed[..., :4] = 0  # the centre crop cuts this off
    assert torch.equal(trained(changed, TEXTS)[0], trained(images, TEXTS)[0])
    assert not torch.equal(measured(changed, TEXTS)[0], measured(images, TEXTS)[0])


def test_every_score_shows_what_it_sees_before_any_text(
    hps_folder: Path, clip_folder: Path, siglip_folder: Path, head_file: Path, images: Tensor
) -> None:
    hps, pick = score("hps", hps_folder), score("pick_score", clip_folder)
    assert isinstance(hps, DualEncoderReward) and isinstance(pick, DualEncoderReward)
    for dual in (hps, pick):
        agreement = dual.scale * (dual.features(images) * dual.text_features(TEXTS)).sum(-1)
        assert torch.equal(agreement, dual(images, TEXTS)[0])
    assert torch.equal(score("clip_score", clip_folder).features(images), pick.features(images))
    aesthetic = score("aesthetic", head_file, siglip_folder)
    assert isinstance(aesthetic, AestheticScore)
    assert torch.equal(aesthetic.head(aesthetic.features(images))[:, 0], aesthetic(images, TEXTS)[0])
    for eyes in (hps, pick, aesthetic):
        torch.testing.assert_close(eyes.features(images).norm(dim=-1), torch.ones(2))


def test_a_score_takes_as_many_bytes_as_were_counted_before_it_was_loaded(
    hps_folder: Path, clip_folder: Path, siglip_folder: Path, head_file: Path
) -> None:
    places = {
        "hps": (hps_folder, None),
        "pick_score": (clip_folder, None),
        "clip_score": (clip_folder, None),
        "aesthetic": (head_file, siglip_folder),
    }
    for family, (source, companion) in places.items():
        config = ScoreConfig(
            family=family, source=str(source), companion=companion and str(companion), architecture="tiny.json"
        )
        loaded = load_score(family, config, source, companion)
        assert isinstance(loaded, torch.nn.Module)
        assert score_bytes(family, config) == sum(weight.nbytes for weight in loaded.parameters()), family


def test_what_is_missing_or_not_wanted_is_said() -> None:
    with pytest.raises(ConfigError, match=r"scores\.beauty\.family: no score named 'musiq'; choose from \['aesthetic'"):
        find_score("beauty", ScoreConfig(family="musiq", source="x"))
    with pytest.raises(ConfigError, match=r"scores\.beauty\.companion: aesthetic needs the SigLIP folder"):
        find_score("beauty", ScoreConfig(family="aesthetic", source="x"))
    with pytest.raises(ConfigError, match="reads nothing beside its checkpoint"):
        find_score("pick", ScoreConfig(family="pick_score", source="x", companion="y"))


def test_only_the_aesthetic_score_reads_no_prompt() -> None:
    assert [name for name, family in SCORES.items() if not family.reads_text] == ["aesthetic"]
