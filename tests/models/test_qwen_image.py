"""Qwen-Image: our sampler is diffusers' sampler, guided or not; a folder that would fail later is refused at once."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageImg2ImgPipeline, QwenImagePipeline
from safetensors.torch import load_file, save_file

from srpo.align import SigmaGrid, direct_align
from srpo.artifacts import TrainJob, Weights
from srpo.config import AlignConfig, ModelConfig, PreferenceConfig, RewardConfig, TrainConfig, load_config
from srpo.control_words import control_words
from srpo.criteria import Criterion
from srpo.errors import ConfigError
from srpo.flow import shifted_sigmas
from srpo.forecast.price import price
from srpo.hub import fetch
from srpo.models import (
    Embeddings,
    TextToImage,
    can_recompute_vae,
    check_guidance,
    check_model,
    load_latent_space,
    load_model,
    load_text_encoder,
)
from srpo.models.shared import pack
from srpo.objective import Asked, objective
from srpo.preference import Branch, make_branches
from srpo.prompts import embed_prompts
from srpo.reference import find_model
from srpo.rewards import load_reward
from srpo.rollout import Rollout, sample, seeded_noise
from srpo.tuning import save_memory
from tests.conftest import CONFIG as SHAPES
from tests.jobs import place, run

PROMPTS = ["a red circle on a blue background", "two cats", "Real. an old harbour, with ships and gulls"]
CONFIG = ModelConfig(family="qwen_image", height=32, width=48, max_sequence_length=64)
RECIPE = SHAPES.parent / "qwen_image_pickscore.yaml"


@pytest.fixture(scope="module")
def model(qwen_folder: Path) -> TextToImage:
    return load_model(CONFIG, qwen_folder)


@pytest.fixture(scope="module")
def embeddings(qwen_folder: Path) -> Embeddings:
    return load_text_encoder(CONFIG, qwen_folder).encode_prompts(PROMPTS, CONFIG.max_sequence_length)


def branches_of(align: AlignConfig, preference: PreferenceConfig, positions: list[int]) -> list[Branch]:
    words = control_words(preference)
    return make_branches(align, preference, words, SigmaGrid(align), torch.tensor(positions), PROMPTS, update=1)


def test_encoding_equals_the_image_to_image_pipeline(qwen_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which samples the posterior; its mean is the sample of a generator that draws zeros."""
    pipeline = QwenImageImg2ImgPipeline.from_pretrained(qwen_folder, local_files_only=True)
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    space = load_latent_space(CONFIG, qwen_folder)
    ours = space.encode(images)
    assert ours.shape == (2, *space.latent_shape(32, 48))
    monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", lambda shape, **_: torch.zeros(shape))
    with torch.no_grad():
        theirs = pipeline._encode_vae_image(pipeline.image_processor.preprocess(images).unsqueeze(2), torch.Generator())
    torch.testing.assert_close(ours, theirs.squeeze(2))


@pytest.mark.parametrize("num_prompts", [1, 3])
@pytest.mark.parametrize("guidance", [None, 4.0], ids=["unguided", "guided"])
def test_sampler_equals_the_pipeline(
    qwen_folder: Path, model: TextToImage, embeddings: Embeddings, num_prompts: int, guidance: float | None
) -> None:
    prompts = PROMPTS[:num_prompts]
    noise = seeded_noise(model.latent_shape(32, 48), range(num_prompts))
    chosen = {name: tensor[:num_prompts] for name, tensor in embeddings.items()}
    ours = model.decode(sample(model, chosen, noise, model.sampling_sigmas(6, 32, 48), guidance))

    pipeline = QwenImagePipeline.from_pretrained(qwen_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompts,
        negative_prompt=None if guidance is None else [" "] * num_prompts,
        true_cfg_scale=guidance or 1.0,
        height=32,
        width=48,
        num_inference_steps=6,
        latents=pack(noise),
        output_type="pt",
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.std() > 0.01, "a constant picture would agree with anything"


def test_a_lone_transformer_file_draws_the_same(
    qwen_folder: Path, model: TextToImage, embeddings: Embeddings, tmp_path: Path
) -> None:
    parts = [load_file(path) for path in (qwen_folder / "transformer").glob("*.safetensors")]
    save_file({name: tensor for part in parts for name, tensor in part.items()}, tmp_path / "lone.safetensors")
    lone = load_model(CONFIG, qwen_folder, tmp_path / "lone.safetensors")
    x, sigma = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.5, 0.2])
    assert torch.equal(lone.velocity(x, sigma, embeddings, 4.0), model.velocity(x, sigma, embeddings, 4.0))


