"""Images in a bucket: planned without fetching, fetched once, then the same as in a folder."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import fingerprint
from srpo.artifacts import Weights
from srpo.config import RunConfig, load_config
from srpo.embedding import embed
from srpo.errors import ConfigError
from srpo.hub import fetch
from srpo.plan import make_plan
from tests.conftest import CONFIG, SHORT
from tests.images import scenes
from tests.s3 import BUCKET

SOURCE = f"s3://{BUCKET}/photos"


@pytest.fixture
def photos(bucket: Any, tmp_path: Path) -> Path:
    """Three images with captions, in the bucket and in a folder."""
    folder = tmp_path / "photos"
    scenes.write(folder, 3)
    for path in folder.iterdir():
        bucket.put_object(Bucket=BUCKET, Key=f"photos/{path.name}", Body=path.read_bytes())
    return folder


def config_of(source: object) -> RunConfig:
    return load_config(CONFIG, (*SHORT, f"images.source={source}"))


def finding(tmp_path: Path) -> str:
    plan = make_plan(config_of(SOURCE), tmp_path, ("embed",))
    return next(check.finding for check in plan.checks if check.subject == "images")


def test_images_of_a_bucket_are_those_of_a_folder(photos: Path, store: Path, tmp_path: Path) -> None:
    assert finding(tmp_path).startswith(f"{SOURCE}: 3 images, ")
    assert not (store / "files").exists(), "a plan fetches nothing"
    weights = fetch("builtin:shapes", "model")
    sets = []
    for source in (SOURCE, photos):
        config = config_of(source)
        both = Weights(model=weights, reward=weights)
        sets.append(embed(config.model, config.prompts, config.images, both, tmp_path / "embeddings").images)
    assert sets[0] and sets[1] and sets[0].sha256 == sets[1].sha256
    assert sets[0].snapshot.files == sets[1].snapshot.files and sets[0].snapshot.source == SOURCE
    assert finding(tmp_path).startswith("3 images (32x32: 3); ")


def test_a_missing_caption_is_known_before_anything_is_fetched(photos: Path, bucket: Any, tmp_path: Path) -> None:
    before = fingerprint.of_images(SOURCE)
    bucket.delete_object(Bucket=BUCKET, Key="photos/scene-0001.txt")
    assert fingerprint.of_images(SOURCE) != before
    with pytest.raises(ConfigError, match=r"1 images in .* have no caption beside them: scene-0001.png"):
        finding(tmp_path)


def test_the_fingerprint_of_a_folder_follows_images_and_captions(photos: Path) -> None:
    seen = [fingerprint.of_images(str(photos))]
    (photos / "scene-0001.txt").write_text("another caption")
    seen.append(fingerprint.of_images(str(photos)))
    (photos / "scene-0002.png").unlink()
    seen.append(fingerprint.of_images(str(photos)))
    assert len(set(seen)) == 3 and fingerprint.of_images(str(photos)) == seen[-1]
