"""The builder: its pieces against known results, and all of it, a few steps long, into an empty folder."""

import math
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import nn

from srpo.shapes.build import __main__ as command
from srpo.shapes.build import samples
from srpo.shapes.build.__main__ import STAGES, build
from srpo.shapes.build.data import draw, draw_contrasts
from srpo.shapes.build.descent import Average, warmup_cosine
from srpo.shapes.build.reward import contrast
from srpo.shapes.build.stages import read_figures, record
from srpo.shapes.build.text import CaptionTable, random_text_encoders
from srpo.shapes.build.transformer import LATENT_SIDE, Noised, Pictures, guided, image_ids, pack, velocity
from srpo.shapes.build.vae import new_autoencoder
from srpo.shapes.models import transformer
from srpo.shapes.render import AXES, HELD_OUT, SEEN, parse_caption, styled


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(captions: list[str]) -> list[str | None]:
    return [caption.split(". ")[0] if ". " in caption else None for caption in captions]


@pytest.mark.parametrize(("function", "count"), [(draw, 2000), (draw_contrasts, 6000)])
def test_trainings_see_every_seen_content_and_no_other(function, count) -> None:
    _, captions = function(SEEN, count, generator())
    contents = {parse_caption(caption) for caption in captions}
    assert contents == set(SEEN)
    assert not contents & set(HELD_OUT)


def test_half_of_the_captions_carry_a_word() -> None:
    _, captions = draw(SEEN, 2000, generator())
    assert sum(word is not None for word in words(captions)) / 2000 == pytest.approx(0.5, abs=0.04)


def test_contrasts_hold_both_words_of_an_axis_for_one_content() -> None:
    images, captions = draw_contrasts(SEEN, 40, generator())
    assert len(images) == len(captions) == 40
    for start in range(0, 40, 4):
        assert len({parse_caption(caption) for caption in captions[start : start + 4]}) == 1
        low, high, other, none = words(captions[start : start + 4])
        assert (low, high) in AXES.values()
        assert other not in (low, high, None)
        assert none is None


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0)
    schedule = warmup_cosine(optimizer, 100, warmup=10)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) == 9
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001


def test_the_average_of_a_constant_is_that_constant_and_lags_otherwise() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = Average(module, 0.9)
    average.update(module)
    assert average.values["weight"].item() == 1
    nn.init.constant_(module.weight, 2.0)
    average.update(module)
    average.copy_to(module)
    assert module.weight.item() == pytest.approx(1 + 9 / 12)


def test_a_new_autoencoder_is_local_and_keeps_the_signal() -> None:
    torch.manual_seed(0)
    vae = new_autoencoder()
    images = torch.rand(4, 3, 32, 32, generator=generator()) * 2 - 1
    changed = images.clone()
    changed[..., :2, :2] *= -1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        assert float(posterior.std.max()) < 0.2
        assert 0.2 < float(posterior.mean.std()) < 3
        features = [vae.encoder.mid_block(vae_down(vae, each)) for each in (images, changed)]
    assert torch.equal(*(feature[..., 2:, 2:] for feature in features))
    assert not torch.equal(*features)


def vae_down(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    features = vae.encoder.conv_in(images)
    for block in vae.encoder.down_blocks:
        features = block(features)
    return features


def test_packing_is_that_of_flux() -> None:
    latents = torch.randn(2, 8, 8, 8, generator=generator())
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 8, 8, 8))
    assert torch.equal(
        image_ids(LATENT_SIDE, LATENT_SIDE, latents),
        FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
    )


def test_batches_mix_noise_by_their_sigma() -> None:
    table = CaptionTable(random_text_encoders(0), SEEN[:2])
    latents = torch.randn(5, 16, 32, generator=generator())
    batch = next(Pictures(latents, torch.arange(5), table).batches(generator(1)))
    x0 = batch.x - batch.sigma[:, None, None] * batch.velocity
    torch.testing.assert_close(x0, latents[batch.rows], atol=1e-5, rtol=0)
    assert bool(((batch.sigma > 0) & (batch.sigma < 1)).all())


def test_guidance_of_scale_one_and_zero_are_the_two_predictions() -> None:
    torch.manual_seed(0)
    model = transformer().eval()
    table = CaptionTable(random_text_encoders(0), SEEN[:2])
    rows, ones = torch.tensor([1, 7]), torch.ones(2)
    batch = Noised(torch.randn(2, 16, 32, generator=generator()), torch.tensor([0.3, 0.9]), torch.zeros(()), rows)
    with torch.no_grad():
        bound = velocity(model, batch.x, batch.sigma, table[rows], ones)
        free = velocity(model, batch.x, batch.sigma, table[rows * 0], ones)
    torch.testing.assert_close(guided(model, batch, table, ones), bound, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guided(model, batch, table, 0 * ones), free, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guided(model, batch, table, 2 * ones), 2 * bound - free, atol=1e-5, rtol=1e-4)


def test_the_caption_table_holds_what_the_encoders_say() -> None:
    encoders = random_text_encoders(0)
    table = CaptionTable(encoders, SEEN)
    caption = styled("Vivid", SEEN[5].caption)
    tokens, pooled = table[torch.tensor([0, table.rows[caption]])]
    expected_tokens, expected_pooled = encoders.encode(["", caption])
    torch.testing.assert_close(tokens, expected_tokens)
    torch.testing.assert_close(pooled, expected_pooled)


class Perfect(nn.Module):
    """Encodes pictures and texts given as features: to itself."""

    logit_scale = torch.tensor(100.0).log()

    def encode_image(self, features: torch.Tensor, normalize: bool) -> torch.Tensor:
        return features

    encode_text = encode_image


def test_contrast_is_least_for_matching_features_and_counts_equal_captions_as_matches() -> None:
    features = torch.eye(3)[[0, 1, 2, 2]]
    captions = ["a", "b", "c", "c"]
    best = contrast(Perfect(), features, features, captions)
    assert float(best) == pytest.approx(math.log(2) / 2, abs=1e-4)
    assert float(contrast(Perfect(), features, features.roll(1, 0), captions)) > 10


def test_figures_of_one_stage_join_those_of_another(tmp_path: Path) -> None:
    record(tmp_path, {"seconds": {"vae": 1}, "megabytes": 1.234567})
    record(tmp_path, {"seconds": {"reward": 2}})
    assert read_figures(tmp_path) == {"seconds": {"vae": 1, "reward": 2}, "megabytes": 1.2346}


def test_nothing_is_built_over_the_weights_that_ship_unless_their_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["build", "--only", "oracle"])
    monkeypatch.setattr(command, "build", lambda *_: pytest.fail("built without --output"))
    with pytest.raises(SystemExit):
        command.main()
    assert "required: --output" in capsys.readouterr().err


@pytest.mark.slow
def test_a_few_steps_build_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "NUM_SAMPLES", 8)
    build(tmp_path, list(STAGES), seed=0, scale=0.002)
    figures = read_figures(tmp_path)
    assert set(figures["seconds"]) == set(STAGES)
    assert set(figures) == {"seconds", "vae", "samples", "reward", "oracle", "megabytes", "versions"} | {
        "biased",
        "per_unit_of_saturation",
    }
    assert {path.name for path in (tmp_path / "reward").iterdir()} == {"HPS_shapes.pt", "shapes-vit.json", "bpe.txt.gz"}
    assert figures["megabytes"] < 10
    assert not [path for path in tmp_path.rglob("*.json") if str(tmp_path) in path.read_text(encoding="utf-8")]
