"""The held-out set: its shares, which are gathered from the processes without a byte too many."""

import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo import held_out
from srpo.artifacts import TrainJob
from srpo.config import RunConfig
from srpo.evaluation.images import MONITOR, Cell, draw, image_seed
from srpo.evaluation.pairs import DRIFT
from srpo.evaluation.scores import Scorer, Scores
from srpo.forecast.cuda_rules import cuda_autocast
from srpo.held_out import HeldOut
from srpo.models import load_model
from srpo.shapes import SIZE, TEXT_TOKENS, WEIGHTS_DIR
from tests.jobs import place, run


def test_pictures_are_gathered_once(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What travels is pickled, and a view with the whole of its storage."""
    sent: list[int] = []
    monkeypatch.setattr(held_out, "gather_object", lambda own: sent.append(len(pickle.dumps(own))) or own)
    monitor = job.config.monitor.model_copy(update={"num_images": 4, "strip_images": 3})
    job = job.model_copy(update={"config": job.config.model_copy(update={"monitor": monitor})})
    run(place(job, tmp_path, num_updates=1))
    image, names = 3 * 32 * 32 * 4, 1000
    strip, small, _ = sent[:3]
    assert 3 * image < strip < 3 * image + names
    assert 4 * image < small < 4 * image + names


def test_a_list_sorted_by_category_is_watched_in_all_of_them(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"monitor": {"num_images": 8, "share": 0.25}})
    categories = [name for name in "abcd" for _ in range(40)]
    watched = HeldOut(config, [], None, categories, None, None, tmp_path).places  # type: ignore[arg-type]
    assert [categories[place] for place in watched] == [*"aabbccdd"]


def test_where_a_model_is_sliced_all_take_part_in_each_pass(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pictures on two processes: one of them draws a picture for nothing, which is not measured."""
    passes: list[list[int]] = []

    def draw(_: HeldOut, __: object, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        passes.append(indices)
        return torch.zeros(len(indices), 3, 8, 8), {"luminance": torch.tensor(indices)}

    monkeypatch.setattr(HeldOut, "_batch", draw)
    monkeypatch.setattr(held_out, "gather_object", lambda own: own)
    settings = {"monitor": {"num_images": 3}, "evaluation": {"batch_size": 1}}
    two = {"num_processes": 2, "precision": "fp32"}
    for train, expected in (({}, [[0], [1], [2]]), ({"sharding": "fsdp2"}, [[0], [0], [1], [2]])):
        config = RunConfig.model_validate(job.config.model_dump() | settings | {"train": two | train})
        passes.clear()
        measured = []
        for rank in range(2):
            process: Any = SimpleNamespace(num_processes=2, process_index=rank, is_main_process=False, device=None)
            share: Any = HeldOut(config, [], None, ["a"] * 8, Scorer([]), process, tmp_path)  # type: ignore[arg-type]
            measured += share.measure(None, 1, lambda: False)[0]["luminance"].tolist()
        assert (passes, measured) == (expected, [0, 1, 2])


class Brightness(Scorer):
    """Needs no reward."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return {"luminance": images.mean((1, 2, 3))}


def test_bf16_autocast_sees_a_movement_below_half_a_unit_as_an_evaluation_does(tmp_path: Path) -> None:
    """Weights on bf16's grid that a training has made brighter by steps which rounding to nearest would undo."""
    settings = {"model": {"height": SIZE, "width": SIZE}, "monitor": {"num_images": 4}, "evaluation": {"num_steps": 6}}
    config = RunConfig.model_validate(settings)
    assert config.train.precision == "bf16"
    model = load_model(config.model, WEIGHTS_DIR / "flux")
    weights = dict(model.transformer.named_parameters())
    for weight in weights.values():
        weight.data = weight.data.bfloat16().float()
    noise, blank = torch.randn(4, *model.latent_shape(SIZE, SIZE)), model.blank_embeddings(4, TEXT_TOKENS)
    model.decode(noise - model.velocity(noise, torch.ones(4), blank, 3.5)).mean().backward()

    device = torch.device("cpu")
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    process: Any = SimpleNamespace(
        num_processes=1, process_index=0, is_main_process=True, autocast=autocast, device=device
    )
    rows: Any = SimpleNamespace(select=lambda places, _: model.blank_embeddings(len(places), TEXT_TOKENS))
    held_out = HeldOut(config, [""] * 20, rows, ["a"] * 20, Brightness([]), process, tmp_path)
    cells = [Cell(place, "", "a", 0, image_seed(config.seed, place, 0, MONITOR)) for place in held_out.places]

    pictures, drifts = [], []
    for update in (0, 1):
        pictures.append(draw(model, (SIZE, SIZE), config.evaluation, blank, cells, device))
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        with cuda_autocast():
            measured = held_out.measure(model, update, lambda: False, of_base=update == 0)
        assert measured
        drifts.append(measured[1][DRIFT])
        assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
        for weight in weights.values():
            weight.data += 2e-5 * weight.grad.sign()
    true = float((pictures[1] - pictures[0]).square().mean((1, 2, 3)).sqrt().mean())
    assert drifts == [0, pytest.approx(true, rel=0.2)]
    assert true > 0.01