def test_the_published_schedule_ends_at_its_terminal(model: TextToImage) -> None:
    sigmas = model.sampling_sigmas(8, 32, 48)
    assert sigmas[0] == 1 and sigmas[-1] == 0
    assert sigmas[-2].item() == pytest.approx(0.02, abs=1e-6)


def test_a_prompts_velocity_depends_neither_on_its_neighbours_nor_on_padding(
    model: TextToImage, embeddings: Embeddings
) -> None:
    x, sigma = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.5, 0.2])
    together = model.velocity(x, sigma, embeddings, 4.0)
    for row in range(3):
        own = {name: tensor[row : row + 1] for name, tensor in embeddings.items()}
        alone = model.velocity(x[row : row + 1], sigma[row : row + 1], own, 4.0)
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=0)


def test_the_prompt_template_is_dropped_and_prompts_are_cut_at_the_length(
    qwen_folder: Path, embeddings: Embeddings
) -> None:
    """`a red circle on a blue background` is 7 words (the first letter apart), and 5 tokens end the turn."""
    assert embeddings["prompt_embeds"].shape == (3, 64, 32)
    mask = embeddings["prompt_embeds_mask"]
    assert mask[0].sum() == 7 + 5
    assert not embeddings["prompt_embeds"][~mask].any()
    short = load_text_encoder(CONFIG, qwen_folder).encode_prompts(PROMPTS, 6)
    assert short["prompt_embeds_mask"].all()
    torch.testing.assert_close(short["prompt_embeds"], embeddings["prompt_embeds"][:, :6], atol=1e-5, rtol=0)


def test_guidance_keeps_the_length_of_every_token(model: TextToImage, embeddings: Embeddings) -> None:
    x, sigma = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.7)
    plain, guided = (pack(model.velocity(x, sigma, embeddings, guidance)) for guidance in (None, 4.0))
    torch.testing.assert_close(guided.norm(dim=-1), plain.norm(dim=-1))
    assert (guided - plain).norm() > 0.01 * plain.norm()


def test_latents_are_normalised_channel_by_channel(model: TextToImage) -> None:
    """Mean latents are the decoder's zero, whatever their spread."""
    mean, std = torch.tensor(model.vae.config.latents_mean), torch.tensor(model.vae.config.latents_std)
    x0 = (-mean / std)[None, :, None, None].expand(1, 4, 8, 12)
    zero = model.vae.decode(torch.zeros(1, 4, 1, 8, 12), return_dict=False)[0][:, :, 0]
    torch.testing.assert_close(model.decode(x0), (zero / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("guidance", [None, 4.0], ids=["unguided", "guided"])
def test_a_finite_gradient_reaches_the_transformer_and_nothing_else(
    model: TextToImage, embeddings: Embeddings, clip_folder: Path, guidance: float | None
) -> None:
    recipe = load_config(RECIPE)
    reward = load_reward(RewardConfig(family="clip"), clip_folder)
    noise = seeded_noise(model.latent_shape(32, 48), range(3))
    x0 = sample(model, embeddings, noise, shifted_sigmas(3, 1.0), 4.0)
    branches = branches_of(recipe.align, recipe.preference, [20, 50, 90])
    model.transformer.zero_grad()
    rollout = Rollout(x0, noise, embeddings, PROMPTS)
    asked = [Asked(Criterion("", reward, recipe.preference), branches)]
    loss, _ = objective(model, rollout, asked, len(branches), guidance)
    loss.backward()
    gradients = {name: p.grad for name, p in model.transformer.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradients[f"{name}.weight"].norm() > 0 for name in ("img_in", "txt_in", "proj_out"))
    assert not any(p.requires_grad or p.grad is not None for p in model.vae.parameters())
    assert not x0.requires_grad and not any(tensor.requires_grad for tensor in embeddings.values())


@pytest.mark.parametrize("position", [5, 50, 95])
def test_the_true_velocity_recovers_the_image_on_the_recipes_grid(model: TextToImage, position: int) -> None:
    grid = SigmaGrid(load_config(RECIPE).align)
    levels = grid.denoise(torch.tensor([position, position]))
    x0, noise = torch.randn(2, *model.latent_shape(32, 48)), torch.randn(2, *model.latent_shape(32, 48))
    recovered = direct_align(lambda x, sigma: noise - x0, x0, noise, levels.sigma_from, levels.sigma_to)
    torch.testing.assert_close(model.decode(recovered), model.decode(x0), atol=1e-5, rtol=0)


def test_sigma_reaches_the_transformer_unrounded_under_autocast(model: TextToImage, embeddings: Embeddings) -> None:
    seen: list[torch.Tensor] = []
    handle = model.transformer.time_text_embed.time_proj.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0])
    )
    sigma = torch.tensor([0.8571, 0.7777, 0.3333])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.velocity(torch.randn(3, 4, 8, 12), sigma, embeddings, 4.0)
    handle.remove()
    assert len(seen) == 2 and all(torch.equal(value, sigma) for value in seen)


