"""Images become the latents that the model's VAE makes of them, once; what is remembered of them is their content."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo.artifacts import PromptSets, Weights
from srpo.config import ImagesConfig, ModelConfig, PromptsConfig
from srpo.embedding import embed
from srpo.errors import ConfigError
from srpo.hub import fetch
from srpo.images import LATENTS, load_image_set
from srpo.images.encode import ImageEncoding, to_tensor
from srpo.models import load_latent_space
from srpo.models.flux import FluxVae
from srpo.prompts import load_prompt_set
from srpo.shards import StoredRows
from tests.images import scenes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five square scenes, and three of them squeezed to 40x24."""
    folder = tmp_path / "photos"
    for index, (path, caption) in enumerate(scenes.write(folder, 5)):
        if index < 3:
            Image.open(path).resize((40, 24)).save(folder / f"wide-{index}.png")
            (folder / f"wide-{index}.txt").write_text(f"squeezed {caption}")
    return folder


def encode(
    flux: Path, photos: Path, tmp_path: Path, train: str = "", num_processes: int | None = None, **settings: object
) -> PromptSets:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "held_out.txt").write_text("two cats\na dog\nthree mice\na fox\na hen\na cow\nan owl")
    model = ModelConfig(source=str(flux), height=32, width=32, max_sequence_length=12)
    files = {"train": train or "builtin:shapes", "held_out": str(tmp_path / "held_out.txt")}
    prompts = PromptsConfig.model_validate(files | {"num_processes": num_processes})
    images = ImagesConfig.model_validate({"source": str(photos)} | settings)
    weights = fetch(str(flux), "model")
    return embed(model, prompts, images, Weights(model=weights, reward=weights), tmp_path / "embeddings")


def shards(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (tmp_path / "embeddings").glob("latents-*/*.safetensors")}


def test_latents_are_the_vaes_and_captions_stand_beside_them(flux_folder: Path, photos: Path, tmp_path: Path) -> None:
    sets = encode(flux_folder, photos, tmp_path)
    assert sets.images and sets.images.num_images == 8
    assert sets.train == sets.images.captions and sets.train.snapshot.source == str(photos)
    stored = load_image_set(sets.images)
    assert {bucket: len(images) for bucket, images in stored.buckets.items()} == {(24, 40): 3, (32, 32): 5}
    files = sorted(photos.glob("*.png"))
    assert stored.captions == [path.with_suffix(".txt").read_text().strip() for path in files]
    space = load_latent_space(ModelConfig(), flux_folder)
    for bucket, images in stored.buckets.items():
        expected = torch.cat([space.encode(to_tensor(Image.open(files[image]))) for image in images])
        latents = stored.latents.select(images)[LATENTS]
        assert torch.equal(latents, expected)
        assert latents.shape[1:] == space.latent_shape(*bucket)
    assert {name: len(tensor) for name, tensor in stored.embeddings.select([7, 0]).items()} == {
        "prompt_embeds": 2,
        "pooled_prompt_embeds": 2,
    }


def test_as_many_processes_encode_images_as_captions(
    flux_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr("srpo.encoding.count_processes", lambda given: asked.append(given) or 1)
    encode(flux_folder, photos, tmp_path, num_processes=2)
    assert asked == [2, 2]


def test_both_captions_and_prompts_where_rollouts_follow(flux_folder: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a ship\na boat")
    sets = encode(flux_folder, photos, tmp_path, str(tmp_path / "train.txt"), until_update=1)
    assert sets.images and sets.images.captions.num_prompts == 8
    assert load_prompt_set(sets.train)[0] == ["a ship", "a boat"]


def test_what_is_encoded_is_not_encoded_again(
    flux_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode_images = FluxVae.encode
    monkeypatch.setattr(FluxVae, "encode", lambda vae, images: seen.append(len(images)) or encode_images(vae, images))
    first = encode(flux_folder, photos, tmp_path)
    assert seen == [1] * 8
    kept = shards(tmp_path)
    assert encode(flux_folder, photos, tmp_path) == first
    (photos / "scene-0000.png").rename(photos / "another-name.png")
    (photos / "scene-0000.txt").rename(photos / "another-name.txt")
    Image.open(photos / "scene-0001.png").rotate(180).save(photos / "scene-0001.png")
    later = encode(flux_folder, photos, tmp_path)
    assert seen == [1] * 9, "only the one whose content has changed"
    assert kept.items() < shards(tmp_path).items()
    assert first.images and later.images and first.images.sha256 != later.images.sha256


def test_a_kill_loses_the_shard_in_progress_alone(
    flux_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(flux_folder, photos, tmp_path / "whole")

    def stop_after_one(self: ImageEncoding, places: Sequence[int], device: torch.device) -> Iterator[int]:
        yield from share(self, places[:1], device)
        raise KeyboardInterrupt

    share = ImageEncoding.share
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageEncoding, "share", stop_after_one)
        encode(flux_folder, photos, tmp_path)
    kept = shards(tmp_path)
    assert len(kept) == 1
    resumed = encode(flux_folder, photos, tmp_path)
    assert kept.items() < shards(tmp_path).items()
    assert whole.images and resumed.images and whole.images.sha256 == resumed.images.sha256
    assert [file.sha256 for file in whole.images.snapshot.files] == [
        file.sha256 for file in resumed.images.snapshot.files
    ]


def test_another_vae_another_store(flux_folder: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(flux_folder, folder)
    first = encode(folder, photos, tmp_path).images
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.4', '"scaling_factor": 0.5'))
    second = encode(folder, photos, tmp_path).images
    assert first and second and first.snapshot.path != second.snapshot.path and first.sha256 == second.sha256
    rows: list[StoredRows] = [load_image_set(images).latents for images in (first, second)]
    square = range(5)
    ratio = rows[1].select(square)[LATENTS] / rows[0].select(square)[LATENTS]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5 / 0.4))


def test_held_out_prompts_may_not_be_captions(flux_folder: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "wide-0.txt").write_text("a dog")
    with pytest.raises(ConfigError, match="1 held-out prompts are also trained on, for instance 'a dog'"):
        encode(flux_folder, photos, tmp_path)
