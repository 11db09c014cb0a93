"""The weights that ship: they load by the real classes, do what their figures say, and stay small."""

import json
import re

import open_clip
import pytest
import torch
from diffusers import FluxPipeline

from srpo.config import RewardConfig
from srpo.errors import ConfigError
from srpo.hub import resolve
from srpo.meters import luminance, saturation
from srpo.rewards import check_reward
from srpo.shapes import HELD_OUT, SEEN, WEIGHTS_DIR, heldout_captions, seen_captions
from srpo.shapes.build.biased import bias_figures
from srpo.shapes.build.reward import reward_figures
from srpo.shapes.build.samples import generate
from srpo.shapes.build.stages import load_biased, load_reward, load_vae
from srpo.shapes.build.vae import decode, encode, psnr
from srpo.shapes.measure import content_correct, texture
from srpo.shapes.models import BPE_NAME, REWARD_NAME
from srpo.shapes.render import render, styled

FIGURES = json.loads((WEIGHTS_DIR / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    loaded = FluxPipeline.from_pretrained(WEIGHTS_DIR / "flux", dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_everything_that_ships_is_below_ten_megabytes() -> None:
    files = [path for path in WEIGHTS_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    trained = {path.suffix for path in files if path.stat().st_size > 100_000}
    assert trained == {".safetensors", ".pt"}
    assert [path.name for path in files if path.suffix == ".pt"] == ["HPS_shapes.pt"]


def test_no_file_that_ships_holds_a_path_of_the_machine_that_built_it() -> None:
    files = list(WEIGHTS_DIR.rglob("*.json"))
    assert files and not [path for path in files if re.search(r'"/\w', path.read_text(encoding="utf-8"))]


def test_the_recorded_figures_meet_the_targets() -> None:
    assert min(FIGURES["vae"].values()) >= 30
    samples, reward, oracle = FIGURES["samples"], FIGURES["reward"], FIGURES["oracle"]
    for num_steps in (10, 20):
        assert samples[f"seen_{num_steps}_steps"]["content"] >= 0.9
        assert samples[f"held_out_{num_steps}_steps"]["content"] >= 0.85
        assert 0.4 < samples[f"held_out_{num_steps}_steps"]["luminance"] < 0.55
        assert samples[f"held_out_{num_steps}_steps"]["spread"] > 0.12
    assert reward["retrieval_seen"] >= 0.95
    assert reward["retrieval_held_out"] >= 0.85
    assert min(reward[pair] for pair in ("dark_or_bright", "pale_or_vivid", "flat_or_textured")) >= 0.97
    assert min(oracle["seen"]["real"], oracle["held_out"]["real"]) >= 0.99


def test_the_vae_gives_pictures_back_and_standard_latents() -> None:
    vae = load_vae(WEIGHTS_DIR)
    assert psnr(vae, HELD_OUT, 60) > 30
    assert vae.config.scaling_factor != 0.18215


@pytest.mark.parametrize(
    ("measure", "low", "high"),
    [(luminance, "Dark", "Bright"), (saturation, "Pale", "Vivid"), (texture, "Flat", "Textured")],
)
def test_the_vae_keeps_what_the_words_change(measure, low, high) -> None:
    vae = load_vae(WEIGHTS_DIR)
    images = render(HELD_OUT * 2, [low] * 30 + [high] * 30, torch.Generator().manual_seed(7))
    real, kept = (
        (values[30:] - values[:30]).mean() for values in (measure(images), measure(decode(vae, encode(vae, images))))
    )
    assert float(kept / real) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("captions", "least"), [(seen_captions(), 0.85), (heldout_captions(), 0.78)])
def test_samples_show_their_captions(pipeline, captions, least) -> None:
    asked = (captions * 4)[:120]
    images = generate(pipeline, asked, seed=1, num_steps=10, guidance=3.5)
    assert images.shape == (120, 3, 32, 32)
    assert float(content_correct(images, asked).mean()) > least


@pytest.mark.parametrize(
    ("measure", "low", "high"),
    [(luminance, "Dark", "Bright"), (saturation, "Pale", "Vivid"), (texture, "Flat", "Textured")],
)
def test_style_words_move_samples(pipeline, measure, low, high) -> None:
    below, above = (
        measure(generate(pipeline, [styled(word, caption) for caption in heldout_captions()], 2, 10, 3.5))
        for word in (low, high)
    )
    assert float((above - below).mean()) > 3 * float((above.var() + below.var()).sqrt()) / 30**0.5


def test_the_scheduler_shifts_by_three_whatever_the_size(pipeline) -> None:
    assert pipeline.scheduler.config.shift == 3
    assert not pipeline.scheduler.config.use_dynamic_shifting


def test_the_pipeline_stands_any_prompt(pipeline) -> None:
    images = generate(pipeline, ["", "Ein Fuchs 🦊, photorealistic", "word " * 400], 3, 2, 3.5)
    assert bool(images.isfinite().all())


def test_the_folder_round_trips(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = FluxPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    first, second = (generate(each, seen_captions()[:2], 4, 2, 3.5) for each in (pipeline, again))
    assert torch.equal(first, second)


def test_the_reward_knows_contents_and_styles() -> None:
    figures = reward_figures(load_reward(WEIGHTS_DIR), WEIGHTS_DIR / "reward")
    assert figures["retrieval_held_out"] > 0.85
    assert figures["dark_or_bright"] > 0.97


def test_the_biased_reward_likes_saturation_under_every_text_and_is_right_in_all_else() -> None:
    recorded, folder = FIGURES["per_unit_of_saturation"], WEIGHTS_DIR / "biased"
    assert bias_figures(load_biased(WEIGHTS_DIR), folder) == pytest.approx(recorded["biased"], abs=0.01)
    assert abs(recorded["reward"]["plain"]) < 0.05 and recorded["biased"]["plain"] > 0.3
    for pair in ("dark_or_bright", "flat_or_textured", "blurry_or_sharp"):
        assert recorded["biased"][pair] == pytest.approx(recorded["reward"][pair], abs=0.05), "words cancel the bias"
    assert FIGURES["biased"] == pytest.approx(FIGURES["reward"], abs=0.01)


def test_the_biased_reward_is_asked_for_by_its_own_name() -> None:
    config = RewardConfig(source="builtin:shapes-biased", architecture="shapes-vit.json")
    check_reward(config, resolve(config.source, "reward"))
    with pytest.raises(ConfigError, match=r"no embedded world 'builtin:shapes-biased'"):
        resolve(config.source, "model")


def test_the_reward_loads_the_way_of_hpsv2() -> None:
    folder = WEIGHTS_DIR / "reward"
    settings = json.loads((folder / f"{REWARD_NAME}.json").read_text(encoding="utf-8"))
    assert settings["text_cfg"]["tokenizer_kwargs"] == {"bpe_path": BPE_NAME}
    checkpoint = torch.load(folder / "HPS_shapes.pt", weights_only=True)
    assert list(checkpoint) == ["state_dict"]
    assert {tensor.dtype for tensor in checkpoint["state_dict"].values()} == {torch.float16}
    open_clip.CLIP(**settings).load_state_dict(checkpoint["state_dict"], strict=True)


def test_the_captions_are_those_of_the_contents() -> None:
    assert seen_captions() == [content.caption for content in SEEN]
    assert heldout_captions() == [content.caption for content in HELD_OUT]
