"""The evaluation benchmark: as many prompts as it says, all of the world, and three models that are not the same."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.evaluation import NUM_PROMPTS, captions, write_models
from srpo.shapes import WEIGHTS_DIR
from srpo.shapes.render import parse_caption


def test_the_prompts_are_different_captions_of_the_world() -> None:
    prompts = captions()
    assert len(set(prompts)) == len(prompts) == NUM_PROMPTS == 200
    assert len({parse_caption(prompt) for prompt in prompts}) == 150


def test_the_models_differ_a_little_from_their_base(tmp_path: Path) -> None:
    base = load_file(WEIGHTS_DIR / "flux" / "transformer" / "diffusion_pytorch_model.safetensors")
    whole, *others = write_models(tmp_path)
    assert whole == "builtin:shapes"
    first, second = (load_file(Path(other) / "diffusion_pytorch_model.safetensors") for other in others)
    for other in (first, second):
        assert all(torch.allclose(other[name], weight.float(), rtol=0.1) for name, weight in base.items())
    assert all(not torch.equal(first[name], second[name]) for name, weight in base.items() if weight.any())
