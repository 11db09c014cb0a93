"""Training on real images: no rollout, each with its own latents and caption, a stop invisible after resuming."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo.artifacts import TrainJob
from srpo.batches import Batches
from srpo.config import RunConfig
from srpo.embedding import embed
from srpo.errors import ConfigError
from srpo.images.encode import to_tensor
from srpo.rollout import Rollout
from tests.images import scenes
from tests.jobs import assert_same_weights, killed, place, run


@pytest.fixture(scope="module")
def offline(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """Two updates on real images of two shapes, then one that rolls out."""
    root = tmp_path_factory.mktemp("offline")
    for index, (path, _) in enumerate(scenes.write(root / "photos", 7, "Bright")):
        if index % 2:
            Image.open(path).resize((40, 24)).save(path)
    data = job.config.model_dump() | {"images": {"source": str(root / "photos"), "until_update": 2}}
    data["train"] |= {"num_updates": 3, "save_every": 1}
    data["monitor"] |= {"every": 3, "num_images": 2}
    data["evaluation"] |= {"num_steps": 1}
    config = RunConfig.model_validate(data)
    prompts = embed(config.model, config.prompts, config.images, job.weights, root / "embeddings")
    return TrainJob(config=config, weights=job.weights, prompts=prompts, output_dir="")


@pytest.fixture(scope="module")
def whole(offline: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("whole")
    run(place(offline, output_dir))
    return output_dir


@pytest.mark.parametrize(("update", "moment"), [(2, "log"), (2, "save"), (3, "log")])
def test_a_stop_is_invisible_after_resuming(
    offline: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int, moment: str
) -> None:
    with killed(monkeypatch, update, moment):
        run(place(offline, tmp_path))
    run(place(offline, tmp_path))
    assert_same_weights(whole, tmp_path, 3)


def test_images_first_and_rollouts_after_them(
    offline: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[str] = []
    kept: list[torch.Tensor] = []
    assert offline.config.images
    files = Path(offline.config.images.source).glob("*.png")
    pictures = {path.with_suffix(".txt").read_text().strip(): Image.open(path) for path in files}

    def note(name: str) -> None:
        original = getattr(Batches, name)

        def noted(self: Batches, *arguments: object) -> Rollout:
            sources.append(name)
            rollout: Rollout = original(self, *arguments)
            assert rollout.x0.shape == rollout.noise.shape and len(rollout.prompts) == len(rollout.x0) == 2
            if name == "_read":
                images = [to_tensor(pictures[caption]) for caption in rollout.prompts]
                expected = torch.cat([self.model.encode(image) for image in images])
                torch.testing.assert_close(rollout.x0, expected)
                kept.append(rollout.noise)
            return rollout

        monkeypatch.setattr(Batches, name, noted)

    note("_read")
    note("_roll_out")
    run(place(offline, tmp_path))
    assert sources == ["_read"] * 4 + ["_roll_out"] * 2, "two micro-batches in each of three updates"
    noises = [noise for batch in kept for noise in batch]
    assert not any(torch.equal(a, b) for a, b in combinations(noises, 2) if a.shape == b.shape), "fresh for each use"


def test_a_run_goes_on_only_with_its_images(offline: TrainJob, tmp_path: Path) -> None:
    run(place(offline, tmp_path))
    assert offline.config.images and offline.prompts.images
    images = offline.prompts.images.model_copy(update={"sha256": "another"})
    with pytest.raises(ConfigError, match=r"another content of images\.source"):
        run(
            place(
                offline.model_copy(update={"prompts": offline.prompts.model_copy(update={"images": images})}), tmp_path
            )
        )
    later = offline.config.images.model_copy(update={"until_update": 1})
    changed = offline.model_copy(update={"config": offline.config.model_copy(update={"images": later})})
    with pytest.raises(ConfigError, match="other settings in images"):
        run(place(changed, tmp_path))
