"""Drawing: encoder and transformer take turns on the device, and that changes no pixel."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo import generate, rollout
from srpo.config import EvaluationConfig, ModelConfig
from srpo.errors import GpuMemoryError
from srpo.evaluation import images
from srpo.generate import Painter, Sampling
from srpo.models import load_model, load_text_encoder
from srpo.models.flux import Flux, FluxText
from srpo.prompts import Prompt

PROMPTS = ["a red circle", "a green ring on a blue background", "a blue square"]
SAMPLING = Sampling(seed=5, num_steps=2)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is moved where, in order: `gpu` is the painter's device, which here goes by the name of cpu:0."""
    log: list[str] = []
    for cls in (Flux, FluxText):

        def to(self: Any, device: torch.device, moved: Any = cls.to) -> Any:
            log.append(f"{type(self).__name__} {'gpu' if device.index == 0 else 'cpu'}")
            return moved(self, device)

        monkeypatch.setattr(cls, "to", to)
    return log


def painter(folder: Path, device: str = "cpu") -> Painter:
    return Painter(ModelConfig(source=str(folder), height=32, width=32, max_sequence_length=12), folder, None, device)


def test_few_at_once_draw_what_all_at_once_draw(flux_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(painter(flux_folder).tensors(PROMPTS, SAMPLING))
    monkeypatch.setattr(generate, "AT_ONCE", 2)
    for first, second in zip(whole, painter(flux_folder).tensors(PROMPTS, SAMPLING), strict=True):
        assert torch.equal(first, second)
    (alone,) = painter(flux_folder).draw([(PROMPTS[2], 7)], SAMPLING)
    assert torch.equal(alone, whole[2])


def test_encoder_and_model_take_turns(flux_folder: Path, monkeypatch: pytest.MonkeyPatch, moves: list[str]) -> None:
    """And no encoder is left when a model is loaded."""
    import gc

    monkeypatch.setattr(generate, "AT_ONCE", 2)
    load = generate.load_model

    def load_model(*arguments: Any) -> Any:
        assert not [thing for thing in gc.get_objects() if type(thing) is FluxText]
        return load(*arguments)

    monkeypatch.setattr(generate, "load_model", load_model)
    assert len(list(painter(flux_folder, "cpu:0").tensors(PROMPTS, SAMPLING))) == 3
    turns = [turn for turn, _ in groupby(moves)]
    assert turns == ["FluxText gpu", "Flux gpu", "Flux cpu", "FluxText gpu", "Flux gpu"]


def test_a_gpu_that_is_too_small_is_told_with_what_spares_memory(
    flux_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Painter, "_draw", fill)
    with pytest.raises(GpuMemoryError, match=r"\(CUDA out of memory\); keep the weights in fewer bits \(--weights nf4"):
        list(painter(flux_folder).tensors(PROMPTS, SAMPLING))


def test_pictures_are_drawn_in_tf32_and_nothing_else_is(flux_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes eight times as long for whole float32 products; rewards and training stay exact."""
    kinds, seen, sample = (torch.backends.cuda.matmul, torch.backends.cudnn.conv), [], rollout.sample
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as in training; torch's default is True
    before = [kind.fp32_precision for kind in kinds]

    def spy(*arguments: Any) -> Any:
        seen.append([kind.fp32_precision for kind in kinds])
        return sample(*arguments)

    for module in (generate, images):
        monkeypatch.setattr(module, "sample", spy)
    (picture,) = painter(flux_folder).draw([(PROMPTS[0], 5)], SAMPLING)
    (cell,) = images.make_design([Prompt(PROMPTS[0])], [0], 1, seed=0)
    model = load_model(ModelConfig(source=str(flux_folder)), flux_folder)
    embeddings = load_text_encoder(ModelConfig(), flux_folder).encode_prompts([PROMPTS[0]], 12)
    settings = EvaluationConfig(num_steps=2, guidance=SAMPLING.guidance)
    drawn = images.draw(model, (32, 32), settings, embeddings, [replace(cell, seed=5)], torch.device("cpu"))
    assert seen == [["tf32", "tf32"]] * 2
    assert [kind.fp32_precision for kind in kinds] == before != seen[0]
    assert torch.equal(drawn[0], picture), "an evaluation and the version that it judged draw the same"