def test_the_recipe_is_the_references() -> None:
    """Its public configuration of 2026-02."""
    recipe = load_config(RECIPE)
    train, align, rollout = recipe.train, recipe.align, recipe.rollout
    assert (train.learning_rate, train.weight_decay, train.max_grad_norm, train.num_updates) == (3e-6, 1e-4, 50, 50)
    assert (train.betas, train.eps, train.schedule) == ((0.9, 0.999), 1e-8, "constant")
    assert (recipe.model.height, recipe.model.width, train.batch_size) == (720, 720, 1)
    assert (rollout.num_steps, rollout.shift, rollout.guidance, align.guidance) == (26, 1, 4, None)
    assert (align.window, align.grid_steps, align.num_levels, align.branches) == ((5, 40), 50, 100, ("denoise",))
    assert (align.shift, align.groundtruth_ratio, align.num_injections) == (1, 0.6, 2)
    assert (recipe.preference.k_denoise, recipe.preference.discount_shift) == ((0, 0), 3)
    assert recipe.reward.family == "clip"


def test_a_whole_folder_passes(qwen_folder: Path) -> None:
    check_model(CONFIG, qwen_folder)


@pytest.mark.parametrize(("height", "width"), [(32, 36), (30, 32)])
def test_image_sizes_the_vae_cannot_take_are_refused(qwen_folder: Path, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=f"{height}x{width}, but this VAE needs multiples of 8"):
        check_model(CONFIG.model_copy(update={"height": height, "width": width}), qwen_folder)


def _transformer_tensor_missing(folder: Path) -> None:
    _pop(folder / "transformer" / "diffusion_pytorch_model.safetensors", "img_in.weight")


def _language_model_tensor_missing(folder: Path) -> None:
    _pop(folder / "text_encoder" / "model.safetensors", "model.norm.weight")


