"""FLUX: our sampler is diffusers' sampler, and a folder that would fail later is refused at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, FluxPipeline
from safetensors.torch import load_file, save_file

from srpo.config import ModelConfig
from srpo.errors import ConfigError
from srpo.models import check_guidance, check_model, load_latent_space, load_model, load_text_encoder
from srpo.models.shared import pack, unpack
from srpo.rollout import sample, seeded_noise
from srpo.shapes import TEXT_TOKENS, WEIGHTS_DIR
from srpo.shapes.render import HELD_OUT, render

PROMPTS = ["a red circle on a blue background", "two cats", "Bright. a cyan ring on a red background"]
CONFIG = ModelConfig(height=32, width=48, max_sequence_length=TEXT_TOKENS)


def test_pack_is_diffusers_pack_and_unpack_its_inverse() -> None:
    latents = torch.randn(2, 8, 6, 10)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 8, 6, 10))
    assert torch.equal(unpack(pack(latents), 6, 10), latents)


@pytest.mark.parametrize("num_prompts", [1, 3])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static-shift", "dynamic-shift"])
def test_sampler_equals_the_pipeline(flux_folder: Path, tmp_path: Path, num_prompts: int, dynamic: bool) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic).save_pretrained(folder / "scheduler")
    model = load_model(CONFIG, folder)
    prompts = PROMPTS[:num_prompts]
    noise = seeded_noise(model.latent_shape(32, 48), range(num_prompts))
    embeddings = load_text_encoder(CONFIG, folder).encode_prompts(prompts, TEXT_TOKENS)
    ours = model.decode(sample(model, embeddings, noise, model.sampling_sigmas(6, 32, 48), 3.5))

    pipeline = FluxPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompts,
        height=32,
        width=48,
        num_inference_steps=6,
        guidance_scale=3.5,
        latents=pack(noise),
        max_sequence_length=TEXT_TOKENS,
        output_type="pt",
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.std() > 0.01, "a constant picture would agree with anything"


def test_after_a_velocity_the_transformer_is_any_pipelines(flux_folder: Path) -> None:
    model = load_model(CONFIG, flux_folder)
    pipeline = FluxPipeline.from_pretrained(flux_folder, transformer=model.transformer, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 48, "max_sequence_length": TEXT_TOKENS}
    latents = seeded_noise(model.latent_shape(32, 48), [0])

    def draw() -> torch.Tensor:
        return pipeline(PROMPTS[0], num_inference_steps=2, latents=pack(latents), output_type="pt", **size).images

    before = draw()
    with torch.no_grad():
        model.velocity(latents, torch.tensor([0.9]), model.blank_embeddings(1, TEXT_TOKENS), 3.5)
    assert torch.equal(draw(), before)


def test_encoding_equals_the_image_to_image_pipeline(flux_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which samples the posterior; its mean is the sample of a generator that draws zeros."""
    pipeline = FluxImg2ImgPipeline.from_pretrained(flux_folder, local_files_only=True)
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    space = load_latent_space(CONFIG, flux_folder)
    ours = space.encode(images)
    assert ours.shape == (2, *space.latent_shape(32, 48)) and not ours.requires_grad
    monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", lambda shape, **_: torch.zeros(shape))
    with torch.no_grad():
        theirs = pipeline._encode_vae_image(pipeline.image_processor.preprocess(images), torch.Generator())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(load_model(CONFIG, flux_folder).encode(images), ours)


def test_decoding_undoes_encoding() -> None:
    """The trained VAE of the Shapes world keeps scenes to 35 dB."""
    space = load_latent_space(CONFIG, WEIGHTS_DIR / "flux")
    scenes = render(HELD_OUT, [None] * len(HELD_OUT), torch.Generator().manual_seed(0))
    error = (space.decode(space.encode(scenes)) - scenes).square().mean()
    assert -10 * error.log10() > 34
    again = space.encode(space.decode(space.encode(scenes)))
    assert (again - space.encode(scenes)).std() < 0.2 * again.std(), "what was lost is lost once"


