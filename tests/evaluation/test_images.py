"""The design and its noise depend neither on the batch size nor on the number of images; pictures survive the disk."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo.config import EvaluationConfig
from srpo.config import ModelConfig as Model
from srpo.evaluation.images import Cell, Gallery, draw, image_seed, make_design
from srpo.models import load_model
from srpo.prompts import Prompt

PROMPTS = [Prompt(f"prompt {index}", "odd" if index % 2 else "even") for index in range(4)]
EMBEDDINGS = {
    "prompt_embeds": torch.randn(3, 12, 64, generator=torch.Generator().manual_seed(0)),
    "pooled_prompt_embeds": torch.randn(3, 64, generator=torch.Generator().manual_seed(1)),
}


def embeddings(cells: list[Cell]) -> dict[str, torch.Tensor]:
    return {name: tensor[[cell.prompt_index for cell in cells]] for name, tensor in EMBEDDINGS.items()}


def test_the_design_is_every_prompt_with_every_number() -> None:
    design = make_design(PROMPTS, [0, 1, 3], 2, seed=0)
    assert [(cell.prompt_index, cell.number) for cell in design] == [(0, 0), (0, 1), (1, 0), (1, 1), (3, 0), (3, 1)]
    assert [(cell.prompt, cell.category) for cell in design[::2]] == [PROMPTS[0], PROMPTS[1], PROMPTS[3]]
    assert len({cell.seed for cell in design}) == 6


def test_more_seeds_or_prompts_leave_the_others_noise_as_it_was() -> None:
    small, large = make_design(PROMPTS, [0, 3], 2, seed=5), make_design(PROMPTS, range(4), 7, seed=5)
    assert set(small) < set(large)
    assert not {cell.seed for cell in small} & {cell.seed for cell in make_design(PROMPTS, [0, 3], 2, seed=6)}


def test_seeds_are_stable_across_versions() -> None:
    assert image_seed(0, 0, 0) == 2968811710


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_does_not_change_a_picture(flux_folder: Path, batch_size: int) -> None:
    model, design = load_model(Model(height=32, width=32), flux_folder), make_design(PROMPTS, range(3), 2, 0)

    def images(size: int) -> torch.Tensor:
        batches = [design[start : start + size] for start in range(0, 6, size)]
        settings, device = EvaluationConfig(num_steps=2), torch.device("cpu")
        return torch.cat([draw(model, (32, 32), settings, embeddings(batch), batch, device) for batch in batches])

    torch.testing.assert_close(images(batch_size), images(6), atol=1e-5, rtol=0)


def test_small_pictures_are_kept_exactly_and_large_ones_as_thumbnails(tmp_path: Path) -> None:
    gallery, cell, large = Gallery(tmp_path / "here"), Cell(1, "a dog", "", 2, 3), Cell(4, "a cat", "", 5, 6)
    pixels = torch.randint(0, 256, (3, 32, 48), generator=torch.Generator().manual_seed(0))
    assert not gallery.has(cell)
    gallery.add(cell, pixels / 255)
    assert gallery.has(cell)
    with Image.open(gallery.find(cell)) as picture:
        assert picture.size == (48, 32)
        assert torch.equal(torch.tensor(list(picture.get_flattened_data())).T.reshape(3, 32, 48), pixels)
    gallery.add(large, torch.rand(3, 600, 1200))
    with Image.open(gallery.find(large)) as picture:
        assert (picture.size, picture.format) == ((512, 256), "JPEG")


def test_a_picture_is_known_by_its_prompt_and_seed_wherever_they_stand(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    gallery.add(Cell(1, "a dog", "", 2, 3), torch.rand(3, 8, 8))
    assert gallery.has(Cell(7, "a dog", "animals", 0, 3))
    assert not gallery.has(Cell(1, "a dog", "", 2, 4))
    assert not gallery.has(Cell(1, "a cat", "", 2, 3))
    gallery.find(Cell(1, "a dog", "", 2, 3)).write_bytes(b"")
    assert not gallery.has(Cell(1, "a dog", "", 2, 3)), "which must be drawn again"