def _editing_variant(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"zero_cond_t": false', '"zero_cond_t": true'))


def _tokenizer_empty(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        file.unlink()


def _pop(path: Path, name: str) -> None:
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "vae"), "it has no vae"),
        (_transformer_tensor_missing, "missing img_in.weight"),
        (_language_model_tensor_missing, "missing model.language_model.norm.weight"),
        (_editing_variant, "does not draw from text alone.*zero_cond_t"),
        (_tokenizer_empty, "holds no tokenizer"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(qwen_folder: Path, tmp_path: Path, damage, message: str) -> None:
    folder = tmp_path / "qwen"
    shutil.copytree(qwen_folder, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        check_model(CONFIG, folder)


def test_a_folder_of_another_family_is_refused(qwen_folder: Path, flux_folder: Path) -> None:
    with pytest.raises(ConfigError, match="model.family is 'flux', but the model in .* is 'qwen_image'"):
        check_model(CONFIG.model_copy(update={"family": "flux"}), qwen_folder)
    with pytest.raises(ConfigError, match="model.family is 'qwen_image', but the model in .* is 'flux'"):
        check_model(CONFIG, flux_folder)


def test_a_folder_says_itself_which_family_it_is(qwen_folder: Path) -> None:
    files = find_model(str(qwen_folder), None, None)
    painter, sampling = files.painter(), files.sampling
    assert painter.config.family == "qwen_image"
    assert sampling.guidance == 4, "as its card samples it"


def test_no_guidance_or_one_above_one(qwen_folder: Path) -> None:
    check_guidance(CONFIG, qwen_folder, {"align.guidance": None, "rollout.guidance": 4.0})
    with pytest.raises(ConfigError, match=r"rollout\.guidance: .*above 1 .*null for none"):
        check_guidance(CONFIG, qwen_folder, {"align.guidance": None, "rollout.guidance": 1.0})


def test_an_adapter_is_trained_resumed_and_loaded_again(
    qwen_folder: Path, clip_folder: Path, embeddings: Embeddings, model: TextToImage, tmp_path: Path
) -> None:
    """LoRA under selective recomputation, on the layers that Qwen-Image and FLUX have in common."""
    (tmp_path / "train.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "held_out.txt").write_text(
        "a dog\na very old fox\na small hen\na cow\nan owl\na grey mouse\na cat asleep"
    )
    settings = {
        "model.source": qwen_folder,
        "model.height": 32,
        "model.width": 48,
        "model.max_sequence_length": 64,
        "reward.source": clip_folder,
        "prompts.train": tmp_path / "train.txt",
        "prompts.held_out": tmp_path / "held_out.txt",
        "rollout.num_steps": 2,
        "evaluation.num_steps": 2,
        "evaluation.grid_periods": "[4, 8]",
        "monitor.bounds": "[]",
        "monitor.num_images": 2,
        "train.num_updates": 2,
        "train.learning_rate": 0.001,
        "train.batch_size": 2,
        "train.accumulation": 1,
        "train.lora": "{rank: 4, alpha: 4}",
        "train.gradient_checkpointing": "selective",
        "train.precision": "fp32",
    }
    config = load_config(RECIPE, tuple(f"{key}={value}" for key, value in settings.items()))
    weights = Weights(model=fetch(config.model.source, "model"), reward=fetch(config.reward.source, "reward"))
    prompts = embed_prompts(config.model, config.prompts, weights, tmp_path / "embeddings")
    job = TrainJob(config=config, weights=weights, prompts=prompts, output_dir=str(tmp_path))
    run(place(job, tmp_path, num_updates=1))
    trained = run(job)  # goes on, though no loss reaches the text side of the last block, which has no moments
    aligned = load_model(CONFIG, qwen_folder, trained.transformer.path)
    x, sigma = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.7)
    with torch.no_grad():
        base, changed = (each.velocity(x, sigma, embeddings, None) for each in (model, aligned))
    assert (changed - base).norm() > 1e-4 * base.norm()


def test_blank_embeddings_are_those_of_prompts_as_long_as_they_may_be(
    model: TextToImage, embeddings: Embeddings
) -> None:
    for name, tensor in model.blank_embeddings(3, CONFIG.max_sequence_length).items():
        assert tensor.shape == embeddings[name].shape


def test_guidance_is_priced_as_the_second_forward_that_it_is(qwen_folder: Path, clip_folder: Path) -> None:
    """The negative prompt is shorter than the prompt, so that its forward costs less."""
    sizes = ("model.height=32", "model.width=48", "model.max_sequence_length=64", f"reward.source={clip_folder}")
    plain, guided = (
        price(load_config(RECIPE, (*sizes, f"model.source={qwen_folder}", f"rollout.guidance={guidance}")), "H200")
        for guidance in ("null", 4)
    )
    assert plain.seconds_per_update < guided.seconds_per_update < 2 * plain.seconds_per_update


def test_a_vae_that_cannot_be_recomputed_is_left_as_it_is(
    model: TextToImage, qwen_folder: Path, flux_folder: Path
) -> None:
    assert can_recompute_vae(flux_folder)
    assert not can_recompute_vae(qwen_folder)
    save_memory(model.transformer, model.vae, TrainConfig(gradient_checkpointing="none", vae_checkpointing=True))


def test_discount_of_the_recipe() -> None:
    """0 at the clean end, 1 at the noisy one, and 3 t / (1 + 2 t) between; nothing without."""
    align, preference = load_config(RECIPE).align, load_config(RECIPE).preference
    (branch,) = branches_of(align, preference, [5, 50, 95])
    assert branch.discount.tolist() == pytest.approx([0.15 / 1.1, 0.75, 2.85 / 2.9])
    (plain,) = branches_of(align, PreferenceConfig(), [5, 50, 95])
    assert plain.discount == 1