def test_vae_is_frozen_and_clamped_pixels_have_no_gradient(flux_folder: Path) -> None:
    model = load_model(CONFIG, flux_folder)
    x0 = (100 * torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    images = model.decode(x0)
    assert images.min() == 0 and images.max() == 1
    assert not any(parameter.requires_grad for parameter in model.vae.parameters())
    inside = (images > 0) & (images < 1)
    (gradient,) = torch.autograd.grad(images[~inside].sum(), x0)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize(("height", "width"), [(32, 36), (30, 32)])
def test_image_sizes_the_vae_cannot_take_are_refused(flux_folder: Path, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=f"{height}x{width}, but this VAE needs multiples of 8"):
        check_model(CONFIG.model_copy(update={"height": height, "width": width}), flux_folder)


def test_a_whole_folder_passes(flux_folder: Path) -> None:
    check_model(CONFIG, flux_folder)


def _without_transformer(folder: Path) -> None:
    shutil.rmtree(folder / "transformer")


def _tensor_missing(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors.pop("x_embedder.weight"))


def _tensor_renamed(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors.update({"x_embedder.w": tensors.pop("x_embedder.weight")}))


def _another_shape(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors.update({"x_embedder.bias": torch.zeros(3)}))


def _truncated(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _no_config(folder: Path) -> None:
    (folder / "text_encoder" / "config.json").unlink()


def _shard_missing(folder: Path) -> None:
    index = {"weight_map": {"x_embedder.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _tokenizer_empty(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        file.unlink()


def _scheduler_empty(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()


def _fills_a_mask(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 52, "out_channels": 32}))
    _edit(folder, lambda tensors: tensors.update({"x_embedder.weight": torch.zeros(128, 52)}))


def _edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_transformer, "it has no transformer"),
        (_tensor_missing, "missing x_embedder.weight"),
        (_tensor_renamed, "missing x_embedder.weight; unexpected x_embedder.w"),
        (_another_shape, r"another shape in x_embedder.bias \(got \[3\], expected \[128\]\)"),
        (_truncated, "truncated or not a safetensors file"),
        (_no_config, "has no config.json"),
        (_tokenizer_empty, "holds no tokenizer: it has neither tokenizer.json nor"),
        (_scheduler_empty, "cannot be loaded"),
        (_fills_a_mask, "does not draw from text alone: it takes 52 channels, of which latents are 32"),
        (_shard_missing, "names files that are missing: diffusion_pytorch_model-00002"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(
    flux_folder: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        check_model(CONFIG, folder)


def _names_of_older_transformers(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(tensors, path, metadata={"format": "pt"})


def _t5_embedding_under_its_other_name(folder: Path) -> None:
    path = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_second_file_that_nobody_loads_is_no_part_of_the_model(flux_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    save_file({"other": torch.zeros(1)}, folder / "transformer" / "merged_lora.safetensors")
    check_model(CONFIG, folder)


def test_a_guidance_is_asked_of_a_guided_model_and_refused_by_another(flux_folder: Path, tmp_path: Path) -> None:
    check_guidance(CONFIG, flux_folder, {"align.guidance": 3.5})
    with pytest.raises(ConfigError, match=r"align\.guidance: .*takes a guidance"):
        check_guidance(CONFIG, flux_folder, {"align.guidance": None})
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"guidance_embeds": true', '"guidance_embeds": false'))
    with pytest.raises(ConfigError, match=r"align\.guidance, rollout\.guidance: .*set it to null"):
        check_guidance(CONFIG, folder, {"align.guidance": 3.5, "rollout.guidance": 1.0, "evaluation.guidance": None})


@pytest.mark.parametrize("names", [_names_of_older_transformers, _t5_embedding_under_its_other_name])
def test_names_that_transformers_understands_are_accepted(
    flux_folder: Path, tmp_path: Path, names: Callable[[Path], None]
) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    names(folder)
    check_model(CONFIG, folder)
    old, new = (load_text_encoder(CONFIG, place) for place in (flux_folder, folder))
    for name, tensor in new.encode_prompts(PROMPTS, TEXT_TOKENS).items():
        assert torch.equal(tensor, old.encode_prompts(PROMPTS, TEXT_TOKENS)[name])


def test_sigma_and_guidance_reach_the_transformer_unrounded_under_autocast(flux_folder: Path) -> None:
    model = load_model(CONFIG, flux_folder)
    embeddings = load_text_encoder(CONFIG, flux_folder).encode_prompts(PROMPTS[:2], TEXT_TOKENS)
    seen: list[torch.Tensor] = []
    model.transformer.time_text_embed.time_proj.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0])
    )
    sigma = torch.tensor([0.8571, 0.7777])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.velocity(torch.randn(2, 8, 8, 8), sigma, embeddings, 3.5)
    assert torch.equal(seen[0], 1000 * sigma)
    assert seen[1].tolist() == [3500, 3500]


def test_unknown_family_and_missing_folder() -> None:
    with pytest.raises(ConfigError, match="no model family named 'sdxl'; choose from"):
        check_model(CONFIG.model_copy(update={"family": "sdxl"}), Path())
    with pytest.raises(ConfigError, match="no model folder at nowhere"):
        check_model(CONFIG, Path("nowhere"))
