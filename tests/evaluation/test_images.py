"""The design and its noise depend neither on the batch size nor on the number of images; pictures survive the disk."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo.config import EvaluationConfig, ModelConfig, RunConfig
from srpo.evaluation.images import Cell, Gallery, draw, image_seed, make_design
from srpo.models import load_model

EMBEDDINGS = {
    "prompt_embeds": torch.randn(3, 12, 64, generator=torch.Generator().manual_seed(0)),
    "pooled_prompt_embeds": torch.randn(3, 64, generator=torch.Generator().manual_seed(1)),
}


def test_the_design_is_every_prompt_with_every_number() -> None:
    design = make_design(3, 2, seed=0)
    assert [(cell.prompt_index, cell.number) for cell in design] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert len({cell.seed for cell in design}) == 6


def test_more_seeds_or_prompts_leave_the_others_noise_as_it_was() -> None:
    small, large = make_design(2, 2, seed=5), make_design(4, 7, seed=5)
    assert set(small) < set(large)
    assert not {cell.seed for cell in small} & {cell.seed for cell in make_design(2, 2, seed=6)}


def test_seeds_are_stable_across_versions() -> None:
    assert image_seed(0, 0, 0) == 2968811710


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_does_not_change_a_picture(flux_folder: Path, batch_size: int) -> None:
    def images(size: int) -> torch.Tensor:
        config = RunConfig(
            model=ModelConfig(height=32, width=32), evaluation=EvaluationConfig(num_steps=2, batch_size=size)
        )
        model = load_model(config.model, flux_folder)
        batches = draw(model, config, EMBEDDINGS, make_design(3, 2, 0), torch.device("cpu"))
        return torch.cat([images for _, images in batches])

    torch.testing.assert_close(images(batch_size), images(6), atol=1e-5, rtol=0)


def test_small_pictures_are_kept_exactly_and_large_ones_as_thumbnails(tmp_path: Path) -> None:
    gallery, cell = Gallery(tmp_path / "small"), Cell(1, 2, 3)
    pixels = torch.randint(0, 256, (3, 32, 48), generator=torch.Generator().manual_seed(0))
    gallery.add(cell, pixels / 255)
    with Image.open(gallery.find(cell)) as picture:
        assert picture.size == (48, 32)
        assert torch.equal(torch.tensor(list(picture.get_flattened_data())).T.reshape(3, 32, 48), pixels)
    gallery.add(Cell(4, 5, 6), torch.rand(3, 600, 1200))
    with Image.open(gallery.find(Cell(4, 5, 6))) as picture:
        assert (picture.size, picture.format) == ((512, 256), "JPEG")
