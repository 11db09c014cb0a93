"""The held-out set: its shares, which are gathered from the processes without a byte too many."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo import held_out
from srpo.artifacts import TrainJob
from srpo.config import RunConfig
from srpo.held_out import HeldOut
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
    for train, expected in (({}, [[0], [1], [2]]), ({"sharding": "fsdp2"}, [[0], [0], [1], [2]])):
        config = RunConfig.model_validate(job.config.model_dump() | settings | {"train": {"num_processes": 2, **train}})
        passes.clear()
        measured = []
        for rank in range(2):
            process: Any = SimpleNamespace(num_processes=2, process_index=rank, is_main_process=False)
            share: Any = HeldOut(config, [], None, ["a"] * 8, None, process, tmp_path)  # type: ignore[arg-type]
            measured += share.measure(None, 1, lambda: False)[0]["luminance"].tolist()
        assert (passes, measured) == (expected, [0, 1, 2])
