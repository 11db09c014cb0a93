"""What a plan knows of the images is what embedding then makes of them."""

from pathlib import Path

import pytest
from PIL import Image

from srpo.artifacts import Weights
from srpo.config import RunConfig, load_config
from srpo.embedding import embed
from srpo.errors import ConfigError
from srpo.forecast.cost import count
from srpo.forecast.footprint import disk_needed
from srpo.hub import fetch, resolve
from srpo.images.survey import latent_bytes
from srpo.models import model_skeleton, text_skeleton
from srpo.plan import make_plan
from srpo.rewards import reward_skeleton
from tests.conftest import CONFIG, SHORT
from tests.images import scenes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    written = scenes.write(folder, 6)
    for path, _ in written[:2]:
        Image.open(path).resize((40, 24)).save(path)
    clear = Image.open(written[5][0])
    clear.putalpha(100)
    clear.save(written[5][0])
    return folder


def config_of(photos: Path, *overrides: str) -> RunConfig:
    return load_config(CONFIG, (*SHORT, f"images.source={photos}", *overrides))


def test_a_plan_counts_images_shapes_and_bytes(photos: Path, tmp_path: Path) -> None:
    config = config_of(photos, "train.batch_size=3")
    plan = make_plan(config, tmp_path, ("embed",))
    findings = {check.subject: check.finding for check in plan.checks}
    assert findings["images"] == (
        "6 images (40x24: 2, 32x32: 4); 1 are transparent and laid on white; latents of 0.0115 MiB for updates 1 to 2; "
        "fewer than train.batch_size in 40x24, so a micro-batch repeats some; "
        "rollout.num_steps, rollout.noise without effect, because nothing is rolled out"
    )
    assert findings["prompts"].startswith("6 captions of images, 0 to roll out, 30 held out")
    assert latent_bytes(config) == 4 * 8 * (4 * 64 + 2 * 60)
    assert plan.disk_needed == disk_needed(config, ("embed",)) > latent_bytes(config)
    weights = fetch(config.model.source, "model")
    sets = embed(config.model, config.prompts, config.images, Weights(model=weights, reward=weights), tmp_path)
    assert sets.images
    *_, small, large = sorted(file.size for file in sets.images.snapshot.files)
    headers = 2 * 1000
    assert latent_bytes(config) < small + large < latent_bytes(config) + headers


def test_bad_images_are_refused_with_everything_else_that_is_wrong(photos: Path, tmp_path: Path) -> None:
    (photos / "scene-0003.txt").unlink()
    with pytest.raises(ConfigError) as caught:
        make_plan(config_of(photos, "reward.family=vibes"), tmp_path)
    text = str(caught.value)
    assert "no reward family named 'vibes'" in text and text.count("scene-0003.png: no caption") == 1


def test_words_for_a_caption_are_known(photos: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.csv"
    caption = (photos / "scene-0000.txt").read_text().strip()
    words.write_text(f"prompt,positive\n{caption},Vivid\n")
    config = config_of(photos, f"preference.words_file={words}")
    assert make_plan(config, tmp_path, ("train",))
    words.write_text("prompt,positive\na ship,Vivid\n")
    with pytest.raises(ConfigError, match="1 of its prompts are not in prompts.train, for instance 'a ship'"):
        make_plan(config, tmp_path, ("train",))


def test_updates_on_images_cost_no_rollout(photos: Path) -> None:
    def cost(*overrides: str) -> tuple[float, float]:
        config = config_of(photos, "train.num_updates=4", *overrides)
        model = model_skeleton(config.model, resolve(config.model.source, "model"))
        reward = reward_skeleton(config.reward, resolve(config.reward.source, "reward"))
        text = text_skeleton(config.model, resolve(config.model.source, "model"))
        counted = count(config, model, [reward], text)
        assert counted
        return counted.rollout / counted.forward, counted.gradient

    always, half, never = cost(), cost("images.until_update=2"), cost("images=null")
    assert (always[0], half[0], never[0]) == (0, 2, 4)
    assert always[1] == half[1] == never[1]
